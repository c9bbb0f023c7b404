package api

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// deepCopier is a pointer to a generated API struct.
type deepCopier[T any] interface {
	*T
	DeepCopy() *T
}

// Parts prepares the writes of a kind whose objects have a spec, which users
// write and whose changes metadata.generation counts, and a status, which
// controllers write through the status subresource. Make it with SpecStatus.
type Parts[T Object, S, U any, PS deepCopier[S], PU deepCopier[U]] struct {
	parts func(T) (PS, PU)
}

// SpecStatus takes a function that points at an object's spec and status.
func SpecStatus[T Object, S, U any, PS deepCopier[S], PU deepCopier[U]](parts func(T) (PS, PU)) Parts[T, S, U, PS, PU] {
	return Parts[T, S, U, PS, PU]{parts}
}

// PrepareCreate empties the status and starts the generation at 1.
func (p Parts[T, S, U, PS, PU]) PrepareCreate(o runtime.Object) {
	obj := o.(T)
	_, status := p.parts(obj)
	*status = *new(U)
	obj.SetGeneration(1)
}

// PrepareUpdate keeps the old status and counts a changed spec.
func (p Parts[T, S, U, PS, PU]) PrepareUpdate(o, prev runtime.Object) {
	obj, old := o.(T), prev.(T)
	spec, status := p.parts(obj)
	oldSpec, oldStatus := p.parts(old)
	*status = *oldStatus.DeepCopy()
	CountGeneration(obj, old, spec, oldSpec)
}

// PrepareStatus keeps the old spec: it is for the status subresource.
func (p Parts[T, S, U, PS, PU]) PrepareStatus(o, prev runtime.Object) {
	obj, old := o.(T), prev.(T)
	spec, _ := p.parts(obj)
	oldSpec, _ := p.parts(old)
	*spec = *oldSpec.DeepCopy()
	obj.SetGeneration(old.GetGeneration())
}

// CountGeneration sets obj's generation: that of old, one more if spec and
// oldSpec differ.
func CountGeneration(obj, old Object, spec, oldSpec any) {
	g := old.GetGeneration()
	if !apiequality.Semantic.DeepEqual(spec, oldSpec) {
		g++
	}
	obj.SetGeneration(g)
}

// Serve lists the views whose type is the hub's own.
func Serve(kinds ...schema.GroupVersionKind) []View {
	views := make([]View, len(kinds))
	for i, k := range kinds {
		views[i].GroupVersionKind = k
	}
	return views
}
