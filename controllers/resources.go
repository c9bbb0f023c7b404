package controllers

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

// Resource is a served resource, as discovery lists it: one version of each
// (the preferred one), no subresources.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	// Verbs are those of the resource; nil means all eight.
	Verbs []string
}

// Can says that the resource has all these verbs.
func (r *Resource) Can(verbs ...client.Verb) bool {
	for _, v := range verbs {
		if r.Verbs != nil && !slices.Contains(r.Verbs, string(v)) {
			return false
		}
	}
	return true
}

// Discovery returns what is served now. With an error it may still return
// what it could find (an aggregated API may be down).
type Discovery func(ctx context.Context) ([]Resource, error)

// Accessor returns the metadata of an object of any kind.
func Accessor(o any) (metav1.Object, error) {
	m, ok := o.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", o)
	}
	return m, nil
}
