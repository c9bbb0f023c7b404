package store_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

func TestThin(t *testing.T) {
	srv, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	s, err := store.New(store.Config{Backend: srv, Mutated: func(x string) { t.Error(x) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := &api.Kind{Hub: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: "configmaps", Namespaced: true, Prefix: "configmaps",
		New: api.New[corev1.ConfigMap](), NewList: api.New[corev1.ConfigMapList]()}
	i := s.Kind(k)
	if err := i.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	w, err := i.Watch(t.Context(), "", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := i.Create(t.Context(), "a/b", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	ev := <-w.Events()
	if ev.Entry != e {
		t.Fatal(ev, e)
	}
	got, err := i.Get(t.Context(), "a/b", "")
	if err != nil || got != e {
		t.Fatal(err, got)
	}
	w.Stop()
	if _, err := i.Delete(t.Context(), "a/b", nil, nil); err != nil {
		t.Fatal(err)
	}
}
