package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/coxswain/cox/api"
)

// Served finds the kind behind a resource as it is served now; false if it is
// not. What it returns is read only.
func (s *Server) Served(gvr schema.GroupVersionResource) (api.Served, bool) {
	r, ok := s.routes[gvr]
	if !ok {
		r, ok = s.custom.find(gvr)
	}
	if !ok {
		return api.Served{}, false
	}
	return api.Served{Kind: r.Kind, View: r.view}, true
}

// ServedKind finds a kind as it is served now; false if it is not.
func (s *Server) ServedKind(gvk schema.GroupVersionKind) (api.Served, bool) {
	if k, ok := s.cfg.Table.Kind(gvk); ok {
		return k, true
	}
	for _, k := range s.Kinds() {
		for i := range k.Views {
			if k.Views[i].GroupVersionKind == gvk {
				return api.Served{Kind: k, View: &k.Views[i]}, true
			}
		}
	}
	return api.Served{}, false
}

// Types returns the schema by which objects of a served resource are merged.
func (s *Server) Types(gvr schema.GroupVersionResource) (managedfields.TypeConverter, error) {
	r, ok := s.routes[gvr]
	if !ok {
		r, ok = s.custom.find(gvr)
	}
	if !ok {
		return nil, fmt.Errorf("%v is not served", gvr)
	}
	return r.types()
}
