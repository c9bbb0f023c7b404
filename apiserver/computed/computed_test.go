package computed

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
)

func TestReadsAreComputedAndWritesRefused(t *testing.T) {
	s := New(&api.Kind{Hub: corev1.SchemeGroupVersion.WithKind("ComponentStatus"), Resource: "componentstatuses"}, func(context.Context, Query) (map[string]runtime.Object, error) {
		out := map[string]runtime.Object{}
		for _, name := range []string{"b", "a"} {
			out[name] = &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}
		}
		return out, nil
	})
	if e, err := s.Get(t.Context(), "b", ""); err != nil || e.Object.(*corev1.ComponentStatus).Name != "b" {
		t.Errorf("get: %v %v", e, err)
	}
	if _, err := s.Get(t.Context(), "c", ""); !apierrors.IsNotFound(err) {
		t.Errorf("get of an absent object: %v", err)
	}
	l, err := s.List(t.Context(), "", store.ListOptions{})
	if err != nil || len(l.Entries) != 2 || l.Entries[0].Key != "a" {
		t.Errorf("list: %v %v", l, err)
	}
	byName := store.Predicate{Field: fields.OneTermEqualSelector("metadata.name", "b")}
	if l, err := s.List(t.Context(), "", store.ListOptions{Predicate: byName}); err != nil || len(l.Entries) != 1 || l.Entries[0].Key != "b" {
		t.Errorf("list by name: %v %v", l, err)
	}
	if _, err := s.Create(t.Context(), "x", nil); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Watch(t.Context(), "", store.WatchOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("watch: %v", err)
	}
}
