package main

import (
	"net/http"
	"time"

	"github.com/coxswain/cox/internal/zpages"
)

// debugPages adds to paths the pages that tell people which API server this is
// and how it was started.
func (cp *controlPlane) debugPages(paths map[string]http.Handler) {
	pages := zpages.Component{
		Name: "apiserver", Version: gitVersion, Started: time.Now(), Flags: cp.cfg.shown,
		Paths: []string{"/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"},
	}
	paths["/statusz"] = http.HandlerFunc(pages.Statusz)
	paths["/flagz"] = http.HandlerFunc(pages.Flagz)
}
