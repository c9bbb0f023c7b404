package store_test

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

func TestLayout(t *testing.T) {
	table, err := storetest.Table()
	if err != nil {
		t.Fatal(err)
	}
	storetest.Layout(t, startEtcd(t), table, storetest.UpstreamLayout)
}

// TestBuiltinLayout runs over every kind that is served.
func TestBuiltinLayout(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	storetest.Layout(t, startEtcd(t), table, storetest.UpstreamLayout)
}

// TestStoredBytes holds one object of each encoding against upstream's bytes.
func TestStoredBytes(t *testing.T) {
	crd := &api.Kind{
		Hub:      schema.GroupVersionKind{Group: "stable.example.com", Version: "v1", Kind: "CronTab"},
		Resource: "crontabs", Namespaced: true, Prefix: "stable.example.com/crontabs",
		New:     func() runtime.Object { return &unstructured.Unstructured{} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
	}
	s, srv := open(t, store.Config{})
	tab := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "stable.example.com/v1", "kind": "CronTab",
		"metadata": map[string]any{"name": "x", "namespace": "ns"},
		"spec":     map[string]any{"replicas": int64(3)},
	}}
	custom := s.Kind(crd)
	e, err := custom.Create(t.Context(), "ns/x", tab)
	if err != nil {
		t.Fatal(err)
	}
	stored(t, srv, "/registry/stable.example.com/crontabs/ns/x",
		`{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"x","namespace":"ns"},"spec":{"replicas":3}}`+"\n")
	got, err := custom.Get(t.Context(), "ns/x", "")
	if err != nil {
		t.Fatal(err)
	}
	u := got.Object.(*unstructured.Unstructured)
	if u.GetKind() != "CronTab" || u.GetResourceVersion() == "" || got.Revision != e.Revision {
		t.Errorf("got %v", u.Object)
	}

	if _, err := s.Kind(storetest.ConfigMaps).Create(t.Context(), "ns/c", storetest.ConfigMap("ns", "c", "v")); err != nil {
		t.Fatal(err)
	}
	stored(t, srv, "/registry/configmaps/ns/c", "k8s\x00"+
		"\x0a\x0f\x0a\x02v1\x12\x09ConfigMap"+ // TypeMeta
		"\x12\x2b"+ // raw
		"\x0a\x1d\x0a\x01c\x12\x00\x1a\x02ns\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00\x5a\x08\x0a\x03app\x12\x01v"+ // ObjectMeta, resourceVersion empty
		"\x12\x0a\x0a\x05value\x12\x01v"+
		"\x1a\x00\x22\x00") // no content encoding, no content type
}

func stored(t *testing.T, etcd clientv3.KV, key, want string) {
	t.Helper()
	resp, err := etcd.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
	if got := resp.Kvs[0].Value; string(got) != want {
		t.Errorf("%s holds\n%q, want\n%q", key, got, want)
	}
}

// TestMessage reads an entry's message as a client would.
func TestMessage(t *testing.T) {
	s, _ := open(t, store.Config{})
	pods := s.Kind(storetest.Pods)
	for i := range 12 { // the revision gets a second digit
		e, err := pods.Create(t.Context(), fmt.Sprint("ns/p", i), storetest.Pod("ns", fmt.Sprint("p", i), "node"))
		if err != nil {
			t.Fatal(err)
		}
		stored, rev, ok := e.Message(nil)
		if !ok || !bytes.Contains(e.Stored(), stored) {
			t.Fatal("the bytes just written are not at hand")
		}
		obj := storetest.Pods.New().(interface {
			api.Object
			Unmarshal([]byte) error
		})
		if err := obj.Unmarshal(slices.Concat(stored, rev)); err != nil {
			t.Fatal(err)
		}
		if want := e.Object; !reflect.DeepEqual(obj, want) || obj.GetResourceVersion() != storetest.RV(e.Revision) {
			t.Errorf("got %v, want %v", obj, want)
		}
	}
}
