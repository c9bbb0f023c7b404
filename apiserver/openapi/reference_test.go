package openapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// reference finds the folder of upstream's published documents, which is not
// part of the tree, or skips the test.
func reference(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("COX_REFERENCE")
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(file), "../../../shared/reference")
	}
	dir = filepath.Join(dir, "openapi")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no reference documents: %v (set COX_REFERENCE)", err)
	}
	return dir
}

func readJSON(t *testing.T, path string) any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func embedded(t *testing.T, file string) any {
	t.Helper()
	f, err := documents.Open("zz_documents/" + file + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.NewDecoder(z).Decode(&v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return v
}

// tolerated removes from both sides what may differ: CBOR, which is not
// served; in v2 the list of all group versions that know DeleteOptions and
// WatchEvent; the enumerations, which a server publishes but upstream's
// repository does not.
func tolerated(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if strings.Contains(k, "cbor") || k == "enum" || k == "x-kubernetes-group-version-kind" && long(e) {
				delete(v, k)
				continue
			}
			if s, ok := e.(string); ok && k == "description" {
				s, _, _ = strings.Cut(s, "\n\nPossible enum values:")
				v[k] = strings.TrimSpace(s) // upstream's keeps a line's end here and there
				continue
			}
			v[k] = tolerated(e)
		}
		return v
	case []any:
		v = slices.DeleteFunc(v, func(e any) bool {
			s, ok := e.(string)
			return ok && strings.Contains(s, "cbor")
		})
		for i := range v {
			v[i] = tolerated(v[i])
		}
		return v
	}
	return v
}

func long(v any) bool {
	list, ok := v.([]any)
	return ok && len(list) > 10
}

// differ reports where ours differs from theirs. What only they have is left
// out of the maps named in extra, because they serve more kinds.
func differ(path string, ours, theirs any, report func(path, what string)) {
	o, ok1 := ours.(map[string]any)
	t, ok2 := theirs.(map[string]any)
	if !ok1 || !ok2 {
		if !reflect.DeepEqual(ours, theirs) {
			report(path, fmt.Sprintf("%.300s, upstream %.300s", brief(ours), brief(theirs)))
		}
		return
	}
	for k, e := range o {
		if te, ok := t[k]; ok {
			differ(path+"/"+k, e, te, report)
		} else {
			report(path+"/"+k, "only here: "+brief(e))
		}
	}
	for k := range t {
		if _, ok := o[k]; !ok {
			report(path+"/"+k, "missing, upstream "+brief(t[k]))
		}
	}
}

func brief(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%.300s", text)
}

// Whatever is in our documents must be as upstream publishes it; what we do
// not serve yet is listed in the log.
func TestAgainstReference(t *testing.T) {
	dir := reference(t)
	t.Run("v2", func(t *testing.T) {
		ours, theirs := tolerated(embedded(t, "v2")).(map[string]any), tolerated(readJSON(t, filepath.Join(dir, "v2.json"))).(map[string]any)
		for _, part := range []string{"paths", "definitions", "parameters"} {
			compareParts(t, part, ours[part].(map[string]any), theirs[part].(map[string]any))
		}
		for _, part := range []string{"info", "security", "securityDefinitions", "swagger"} {
			differ(part, ours[part], theirs[part], func(path, what string) { t.Errorf("%s: %s", path, what) })
		}
	})
	for _, d := range index {
		path, ok := strings.CutPrefix(d.path, "v3/")
		if !ok || extra(path) {
			continue
		}
		t.Run(path, func(t *testing.T) {
			file := filepath.Join(dir, "v3", strings.ReplaceAll(path, "/", "__")+"_openapi.json")
			ours, theirs := tolerated(embedded(t, d.file)).(map[string]any), tolerated(readJSON(t, file)).(map[string]any)
			compareParts(t, "paths", ours["paths"].(map[string]any), theirs["paths"].(map[string]any))
			schemas := func(doc map[string]any) map[string]any {
				m, _ := doc["components"].(map[string]any)["schemas"].(map[string]any)
				return m
			}
			compareParts(t, "schemas", schemas(ours), schemas(theirs))
		})
	}
}

// extra is what upstream leaves to metrics-server.
func extra(name string) bool {
	return strings.Contains(name, "apis/metrics.k8s.io") || strings.HasPrefix(name, "io.k8s.metrics.") ||
		name == "io.k8s.apimachinery.pkg.apis.meta.v1.Duration"
}

func compareParts(t *testing.T, part string, ours, theirs map[string]any) {
	t.Helper()
	for _, name := range sorted(ours) {
		if extra(name) {
			continue
		}
		if _, ok := theirs[name]; !ok {
			t.Errorf("%s %s: upstream has none", part, name)
			continue
		}
		differ(name, ours[name], theirs[name], func(path, what string) { t.Errorf("%s %s: %s", part, path, what) })
	}
	var missing []string
	for _, name := range sorted(theirs) {
		if _, ok := ours[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Logf("%s that only upstream has: %s", part, strings.Join(missing, " "))
	}
}

func sorted(m map[string]any) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
