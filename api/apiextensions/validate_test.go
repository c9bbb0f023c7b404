package apiextensions

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/google/go-cmp/cmp"
)

// definitions are definitions, mostly broken ones, as changes to one that is
// well, with the causes and warnings that a client of Kubernetes 1.36.2 gets
// (recorded by posting them to its API server).
//
//go:embed testdata/definitions.jsonl
var definitions []byte

type recorded struct {
	Base     map[string]any
	Name     string
	Set      map[string]any // by path; null takes away
	Errors   []string
	Warnings []string
}

func TestDefinitionsAsRecorded(t *testing.T) {
	var base []byte
	lines := bufio.NewScanner(bytes.NewReader(definitions))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Base != nil {
			base, _ = json.Marshal(r.Base)
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			var changed any
			if err := json.Unmarshal(base, &changed); err != nil {
				t.Fatal(err)
			}
			for path, value := range r.Set {
				changed = set(t, changed, strings.Split(path, "/"), value)
			}
			text, _ := json.Marshal(changed)
			d := &extv1.CustomResourceDefinition{}
			if err := json.Unmarshal(text, d); err != nil {
				t.Fatal(err)
			}
			SetDefaults(d)
			prepareCreate(d)
			var got []string
			for _, e := range Validate(d) {
				got = append(got, e.Error())
			}
			slices.Sort(got)
			if diff := cmp.Diff(r.Errors, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(r.Warnings, append([]string(nil), warnings(d, nil)...)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if len(got) == 0 && len(ValidateUpdate(d, d.DeepCopy())) > 0 {
				t.Error("what was accepted is refused when it comes again")
			}
		})
	}
	if base == nil {
		t.Fatal("nothing recorded")
	}
}

func set(t *testing.T, v any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch v := v.(type) {
	case map[string]any:
		if len(path) == 1 && value == nil {
			delete(v, path[0])
			return v
		}
		v[path[0]] = set(t, v[path[0]], path[1:], value)
		return v
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i >= len(v) {
			t.Fatalf("no element %s", path[0])
		}
		v[i] = set(t, v[i], path[1:], value)
		return v
	}
	t.Fatalf("nothing at %s", path[0])
	return nil
}
