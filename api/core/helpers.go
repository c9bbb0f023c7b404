package core

import (
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// equal compares API values: quantities by value, nil and empty alike.
func equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

func isTrue(b *bool) bool { return b != nil && *b }

// def sets *p to v if it is the zero value.
func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// defPtr points *p to v if it is nil.
func defPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// qualified says that a name has a domain.
func qualified(name string) bool { return strings.Contains(name, "/") }

func nonNegative(n int64, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(n, path)
}
