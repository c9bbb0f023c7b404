package api

import (
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The functions below let a row's functions be written for their own type:
// Default: api.On(setDeploymentDefaults). Each panics when handed another
// type, which only a wrongly built table does. nil stays nil.

// On adapts func(T).
func On[T runtime.Object](f func(T)) func(runtime.Object) {
	if f == nil {
		return nil
	}
	return func(o runtime.Object) { f(o.(T)) }
}

// On2 adapts func(obj, old T).
func On2[T runtime.Object](f func(obj, old T)) func(obj, old runtime.Object) {
	if f == nil {
		return nil
	}
	return func(o, old runtime.Object) { f(o.(T), old.(T)) }
}

// Check adapts a validation of a new object.
func Check[T runtime.Object](f func(T) field.ErrorList) func(runtime.Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(o runtime.Object) field.ErrorList { return f(o.(T)) }
}

// Check2 adapts a validation of a changed object.
func Check2[T runtime.Object](f func(obj, old T) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(o, old runtime.Object) field.ErrorList { return f(o.(T), old.(T)) }
}

// Cells adapts a function that makes a table row.
func Cells[T runtime.Object](f func(T) []any) func(runtime.Object) []any {
	return func(o runtime.Object) []any { return f(o.(T)) }
}

// Fields adapts a function that returns the selectable fields.
func Fields[T runtime.Object](f func(T) fields.Set) func(runtime.Object) fields.Set {
	return func(o runtime.Object) fields.Set { return f(o.(T)) }
}

// New makes a constructor of *T as a runtime.Object.
func New[T any, P interface {
	*T
	runtime.Object
}]() func() runtime.Object {
	return func() runtime.Object { return P(new(T)) }
}
