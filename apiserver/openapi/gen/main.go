// Command gen writes the OpenAPI documents that the API server serves: the
// table of kinds goes in, compressed documents come out in the directory that
// it is given. Run it by go generate in apiserver/openapi whenever a kind, a
// view or a subresource is added, or the k8s.io modules are raised.
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"go/format"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/openapi/document"
)

const self = "github.com/coxswain/cox/apiserver/openapi/gen"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: gen DIRECTORY")
	}
	table, err := builtin.With(builtin.Everything())
	if err != nil {
		log.Fatal(err)
	}
	if definitions == nil {
		err = generateAndRunAgain(table, os.Args[1])
	} else {
		err = write(table, os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// generateAndRunAgain makes the definitions in a temporary directory and runs
// this program with them.
func generateAndRunAgain(table *api.Table, out string) error {
	tmp, err := os.MkdirTemp("", "openapi")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", self).Output()
	if err != nil {
		return fmt.Errorf("find the source of %s: %w", self, err)
	}
	src := strings.TrimSpace(string(dir))

	packages := typePackages(table)
	args := []string{
		"run", "k8s.io/kube-openapi/cmd/openapi-gen",
		"--output-dir", tmp, "--output-pkg", self, "--output-file", "zz_definitions.go",
		"--go-header-file", os.DevNull, "--report-filename", filepath.Join(tmp, "violations"),
		"--output-model-name-file", "zz_generated.model_name.go", "--readonly-pkg", strings.Join(packages, ","),
	}
	if err := run("go", append(args, packages...)...); err != nil {
		return err
	}
	generated := filepath.Join(tmp, "zz_definitions.go")
	source, err := os.ReadFile(generated)
	if err != nil {
		return err
	}
	source = bytes.Replace(source, []byte("package gen\n"), []byte("package main\n"), 1)
	pointer := "package main\n\nimport \"k8s.io/kube-openapi/pkg/common\"\n\nvar definitions common.GetOpenAPIDefinitions = GetOpenAPIDefinitions\n"
	over := filepath.Join(tmp, "definitions.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(src, "definitions.go"):    over,
		filepath.Join(src, "zz_definitions.go"): generated,
	}})
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{generated: source, over: []byte(pointer), filepath.Join(tmp, "overlay.json"): overlay} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return run("go", "run", "-overlay", filepath.Join(tmp, "overlay.json"), self, out)
}

// typePackages lists the Go packages of every type in the scheme, and those
// that their fields come from beside them.
func typePackages(table *api.Table) []string {
	set := map[string]bool{
		"k8s.io/apimachinery/pkg/api/resource": true, "k8s.io/apimachinery/pkg/util/intstr": true,
		"k8s.io/apimachinery/pkg/runtime": true, "k8s.io/apimachinery/pkg/version": true,
	}
	for _, t := range table.Scheme.AllKnownTypes() {
		set[t.PkgPath()] = true
	}
	var list []string
	for p := range set {
		if !strings.Contains(p, "/internalversion") && !strings.HasSuffix(p, "/meta/v1beta1") && p != "k8s.io/apimachinery/pkg/watch" {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0]+" "+args[1], err)
	}
	return nil
}

// entry is one line of the index that the handler is compiled with.
type entry struct{ path, file, hash string }

// write builds the documents and stores each as gzipped JSON and gzipped
// protobuf, with an index; and what group versions that are not served by
// default add to them.
func write(all *api.Table, out string) error {
	table, err := builtin.New()
	if err != nil {
		return err
	}
	set, err := document.Build(table, definitions)
	if err != nil {
		return err
	}
	full, err := document.Build(all, definitions)
	if err != nil {
		return err
	}
	dir := filepath.Join(out, "zz_documents")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index []entry
	add := func(path string, doc json.Marshaler, binary func([]byte) ([]byte, error)) error {
		text, err := doc.MarshalJSON()
		if err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
		e := entry{path, strings.NewReplacer("/", "_", ".well-known", "well-known").Replace(path), fmt.Sprintf("%X", sha512.Sum512(text))}
		index = append(index, e)
		if binary == nil { // it is only ever a part of another
			e.file += "_optional"
			index[len(index)-1] = e
			return compress(filepath.Join(dir, e.file+".json.gz"), text)
		}
		if err := compress(filepath.Join(dir, e.file+".json.gz"), text); err != nil {
			return err
		}
		pb, err := binary(text)
		if err != nil {
			return fmt.Errorf("encode %s as protobuf: %w", path, err)
		}
		return compress(filepath.Join(dir, e.file+".pb.gz"), pb)
	}
	if err := add("v2", set.V2, v2Binary); err != nil {
		return err
	}
	for path, doc := range set.V3 {
		if err := add("v3/"+path, doc, v3Binary); err != nil {
			return err
		}
	}
	byDefault := index
	index = nil
	for path, doc := range full.V3 {
		if set.V3[path] == nil {
			if err := add("v3/"+path, doc, v3Binary); err != nil {
				return err
			}
		}
	}
	for path := range set.V2.Paths.Paths {
		delete(full.V2.Paths.Paths, path)
	}
	for name := range set.V2.Definitions {
		delete(full.V2.Definitions, name)
	}
	if err := add("v2", full.V2, nil); err != nil {
		return err
	}
	return writeIndex(filepath.Join(out, "zz_index.go"), byDefault, index)
}

func v2Binary(text []byte) ([]byte, error) {
	doc, err := openapi_v2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(doc)
}

func v3Binary(text []byte) ([]byte, error) {
	doc, err := openapi_v3.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(doc)
}

// compress writes data gzipped, without a time so that equal documents are
// equal files.
func compress(path string, data []byte) error {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, buf.Bytes(), 0o644)
}

func writeIndex(path string, index, optional []entry) error {
	var b bytes.Buffer
	b.WriteString("// Code generated by apiserver/openapi/gen. DO NOT EDIT.\n\npackage openapi\n")
	for _, list := range []struct {
		head    string
		entries []entry
	}{
		{"// index lists the documents in the order of their paths.\nvar index", index},
		{"// optionalIndex lists those of group versions that are not served by default,\n// and what they add to the v2 document.\nvar optionalIndex", optional},
	} {
		slices.SortFunc(list.entries, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
		fmt.Fprintf(&b, "\n%s = []indexed{\n", list.head)
		for _, e := range list.entries {
			fmt.Fprintf(&b, "\t{%q, %q, %q},\n", e.path, e.file, e.hash)
		}
		b.WriteString("}\n")
	}
	text, err := format.Source(b.Bytes())
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
