package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

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
