package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// maxBody is the size in bytes from which a request is refused with 413.
const maxBody = 3 << 20

// httpCall is a call with the connection that it came in through.
type httpCall struct {
	*call
	w      http.ResponseWriter
	r      *http.Request
	accept wire.Accept

	listing *listing // of a list's answer; nil: there is none
}

// serveResource answers a request for a resource.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, user client.User, f *front, t target) {
	req := &client.Request{
		User: user, Verb: verbOf(r, &t), Resource: t.gvr, Subresource: t.subresource, Namespace: t.namespace, Name: t.name,
	}
	var optErr error
	if r.URL.RawQuery != "" {
		req.Options, optErr = parseOptions(r.URL.Query(), req.Verb)
		if _, err := requestedTimeout(r); err != nil && optErr == nil && req.Verb != client.Watch {
			optErr = err
		}
	}
	if t.watch && t.name != "" {
		if sel := req.Options.FieldSelector; sel != nil && optErr == nil {
			if name, ok := sel.RequiresExactMatch("metadata.name"); !ok || name != t.name {
				optErr = apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
			}
		}
		req.Name, req.Options.FieldSelector = "", nameSelector(t.name)
	}
	c, err := s.newCall(req)
	if err != nil {
		s.unknown(w, r, user, f, req)
		return
	}
	c.front, c.manager = f, managerOf(f.userAgent)
	h := &httpCall{call: c, w: w, r: r}
	c.load = func() error {
		if text := c.res.view.Deprecated; text != "" {
			c.warn(text)
		}
		if optErr != nil {
			return optErr
		}
		return h.readRequest()
	}
	if !c.res.custom {
		c.misrouted = c.routed(&t, r.Method)
	} else if c.sub == nil && c.res.Namespaced && t.namespace == "" && req.Verb != client.List && req.Verb != client.Watch {
		s.noPath(w, r, t.gvr.Group) // namespaced objects are only reached through their namespace
		return
	}
	switch {
	case c.misrouted != nil:
		h.plain()
	case c.sub != nil && c.sub.Connect != nil:
		h.connect(t.rest) // a slash, where nothing may follow
	case strings.Trim(t.rest, "/") != "":
		s.noPath(w, r, t.gvr.Group)
	case req.Verb == client.Watch:
		h.watch()
	default:
		h.plain()
	}
}

// unknown answers a request for a resource or subresource that is not served:
// as upstream, with a 403 for those who may not know, else with a 404.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request, user client.User, f *front, req *client.Request) {
	if err := s.refuseUnknown(r.Context(), req, f, "unknown"); !apierrors.IsNotFound(err) {
		s.fail(w, r, err)
		return
	}
	if _, ok := s.custom.find(req.Resource); ok { // only its subresource is not
		s.fail(w, r, apierrors.NewNotFound(req.Resource.GroupResource(), req.Name))
		return
	}
	s.noPath(w, r, req.Resource.Group)
}

// noPath answers requests for paths that lead nowhere. As upstream, groups of
// the server's own do it with a status that says nothing in particular, all
// others in plain text. Before the server knows what else is served, nothing is
// said not to be: clients, and controllers that delete what belongs to nobody,
// take that for an answer.
func (s *Server) noPath(w http.ResponseWriter, r *http.Request, group string) {
	if !s.own[group] {
		if known := s.known.Load(); known != nil && !(*known)() {
			err := apierrors.NewServiceUnavailable("the request has been made before all known HTTP paths have been installed, please try again")
			err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 5}
			s.fail(w, r, err)
			return
		}
		notFound(w, r)
		return
	}
	s.fail(w, r, plainly(http.StatusNotFound, ""))
}

// noMethod is how a path of the server's own groups refuses a method.
func noMethod() error { return plainly(http.StatusMethodNotAllowed, "") }

// plainly is an error that does not say what it is about.
func plainly(code int, text string) error {
	return apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", text, 0, false)
}

// managerOf is the field manager that a user agent stands for.
func managerOf(userAgent string) string {
	name, _, _ := strings.Cut(userAgent, "/")
	out := strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, name)
	if len(out) > 128 {
		out = out[:128]
	}
	if out == "" {
		return "unknown"
	}
	return out
}

// plain carries out every request that has one answer.
func (h *httpCall) plain() {
	ctx, cancel := context.WithTimeout(h.r.Context(), h.timeout())
	defer cancel()
	if h.r.ContentLength != 0 || h.req.Verb == client.List { // else there is little to wait for
		defer unstick(ctx, h.w)()
	}
	defer h.turn.Release()
	defer h.srv.metrics.gates.begun(h.req.Verb)()
	h.form = h.recordedForm
	ans, err := h.serve(ctx)
	h.writeWarnings()
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			expired(h.w, h.r)
			return
		}
		h.srv.fail(h.w, h.r, err)
		return
	}
	if err := h.write(ans); err != nil {
		h.srv.fail(h.w, h.r, err)
	}
}

// expired answers a request whose time is over, in the form that upstream does.
func expired(w http.ResponseWriter, r *http.Request) {
	st := apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0).Status()
	text, err := json.Marshal(&st)
	if err != nil {
		panic(err) // strings and numbers only
	}
	if r.ProtoMajor == 1 { // the time of the connection is over too: see unstick
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = w.Write(append(text, '\n')) // the client has gone, if this fails
}

// requestedTimeout is the time that the URL asks for, 0 without one; the error
// is a 400.
func requestedTimeout(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("timeout")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
	}
	return d, nil
}

// timeout is how long the request may take.
func (h *httpCall) timeout() time.Duration {
	most := h.srv.cfg.RequestTimeout
	if h.r.URL.RawQuery != "" {
		if d, err := requestedTimeout(h.r); err == nil && d > 0 && d < most {
			return d
		}
	}
	return most
}

func (h *httpCall) writeWarnings() {
	if len(h.warnings) == 0 {
		return
	}
	seen := map[string]bool{}
	for _, text := range h.warnings {
		if seen[text] {
			continue
		}
		seen[text] = true
		if v, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
			h.w.Header().Add("Warning", v)
		}
	}
}

// readRequest checks what the client accepts and reads the body.
func (h *httpCall) readRequest() error {
	if err := h.negotiate(); err != nil {
		return err
	}
	switch h.req.Verb {
	case client.Create, client.Update:
		return h.loadObject()
	case client.Patch:
		return h.loadPatch()
	case client.Delete, client.DeleteCollection:
		return h.loadDeleteOptions()
	}
	return nil
}

// negotiate chooses the form of the answer.
func (h *httpCall) negotiate() error {
	header := h.r.Header.Get("Accept")
	if !h.res.custom {
		types := wire.MediaTypes()
		if h.req.Verb == client.List || h.req.Verb == client.Watch {
			types = append(types, wire.StreamTypes()...)
		}
		if !wire.Routed(header, types...) {
			return wire.Unrouted(types)
		}
	}
	var ok bool
	if h.accept, ok = wire.Negotiate(header, h.acceptable); !ok {
		return wire.NotAcceptable(wire.MediaTypes())
	}
	if h.req.Verb == client.Watch && h.accept.Media == wire.YAML {
		return wire.NotAcceptable(wire.StreamTypes())
	}
	return nil
}

// acceptable says whether a clause of the Accept header can be served.
func (h *httpCall) acceptable(a wire.Accept) bool {
	object := h.sub == nil || h.sub.Object != nil
	shown := object || h.sub.Project != nil
	switch a.As {
	case "":
		return !h.res.custom || a.Media != wire.Protobuf || !object
	case "Table":
		if h.res.Prefix == "" && h.req.Verb == client.Create {
			return false // reviews have no rows
		}
		if h.sub != nil && h.sub.Untabled {
			return false
		}
		return shown && a.Media != wire.Protobuf && a.Group == metav1.GroupName && (a.Version == "v1" || a.Version == "v1beta1")
	case "PartialObjectMetadata", "PartialObjectMetadataList": // whether it is a list turns out at the end
		return (shown || h.sub.Action != nil) && (object || h.req.Verb != client.List) &&
			a.Group == metav1.GroupName && (a.Version == "v1" || a.Version == "v1beta1")
	}
	return false
}

// readBody reads the whole body.
func (h *httpCall) readBody() ([]byte, error) {
	n := h.r.ContentLength
	if n > maxBody {
		return nil, tooLarge()
	}
	if n > 0 {
		b := make([]byte, n)
		_, err := io.ReadFull(h.r.Body, b)
		return b, bodyError(err)
	}
	b, err := io.ReadAll(io.LimitReader(h.r.Body, maxBody+1))
	if len(b) > maxBody {
		return nil, tooLarge()
	}
	return b, bodyError(err)
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

func bodyError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return apierrors.NewBadRequest("couldn't read the request body: " + err.Error())
}

// newBody makes the empty object that a create or update is decoded into.
func (h *httpCall) newBody() runtime.Object {
	switch {
	case h.sub != nil && h.sub.Action != nil:
		return h.sub.Action.New()
	case h.sub != nil && h.sub.Project != nil:
		return h.sub.Project.New()
	}
	return h.res.view.New()
}

func (h *httpCall) loadObject() error {
	media, ok := wire.ContentType(h.r.Header.Get("Content-Type"))
	if !ok {
		return wire.Unsupported(wire.MediaTypes())
	}
	data, err := h.readBody()
	if err != nil {
		return err
	}
	if err := h.checkValidation(); err != nil {
		return err
	}
	into, want := h.newBody(), h.bodyKind()
	strict, err := h.srv.codec.Decode(media, data, into, want)
	if err != nil {
		if into, want, strict = h.otherBody(media, data); into == nil {
			return err
		}
	}
	h.req.Object = into
	if prune := h.res.view.Prune; prune != nil && (h.sub == nil || h.sub.Object != nil) {
		unknown, err := prune(into)
		if err != nil {
			return wire.BadBody(err, want, &want, data)
		}
		strict = withUnknown(strict, unknown)
	}
	if strict == nil {
		return nil
	}
	switch h.req.Options.FieldValidation {
	case "Strict":
		return wire.BadBody(strict, want, &want, data)
	case "Ignore":
		return nil
	}
	if s, ok := runtime.AsStrictDecodingError(strict); ok {
		for _, e := range s.Errors() {
			for _, line := range strictLines(e) {
				h.warn(line)
			}
		}
	}
	return nil
}

// otherBody reads the body of an action in another version than its own, which
// is kind; obj is nil if it is of none.
func (h *httpCall) otherBody(media wire.Media, data []byte) (obj runtime.Object, kind schema.GroupVersionKind, strict error) {
	if h.sub == nil || h.sub.Action == nil {
		return nil, kind, nil
	}
	for _, b := range h.sub.Action.Others {
		in := b.New()
		if strict, err := h.srv.codec.Decode(media, data, in, b.GVK); err == nil {
			return b.Convert(in), b.GVK, strict
		}
	}
	return nil, kind, nil
}

// withUnknown adds the fields that a schema does not know to what strict
// decoding found.
func withUnknown(strict error, unknown []error) error {
	if len(unknown) == 0 {
		return strict
	}
	var errs []error
	if s, ok := runtime.AsStrictDecodingError(strict); ok {
		errs = append(errs, s.Errors()...)
	}
	return runtime.NewStrictDecodingError(append(errs, unknown...))
}

// checkValidation refuses an unknown fieldValidation before the body is read
// by its rule.
func (h *httpCall) checkValidation() error { return h.checkWriteOptions() }

func (h *httpCall) loadPatch() error {
	ct, _, _ := strings.Cut(h.r.Header.Get("Content-Type"), ";")
	h.req.PatchType = types.PatchType(strings.TrimSpace(ct))
	if !contains(patchTypes, string(h.req.PatchType)) {
		if !h.res.custom {
			return plainly(http.StatusUnsupportedMediaType, "415: Unsupported Media Type")
		}
		return wire.Unsupported(patchTypes)
	}
	var err error
	h.req.Patch, err = h.readBody()
	return err
}

var deleteOptionsKind = schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}

func (h *httpCall) loadDeleteOptions() error {
	data, err := h.readBody()
	if err != nil {
		return err
	}
	if len(data) == 0 {
		if h.r.URL.RawQuery == "" {
			return nil
		}
		return parseDeleteOptions(h.r.URL.Query(), &h.req.Options)
	}
	media, ok := wire.ContentType(h.r.Header.Get("Content-Type"))
	if !ok {
		return wire.Unsupported(wire.MediaTypes())
	}
	into := &metav1.DeleteOptions{}
	gv := h.res.view.GroupVersion()
	if h.res.custom { // whose versions have options too, but no scheme knows them
		if media, data, err = wire.PlainOptions(media, data, gv); err != nil {
			return err
		}
		gv = deleteOptionsKind.GroupVersion() // of options that name none
	}
	if err := h.srv.codec.DecodeOptions(media, data, into, gv); err != nil {
		return err
	}
	h.auditOptions(into)
	return deleteOptions(&h.req.Options, into)
}
