package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/coxswain/cox/test/apiproc"
	"github.com/coxswain/cox/test/programs"
)

// The label of what the test has made, and the resources that have it.
const label = "interop=yes"

// shop is a server's API without knowledge of its kinds.
type shop struct {
	t     *testing.T
	dyn   dynamic.Interface
	disco discovery.DiscoveryInterface
}

func (s *server) shop(t *testing.T) *shop {
	t.Helper()
	dyn, err := dynamic.NewForConfig(s.config(adminToken))
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(s.config(adminToken))
	if err != nil {
		t.Fatal(err)
	}
	return &shop{t, dyn, d}
}

// listed are the resources of all served versions.
func (s *shop) listed() map[schema.GroupVersionResource]metav1.APIResource {
	s.t.Helper()
	_, lists, err := s.disco.ServerGroupsAndResources()
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[schema.GroupVersionResource]metav1.APIResource{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if !strings.Contains(r.Name, "/") && slices.Contains([]string(r.Verbs), "list") && gv.Group != "metrics.k8s.io" {
				out[gv.WithResource(r.Name)] = r
			}
		}
	}
	return out
}

// objects are the test's objects as the server shows them in each version, by
// where they are.
func (s *shop) objects() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for gvr := range s.listed() {
		l, err := s.dyn.Resource(gvr).List(s.t.Context(), metav1.ListOptions{LabelSelector: label})
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			s.t.Fatalf("list %v: %v", gvr, err)
		}
		for i := range l.Items {
			text, err := json.MarshalIndent(l.Items[i].Object, "", " ")
			if err != nil {
				s.t.Fatal(err)
			}
			out[gvr.String()+" "+l.Items[i].GetNamespace()+"/"+l.Items[i].GetName()] = string(text)
		}
	}
	return out
}

// fill makes the objects of testdata.
func (s *shop) fill() {
	s.t.Helper()
	kinds := s.listed()
	text, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	s.create(kinds, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "interop", "labels": map[string]any{"interop": "yes"}},
	}})
	s.create(kinds, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default", "namespace": "interop"},
	}})
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := d.Decode(u); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			s.t.Fatal(err)
		}
		if u.Object != nil {
			s.create(kinds, u)
		}
	}
	eventually(s.t, "the definition's resource is served", func(ctx context.Context) error {
		_, err := s.dyn.Resource(foos).Namespace("interop").Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "g.x/v1", "kind": "Foo", "metadata": map[string]any{"name": "own", "labels": map[string]any{"interop": "yes"}}, "spec": map[string]any{"a": "y"},
		}}, metav1.CreateOptions{})
		return err
	})
	s.settle()
}

var foos = schema.GroupVersionResource{Group: "g.x", Version: "v1", Resource: "foos"}

// settle waits until the servers' own controllers have left the objects alone
// for a moment.
func (s *shop) settle() {
	s.t.Helper()
	before := s.objects()
	eventually(s.t, "the objects come to rest", func(ctx context.Context) error {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		now := s.objects()
		if !maps.Equal(before, now) {
			before = now
			return errors.New("they change")
		}
		return nil
	})
}

func (s *shop) create(kinds map[schema.GroupVersionResource]metav1.APIResource, u *unstructured.Unstructured) {
	s.t.Helper()
	for gvr, r := range kinds {
		if r.Kind != u.GetKind() || gvr.GroupVersion() != u.GroupVersionKind().GroupVersion() {
			continue
		}
		var err error
		if r.Namespaced {
			_, err = s.dyn.Resource(gvr).Namespace(u.GetNamespace()).Create(s.t.Context(), u, metav1.CreateOptions{})
		} else {
			_, err = s.dyn.Resource(gvr).Create(s.t.Context(), u, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.t.Fatalf("create %s %s: %v", u.GetKind(), u.GetName(), err)
		}
		return
	}
	s.t.Fatalf("%s is not served", u.GroupVersionKind())
}

// touch writes to every object, so that each is stored anew.
func (s *shop) touch(by string) {
	s.t.Helper()
	for gvr, r := range s.listed() {
		l, err := s.dyn.Resource(gvr).List(s.t.Context(), metav1.ListOptions{LabelSelector: label})
		if err != nil || !slices.Contains([]string(r.Verbs), "patch") {
			continue
		}
		for i := range l.Items {
			o := &l.Items[i]
			_, err := s.dyn.Resource(gvr).Namespace(o.GetNamespace()).Patch(s.t.Context(), o.GetName(), types.MergePatchType,
				[]byte(`{"metadata":{"annotations":{"touched":"`+by+" "+gvr.Version+`"}}}`), metav1.PatchOptions{})
			if err != nil {
				s.t.Errorf("patch %v %s: %v", gvr, o.GetName(), err)
			}
		}
	}
	s.settle()
}

func same(t *testing.T, who string, got, want map[string]string) {
	t.Helper()
	if len(want) < 50 {
		t.Fatalf("only %d objects", len(want))
	}
	for at, text := range want {
		switch g := got[at]; {
		case g == "":
			t.Errorf("%s does not show %s", who, at)
		case g != text:
			t.Errorf("%s shows %s as\n%s\nnot as\n%s", who, at, g, text)
		}
	}
	for at := range got {
		if want[at] == "" {
			t.Errorf("%s shows %s, which nobody made", who, at)
		}
	}
}

// taken says that the server knows which addresses are given away.
func (s *shop) taken(t *testing.T) {
	t.Helper()
	all := s.dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "services"}).Namespace("interop")
	one, err := all.Get(t.Context(), "svc", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, _, _ := unstructured.NestedString(one.Object, "spec", "clusterIP")
	_, err = all.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "thief"},
		"spec": map[string]any{"clusterIP": ip, "ports": []any{map[string]any{"port": int64(80)}}},
	}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a second Service gets %s: %v", ip, err)
	}
}

// The data directory of an etcd that Kubernetes' API server wrote to is opened
// by cox, written to, and opened by Kubernetes again: each shows every object
// in every version exactly as the other did.
func TestDataGoesBothWays(t *testing.T) {
	programs.NeedCox(t)
	programs.NeedUpstream(t, "kube-apiserver")
	w := newWorld(t)
	w.ours().Stop() // makes the keys, and the folder cox's
	data := w.path("data", "etcd")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}

	url, end := apiproc.EtcdIn(t, data)
	theirs := w.theirs(url)
	theirs.shop(t).fill()
	wrote := theirs.shop(t).objects()
	theirs.Stop()
	end()

	ours := w.ours()
	served := ours.shop(t)
	served.settle()
	same(t, "cox", served.objects(), wrote)
	served.taken(t)
	served.touch("cox")
	wrote = served.objects()
	ours.Stop()

	url, end = apiproc.EtcdIn(t, data)
	defer end()
	theirs = w.theirs(url)
	defer theirs.Stop()
	back := theirs.shop(t)
	back.settle()
	same(t, "Kubernetes", back.objects(), wrote)
	back.taken(t)
	back.touch("kubernetes")
}
