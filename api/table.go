package api

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// Table is the set of built-in kinds with their scheme. It is read only once
// built and safe for concurrent use.
type Table struct {
	Scheme *runtime.Scheme
	Codecs serializer.CodecFactory
	Kinds  []*Kind

	byResource map[schema.GroupVersionResource]Served
	byKind     map[schema.GroupVersionKind]Served
}

// Served is a kind seen through one of its views.
type Served struct {
	*Kind
	View *View
}

// NewTable indexes the rows. The scheme must know every hub, view and list
// type, the meta.k8s.io types and metav1.Status in all served versions. Two
// rows with the same view are an error.
func NewTable(scheme *runtime.Scheme, kinds []*Kind) (*Table, error) {
	t := &Table{
		Scheme: scheme, Codecs: serializer.NewCodecFactory(scheme), Kinds: kinds,
		byResource: map[schema.GroupVersionResource]Served{}, byKind: map[schema.GroupVersionKind]Served{},
	}
	for _, k := range kinds {
		for i := range k.Views {
			v := &k.Views[i]
			if v.New == nil {
				v.New, v.NewList = k.New, k.NewList
			}
			gvr := v.GroupVersion().WithResource(k.Resource)
			if other, ok := t.byResource[gvr]; ok {
				return nil, fmt.Errorf("two rows serve %v: %v and %v", gvr, other.Hub, k.Hub)
			}
			t.byResource[gvr] = Served{k, v}
			t.byKind[v.GroupVersionKind] = Served{k, v}
		}
	}
	return t, nil
}

// Resource finds the kind that serves a resource of a group version.
func (t *Table) Resource(gvr schema.GroupVersionResource) (Served, bool) {
	s, ok := t.byResource[gvr]
	return s, ok
}

// Kind finds a served kind.
func (t *Table) Kind(gvk schema.GroupVersionKind) (Served, bool) {
	s, ok := t.byKind[gvk]
	return s, ok
}
