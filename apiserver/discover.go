package apiserver

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/apiserver/wire"
)

// discoverer serves the discovery documents, each made at its first request.
type discoverer struct {
	srv *Server

	mu     sync.Mutex
	at     int64 // the state of the custom kinds that the rest is made of
	listed []discovery.Group
	docs   map[string]*document
}

// document is a discovery document in the forms in which it has been asked
// for.
type document struct {
	obj      runtime.Object
	gvk      schema.GroupVersionKind
	etag     string
	json     []byte
	protobuf []byte
}

const discoveryGroup = "apidiscovery.k8s.io"

func newDiscoverer(s *Server) *discoverer {
	return &discoverer{srv: s, docs: map[string]*document{}, at: -1}
}

// groups lists what is served now.
func (d *discoverer) groups() []discovery.Group {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.groupsLocked()
}

func (d *discoverer) groupsLocked() []discovery.Group {
	now := d.srv.custom.changes.Load() + d.srv.elsewhereChanges()
	if now == d.at {
		return d.listed
	}
	kinds := append(slices.Clone(d.srv.cfg.Table.Kinds), d.srv.custom.shown()...)
	d.listed, d.at = d.srv.withElsewhere(kinds), now
	clear(d.docs)
	return d.listed
}

// paths lists the documents' paths.
func (d *discoverer) paths() []string {
	var out []string
	for _, g := range d.groups() {
		base := "/apis/" + g.Name
		if g.Name == "" {
			base = "/api"
		} else {
			out = append(out, base)
		}
		for _, v := range g.Versions {
			out = append(out, base+"/"+v.GV.Version)
		}
	}
	return append(out, "/api", "/apis")
}

// handler returns what serves a discovery path, or nil.
func (d *discoverer) handler(path string) http.Handler {
	path = strings.TrimSuffix(path, "/")
	if path == "/api" || path == "/apis" {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serveRoot(w, r, path) })
	}
	found := findDocument(d.groups(), path)
	if found == nil {
		return nil
	}
	_, group := found.(*metav1.APIGroup)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && !group { // as upstream, which shows groups however they are asked for
			d.srv.fail(w, r, noMethod())
			return
		}
		if !group && !wire.Routed(r.Header.Get("Accept"), wire.MediaTypes()...) {
			d.srv.fail(w, r, wire.Unrouted(wire.MediaTypes()))
			return
		}
		a, ok := wire.Negotiate(r.Header.Get("Accept"), func(a wire.Accept) bool { return a.As == "" })
		if !ok {
			d.srv.fail(w, r, wire.NotAcceptable(wire.MediaTypes()))
			return
		}
		d.serve(w, r, a, path, func() (runtime.Object, schema.GroupVersionKind) {
			// As it is now, not as it was found: what is made here is kept
			// until the next change.
			return cmp.Or(findDocument(d.listed, path), found), schema.GroupVersionKind{}
		})
	})
}

// findDocument makes the document of a group or group version, or nil.
func findDocument(groups []discovery.Group, path string) runtime.Object {
	for _, g := range groups {
		base := "/apis/" + g.Name
		if g.Name == "" {
			base = "/api"
		} else if path == base {
			return discovery.One(g)
		}
		for _, v := range g.Versions {
			if path == base+"/"+v.GV.Version {
				return discovery.Resources(v)
			}
		}
	}
	return nil
}

// serveRoot serves /api and /apis. As upstream, the aggregated form is there in
// v2 only, and /apis/ has none.
func (d *discoverer) serveRoot(w http.ResponseWriter, r *http.Request, path string) {
	header, core := r.Header.Get("Accept"), path == "/api"
	switch {
	case core && r.Method != http.MethodGet:
		d.srv.fail(w, r, noMethod())
		return
	case core && !wire.Routed(header, wire.MediaTypes()...):
		d.srv.fail(w, r, wire.Unrouted(wire.MediaTypes()))
		return
	}
	a, ok := wire.Negotiate(header, func(a wire.Accept) bool {
		return a.As == "" || a.As == "APIGroupDiscoveryList" && a.Group == discoveryGroup && a.Version == "v2" && r.URL.Path != "/apis/"
	})
	if !ok {
		d.srv.fail(w, r, wire.NotAcceptable(wire.MediaTypes()))
		return
	}
	w.Header().Set("Vary", "Accept")
	d.serve(w, r, a, path+" "+a.As+" "+a.Version, func() (runtime.Object, schema.GroupVersionKind) {
		switch {
		case a.As != "":
			return discovery.Aggregated(d.listed, core), schema.GroupVersionKind{Group: discoveryGroup, Version: a.Version, Kind: "APIGroupDiscoveryList"}
		case core:
			return discovery.Versions(d.listed, d.srv.cfg.Address), schema.GroupVersionKind{}
		}
		return discovery.List(d.listed), schema.GroupVersionKind{}
	})
}

// serve sends a document. gvk is empty where the object names its kind.
func (d *discoverer) serve(w http.ResponseWriter, r *http.Request, a wire.Accept, key string, make func() (runtime.Object, schema.GroupVersionKind)) {
	doc, body, err := d.encoded(a.Media, key, make)
	if err != nil {
		d.srv.fail(w, r, err)
		return
	}
	ct := a.Media.String()
	if a.As != "" {
		ct += fmt.Sprintf(";g=%s;v=%s;as=%s", discoveryGroup, a.Version, a.As)
		w.Header().Set("ETag", doc.etag)
		w.Header().Set("Cache-Control", "public")
		if r.Header.Get("If-None-Match") == doc.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if rec, ok := w.(interface{ Shown(body []byte) }); ok {
		rec.Shown(doc.json)
	}
	wire.Respond(w, r, http.StatusOK, ct, [][]byte{body}, wire.Pretty(r, a))
}

func (d *discoverer) encoded(m wire.Media, key string, make func() (runtime.Object, schema.GroupVersionKind)) (*document, []byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groupsLocked() // drops documents of the past
	doc := d.docs[key]
	if doc == nil {
		doc = &document{}
		doc.obj, doc.gvk = make()
		if !doc.gvk.Empty() {
			doc.obj.GetObjectKind().SetGroupVersionKind(doc.gvk)
		}
		var err error
		if doc.json, err = json.Marshal(doc.obj); err != nil {
			return nil, nil, err
		}
		doc.json = append(doc.json, '\n')
		sum := sha256.Sum256(doc.json)
		doc.etag = fmt.Sprintf("%q", fmt.Sprintf("%X", sum))
		d.docs[key] = doc
	}
	switch m {
	case wire.Protobuf:
		if doc.protobuf == nil {
			body, err := d.srv.codec.Body(m, doc.obj)
			if err != nil {
				return nil, nil, err
			}
			gvk := doc.obj.GetObjectKind().GroupVersionKind()
			if gvk.Version == "" {
				gvk.Version = "v1"
			}
			pieces, err := wire.NewHead(gvk).Message(m, wire.Body{Bytes: body})
			if err != nil {
				return nil, nil, err
			}
			for _, p := range pieces {
				doc.protobuf = append(doc.protobuf, p...)
			}
		}
		return doc, doc.protobuf, nil
	case wire.YAML:
		b, err := wire.ToYAML(doc.json)
		return doc, b, err
	}
	return doc, doc.json, nil
}
