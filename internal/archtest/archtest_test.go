// Package archtest holds the rules of the architecture: which folder may
// import which, and what no folder may import, each with its reason.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/coxswain/cox"

// row is a folder of the tree with the folders it may import. A folder may
// always import itself and internal.
type row struct {
	folder string
	may    []string
	reason string
}

var rows = []row{
	{"internal", nil, "internal packages have no domain"},
	{"pki", nil, "certificates know nothing of what uses them"},
	{"api", nil, "a kind is data"},
	{"store", []string{"api"}, "the store knows kinds, not requests"},
	{"client", []string{"api"}, "components see the API only through the door"},
	{"apiserver", []string{"api", "store", "client", "pki"}, "the server is below nothing but its store"},
	{"controllers", []string{"api", "client", "pki"}, "controllers are clients and meet only in the API"},
	{"scheduler", []string{"api", "client"}, "the scheduler is a client"},
	{"datapath", nil, "the kernel's side of things knows no Kubernetes"},
	{"runtime", nil, "containers know no Kubernetes API"},
	{"kubelet", []string{"api", "client", "pki", "runtime", "datapath"}, "the kubelet is a client with a runtime"},
	{"proxy", []string{"api", "client", "datapath"}, "the proxy is a client with a kernel"},
	{"policy", []string{"api", "client", "datapath"}, "network policy is a client with a kernel"},
	{"cni", []string{"datapath"}, "the plugin starts for every pod and must stay small"},
	{"dns", []string{"api", "client"}, "the DNS is a client"},
	{"cloud", []string{"api", "client"}, "the cloud controller manager is a client"},
	{"metricsapi", []string{"api", "client"}, "metrics are a client"},
	{"sim", []string{"api", "client", "pki"}, "hollow nodes are clients"},
	{"ui", []string{"api", "client"}, "the console is a client"},
	{"cmd/cox-shim", []string{"cni"}, "what starts for every pod initialises nothing else"},
	{"cmd/cox-containerd", nil, "the runtime is a program of its own"},
	{"cmd/cox-demo", nil, "the demo is an image"},
}

// forbidden are modules that no package may import, with the reason.
var forbidden = []struct{ prefix, reason string }{
	{"k8s.io/kubernetes", "this project exists to write it anew"},
	{"k8s.io/kube-aggregator/pkg/apiserver", "aggregation is ours to write"},
	{"k8s.io/apiextensions-apiserver/pkg/apiserver/", "custom resources are ours to serve (schema packages are allowed below)"},
	{"k8s.io/apiserver/pkg/server", "the API server is ours to write"},
	{"k8s.io/apiserver/pkg/endpoints", "the handler is ours to write"},
	{"k8s.io/apiserver/pkg/registry", "the generic registry is ours to write"},
	{"k8s.io/apiserver/pkg/storage/", "the store is ours to write (value transformers are allowed below)"},
	{"k8s.io/apiserver/pkg/admission/plugin", "admission is ours to write"},
	{"k8s.io/apiserver/pkg/authentication", "authentication is ours to write"},
	{"k8s.io/apiserver/pkg/authorization", "authorization is ours to write"},
	{"github.com/k3s-io", "another implementation of what this project implements"},
}

var allowed = []string{
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema",
	"k8s.io/apiserver/pkg/storage/value",
	// The interfaces through which CEL's authorizer library asks its questions.
	"k8s.io/apiserver/pkg/authentication/user",
	"k8s.io/apiserver/pkg/authorization/authorizer",
}

// imports calls f for every import of every Go file of the tree.
func imports(t *testing.T, f func(dir, file, path string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f(filepath.ToSlash(filepath.Dir(rel)), rel, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func TestImportsPointOneWay(t *testing.T) {
	imports(t, func(dir, file, path string) {
		if !within(path, module) {
			return
		}
		target := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		// Tests may stand up the whole system to test their part of it.
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		// A program of the build, which nothing imports.
		if within(dir, "internal/mkassets") {
			return
		}
		for _, r := range rows {
			if !within(dir, r.folder) || within(target, r.folder) || within(target, "internal") {
				continue
			}
			ok := false
			for _, m := range r.may {
				ok = ok || within(target, m)
			}
			if !ok {
				t.Errorf("%s imports %s, but %s may import only %v: %s", file, target, r.folder, r.may, r.reason)
			}
		}
	})
}

func TestServerUsesOnlyTheClientsInterfaces(t *testing.T) {
	// The transports pull in HTTP clients and informers; the server needs the
	// request type only. They are one package, so the names are what to check.
	imports(t, func(dir, file, path string) {
		if within(dir, "apiserver") && !strings.HasSuffix(file, "_test.go") && path == "k8s.io/client-go/rest" {
			t.Errorf("%s imports %s: the API server calls no API server", file, path)
		}
	})
}

func TestForbiddenImports(t *testing.T) {
	imports(t, func(_, file, path string) {
		for _, a := range allowed {
			if within(path, a) {
				return
			}
		}
		for _, f := range forbidden {
			if within(path, strings.TrimSuffix(f.prefix, "/")) || strings.HasPrefix(path, f.prefix) {
				t.Errorf("%s imports %s: %s", file, path, f.reason)
			}
		}
	})
}

func TestNoCollectingPackages(t *testing.T) {
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case "util", "utils", "common", "types", "helpers":
				if !strings.Contains(path, string(filepath.Separator)+".") && !strings.Contains(path, "bin"+string(filepath.Separator)) {
					t.Errorf("%s: name a package after what it does", path)
				}
			}
			if strings.HasPrefix(d.Name(), ".git") {
				return filepath.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoInit keeps work out of program start: everything starts for every pod
// or for every kubectl.
func TestNoInit(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "zz_") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range parsed.Decls {
			if name, ok := funcName(decl); ok && name == "init" {
				t.Errorf("%s has an init function: register explicitly instead", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
