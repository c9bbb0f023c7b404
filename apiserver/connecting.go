package apiserver

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// connect hands a streamed or proxied subresource to its connector once it is
// authorized and admitted. rest is what follows the subresource in the path.
func (h *httpCall) connect(rest string) {
	start := h.srv.now()
	var opts runtime.Object
	h.call.load = func() error {
		if h.req.Subresource != "log" && len(h.r.URL.Query()["dryRun"]) > 0 {
			return apierrors.NewBadRequest("dryRun is not supported") // what streams, does
		}
		if err := h.mayUpgrade(); err != nil {
			return err
		}
		var err error
		opts, err = h.connectOptions()
		return err
	}
	run, ok := h.srv.cfg.Extensions.Connects[h.res.gr.String()+"/"+h.req.Subresource]
	if !ok {
		http.NotFound(h.w, h.r)
		return
	}
	done, err := h.begin(h.r.Context())
	if err == nil {
		err = h.admitConnect(opts)
	}
	if err != nil {
		done(0, err)
		h.srv.metrics.observe(h.call, 0, err, h.srv.now().Sub(start))
		h.srv.fail(h.w, h.r, err)
		return
	}
	h.srv.open.Add(1)
	defer h.srv.open.Done()
	defer h.srv.metrics.gates.running(h.call)()
	h.writeWarnings()
	cw := &startWriter{codeWriter: codeWriter{ResponseWriter: h.w, code: http.StatusOK}, rec: h.record}
	ctx, cancel := h.srv.untilAway(h.r.Context())
	defer cancel()
	run(cw, h.r.WithContext(ctx), h.req, opts, rest)
	cw.begin(cw.code)
	h.record.End(int32(cw.code), cw.refusal)
	done(cw.code, nil)
	h.srv.metrics.observe(h.call, cw.code, nil, h.srv.now().Sub(start))
}

// mayUpgrade asks for the right to create as well where a GET opens a stream
// into a pod: a right to read is no right to run something.
func (h *httpCall) mayUpgrade() error {
	switch h.req.Subresource {
	case "exec", "attach", "portforward":
	default:
		return nil
	}
	if h.req.Verb != client.Get {
		return nil
	}
	return h.srv.authorize(h.r.Context(), &authz.Attributes{
		User: h.req.User, Verb: string(client.Create),
		Group: h.req.Resource.Group, Version: h.req.Resource.Version, Resource: h.req.Resource.Resource,
		Subresource: h.req.Subresource, Namespace: h.req.Namespace, Name: h.req.Name,
	})
}

func (h *httpCall) connectOptions() (runtime.Object, error) {
	gvk := h.sub.Connect.Options
	if gvk.Empty() {
		return nil, nil
	}
	opts, err := h.srv.cfg.Table.Scheme.New(gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return opts, connectOptions(h.r.URL.Query(), opts)
}

func (h *httpCall) admitConnect(opts runtime.Object) error {
	t := &transaction{call: h.call, ctx: h.r.Context()}
	a := t.attributes(admission.Connect, opts, nil)
	a.Kind = h.sub.Connect.Options
	if err := t.admit(a); err != nil {
		return err
	}
	err := t.validate(a)
	for _, w := range t.warns {
		h.warn(w)
	}
	return err
}

// pathHandler finds what serves a path that is not a resource.
func (s *Server) pathHandler(path string) http.Handler {
	if h := s.disco.handler(path); h != nil {
		return h
	}
	if h := s.health.handler(path); h != nil {
		return h
	}
	switch {
	case path == "/version" || path == "/version/":
		return http.HandlerFunc(s.serveVersion)
	case path == "/metrics":
		return s.metrics.handler
	case path == "/":
		return http.HandlerFunc(s.servePaths)
	case strings.HasPrefix(path, "/openapi/") && s.cfg.OpenAPI != nil:
		return s.cfg.OpenAPI
	}
	if h, ok := s.cfg.Paths[path]; ok {
		return h
	}
	best, found := "", http.Handler(nil)
	for p, h := range s.cfg.Paths {
		if strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) && len(p) > len(best) {
			best, found = p, h
		}
	}
	if found != nil {
		return found
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.noPath(w, r, groupOf(path)) })
}

// groupOf is the group that a path would belong to if it led anywhere; that of
// paths outside the API is none that is served.
func groupOf(path string) string {
	if rest, ok := strings.CutPrefix(path, "/apis/"); ok {
		group, _, _ := strings.Cut(rest, "/")
		if group != "" {
			return group
		}
	}
	if strings.HasPrefix(path, "/api/") {
		return ""
	}
	return "/"
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}
