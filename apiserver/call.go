package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// call is one request on its way through the pipeline. Both doors make one;
// it is used by one goroutine.
type call struct {
	srv *Server
	req *client.Request
	res *resource
	sub *api.Subresource // nil for the object itself
	// name is what authorization is asked about: the request's name, or that
	// of a metadata.name selector.
	name string
	// collected: the object is deleted as one of a collection.
	collected bool
	// manager is the field manager of requests that name none.
	manager string
	// load decodes the body once the request is authorized; nil at the local
	// door, whose requests carry objects.
	load func() error
	// front is what the HTTP door knows besides; nil at the local door.
	front *front
	// misrouted is what is wrong with the path or method of a request that came
	// in by HTTP: see routed.
	misrouted error
	// form shows an answer that is a list, or another form of an object than
	// its own, as the client gets it, in JSON, for the audit record; nil: it is
	// neither. nil at the local door.
	form func(a answer) []byte

	record   *audit.Record
	waited   time.Duration // for its turn, and for webhooks
	counted  *counted      // once it is carried out
	turn     flow.Turn
	warnings []string
}

// front is where an HTTP request came from, for its audit record.
type front struct {
	id        types.UID
	uri       string
	sourceIPs []string
	userAgent string
	received  time.Time
	header    http.Header  // of the answer
	notes     *authn.Notes // nil without audit
	imp       *client.User // who asked, when impersonating
	// constraint is the verb that allowed it; "" if it knows no bounds.
	constraint string
}

// unsniffed forbids clients to guess what the answer is, as upstream does where
// it refuses what somebody may not. f may be nil.
func (f *front) unsniffed() {
	if f != nil {
		f.header.Set("X-Content-Type-Options", "nosniff")
	}
}

// answer is what a call ends with. Exactly one of entry, obj and list is set.
type answer struct {
	entry *store.Entry   // the stored object
	obj   runtime.Object // another object: of the view's hub type if hub is set
	hub   bool
	list  *store.List
	items []runtime.Object // instead of entries: what was deleted

	created, pending bool
}

// defaultManager names whose fields a component of this process writes when it
// names no manager: the component that upstream knows under its user.
func defaultManager(user string) string {
	name, ok := strings.CutPrefix(user, "system:")
	switch {
	case !ok:
		return "cox"
	case strings.HasPrefix(name, "node:"):
		return "kubelet"
	case strings.HasPrefix(name, "serviceaccount:kube-system:"):
		return "kube-controller-manager"
	case strings.Contains(name, ":"):
		return "cox"
	case name == "apiserver":
		return "kube-apiserver"
	}
	return name
}

func (c *call) warn(text string) { c.warnings = append(c.warnings, text) }

// newCall finds what a request is for. The error is a 404 or 405.
func (s *Server) newCall(req *client.Request) (*call, error) {
	r, ok := s.routes[req.Resource]
	if !ok {
		if r, ok = s.custom.find(req.Resource); !ok {
			return nil, notServed(req)
		}
	}
	c := &call{srv: s, req: req, res: r, name: req.Name, manager: defaultManager(req.User.Name)}
	if req.Subresource != "" {
		sub, ok := r.Subresources[req.Subresource]
		if !ok {
			return nil, notServed(req)
		}
		c.sub = &sub
	}
	if c.name == "" && req.Options.FieldSelector != nil && (req.Verb == client.List || req.Verb == client.Watch) {
		if name, ok := req.Options.FieldSelector.RequiresExactMatch("metadata.name"); ok {
			c.name = name
		}
	}
	return c, nil
}

// refuseUnknown records and refuses a request for what is not served: with a
// 403 for those who may not know, else with a 404.
func (s *Server) refuseUnknown(ctx context.Context, req *client.Request, f *front, manager string) error {
	c := &call{srv: s, req: req, res: &resource{kind: &kind{}}, name: req.Name, front: f, manager: manager}
	c.beginAudit()
	err := c.authorize(ctx)
	if err == nil {
		err = notServed(req)
	} else {
		f.unsniffed()
	}
	c.record.End(wire.Status(err).Code, unknownStatus(err))
	return err
}

// unknownStatus is what records say of a request for what is not served.
func unknownStatus(err error) *metav1.Status {
	if apierrors.IsNotFound(err) {
		err = plainly(http.StatusNotFound, "")
	}
	return wire.Status(err)
}

func notServed(req *client.Request) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, string(req.Verb), req.Resource.GroupResource(), req.Name, "404 page not found", 0, true)
}

// allowed says whether the resource knows the verb.
func (c *call) allowed() error {
	if c.misrouted != nil {
		return c.misrouted
	}
	v, ok := c.req.Verb, false
	switch {
	case c.sub == nil:
		ok = c.res.verbs[v]
		if c.front != nil && (v == client.Create) == (c.req.Name != "") && v != client.List && v != client.Watch && v != client.DeleteCollection {
			ok = false // POST is for collections, the others for objects
		}
	case c.sub.Object != nil || c.sub.Project != nil:
		ok = v == client.Get || v == client.Update || v == client.Patch
		if c.sub.Verbs != nil {
			ok = contains(c.sub.Verbs, string(v))
		}
	case c.sub.Action != nil:
		ok = v == client.Create
	default:
		ok = c.front != nil && v != client.List && v != client.Watch
	}
	if !ok {
		return c.unsupported()
	}
	return nil
}

// unsupported refuses the request's verb.
func (c *call) unsupported() error {
	if c.front != nil && !c.res.custom {
		return noMethod()
	}
	return apierrors.NewMethodNotSupported(c.res.gvr.GroupResource(), string(c.req.Verb))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// begin runs what precedes every request: the audit record, the turn of flow
// control, authorization, then the decoding of the body. done ends the audit
// record and gives the turn back.
func (c *call) begin(ctx context.Context) (done func(code int, err error), err error) {
	c.beginAudit()
	finish := func(code int, err error) {
		if c.front == nil {
			c.turn.Release() // the HTTP door has yet to encode the answer
		}
		if err != nil {
			st := wire.Status(err)
			if c.req.Verb == client.Watch || c.sub != nil && c.sub.Connect != nil {
				c.record.ResponseStarted(st.Code, st)
			}
			c.record.End(st.Code, st)
			return
		}
		c.record.End(int32(code), nil)
	}
	if err := c.record.Lost(); err != nil {
		return finish, unrecorded(err)
	}
	asked := time.Now()
	if err := c.takeTurn(ctx); err != nil {
		return finish, err
	}
	c.waited = time.Since(asked)
	if err := c.authorize(ctx); err != nil {
		c.front.unsniffed()
		return finish, err
	}
	if err := c.allowed(); err != nil {
		return finish, err
	}
	if c.load != nil {
		if err := ctx.Err(); err != nil { // what is read from memory does not ask
			return finish, err
		}
		if err := c.load(); err != nil {
			return finish, err
		}
	}
	if c.record != nil {
		c.auditBody()
	}
	return finish, nil
}

func (c *call) authorize(ctx context.Context) error {
	req := c.req
	return c.srv.decide(ctx, &authz.Attributes{
		User: req.User, Verb: string(req.Verb),
		Group: req.Resource.Group, Version: req.Resource.Version, Resource: req.Resource.Resource,
		Subresource: req.Subresource, Namespace: c.authNamespace(), Name: c.name,
		FieldSelector: req.Options.FieldSelector, LabelSelector: req.Options.LabelSelector,
	}, c.record)
}

// authNamespace is the namespace that a request is authorized in: for a
// namespace itself its own.
func (c *call) authNamespace() string {
	if c.res.gr == namespaces && c.req.Name != "" {
		return c.req.Name
	}
	return c.req.Namespace
}

var namespaces = schema.GroupResource{Resource: "namespaces"}

// authorize is decide for what is asked in passing, which no record shows.
func (s *Server) authorize(ctx context.Context, a *authz.Attributes) error {
	return s.decide(ctx, a, nil)
}

// decide answers nil, a 403 in upstream's words, or a 500 when it cannot be
// said whether the user may. The decision is noted in rec (may be nil).
func (s *Server) decide(ctx context.Context, a *authz.Attributes, rec *audit.Record) error {
	if s.cfg.Authz == nil {
		return nil
	}
	begin := time.Now()
	decision, reason, err := s.cfg.Authz.Authorize(ctx, a)
	took := time.Since(begin)
	switch {
	case decision == authz.Allow:
		s.metrics.gates.allowed.add(took)
		if rec != nil {
			rec.Annotate("authorization.k8s.io/decision", "allow")
			rec.Annotate("authorization.k8s.io/reason", reason)
		}
		return nil
	case err != nil:
		s.metrics.gates.lost.add(took)
		s.log.Warn("authorization failed", "user", a.User.Name, "verb", a.Verb, "error", err)
		if rec != nil {
			rec.Annotate("authorization.k8s.io/reason", "internal error")
		}
		// The text can name servers that are no business of the user's.
		return apierrors.NewInternalError(errors.New("the request could not be authorized"))
	}
	if decision == authz.Deny {
		s.metrics.gates.denied.add(took)
	} else {
		s.metrics.gates.unmoved.add(took)
	}
	if rec != nil {
		rec.Annotate("authorization.k8s.io/decision", "forbid")
		rec.Annotate("authorization.k8s.io/reason", reason)
	}
	return Forbidden(a, reason)
}

// unrecorded refuses a request that is not to be carried out without a record.
func unrecorded(err error) error {
	return apierrors.NewInternalError(fmt.Errorf("the request could not be recorded for audit: %w", err))
}

// Forbidden is the 403 that refuses a request with these attributes.
func Forbidden(a *authz.Attributes, reason string) error {
	msg := deniedText(a)
	if reason != "" {
		msg += ": " + reason
	}
	gr := schema.GroupResource{Group: a.Group, Resource: a.Resource}
	return apierrors.NewForbidden(gr, a.Name, errors.New(msg))
}

func deniedText(a *authz.Attributes) string {
	user := fmt.Sprintf("User %q cannot %s", a.User.Name, a.Verb)
	if !a.IsResource() {
		return fmt.Sprintf("%s path %q", user, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	if a.Namespace != "" {
		return fmt.Sprintf("%s resource %q in API group %q in the namespace %q", user, resource, a.Group, a.Namespace)
	}
	return fmt.Sprintf("%s resource %q in API group %q at the cluster scope", user, resource, a.Group)
}

func (c *call) beginAudit() {
	if c.srv.cfg.Audit == nil {
		return
	}
	req := c.req
	r := &audit.Request{
		Verb: string(req.Verb), User: req.User,
		Group: req.Resource.Group, Version: req.Resource.Version, Resource: req.Resource.Resource,
		Subresource: req.Subresource, Namespace: c.authNamespace(), Name: c.name,
	}
	if f := c.front; f != nil {
		r.ID, r.Received, r.URI, r.SourceIPs, r.UserAgent = f.id, f.received, f.uri, f.sourceIPs, f.userAgent
		r.Annotations = c.notes()
		if f.imp != nil {
			r.User = *f.imp
		}
	} else {
		r.ID, r.Received, r.URI, r.UserAgent = newUID(), c.srv.now(), requestPath(req), c.manager
	}
	c.record = c.srv.cfg.Audit.Begin(r)
	if c.front != nil && c.front.imp != nil {
		c.record.Impersonated(req.User, c.front.constraint)
	}
}

// notes are the annotations that the record begins with.
func (c *call) notes() map[string]string {
	notes := c.front.notes.All()
	if c.res.view == nil || c.res.view.Deprecated == "" {
		return notes
	}
	out := map[string]string{"k8s.io/deprecated": "true"}
	maps.Copy(out, notes)
	if release := removedIn(c.res.view.Deprecated); release != "" {
		out["k8s.io/removed-release"] = release
	}
	return out
}

// auditBody records the body, where the policy wants it.
func (c *call) auditBody() {
	switch {
	case c.req.Object != nil:
		c.record.RequestObject(c.recordedBody(), c.bodyKind())
	case c.req.Verb == client.Patch:
		c.record.RequestPatch(c.req.Patch)
	}
}

// bodyKind is the kind that the body of a create or update has.
func (c *call) bodyKind() schema.GroupVersionKind {
	switch {
	case c.sub != nil && c.sub.Action != nil:
		return c.sub.Action.GVK
	case c.sub != nil && c.sub.Project != nil:
		return c.sub.Project.GVK
	}
	return c.res.view.GroupVersionKind
}

// requestPath is the URL path of a request.
func requestPath(req *client.Request) string {
	var b strings.Builder
	if req.Resource.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + req.Resource.Group + "/")
	}
	b.WriteString(req.Resource.Version)
	if req.Namespace != "" {
		b.WriteString("/namespaces/" + req.Namespace)
	}
	b.WriteString("/" + req.Resource.Resource)
	if req.Name != "" && req.Verb != client.Create || req.Subresource != "" {
		b.WriteString("/" + req.Name)
	}
	if req.Subresource != "" {
		b.WriteString("/" + req.Subresource)
	}
	return b.String()
}

// serve carries out every verb but watch, as far as its answer.
func (c *call) serve(ctx context.Context) (ans *answer, err error) {
	start := c.srv.now()
	done, err := c.begin(ctx)
	code := http.StatusInternalServerError
	defer func() {
		if p := recover(); p != nil {
			err = c.panicked(p)
		}
		if err == nil {
			code = ans.code(c.req)
			c.auditAnswer(ans)
		} else if c.res.gvr.Group != c.res.gr.Group {
			err = c.regrouped(err)
		}
		done(code, err)
		c.srv.metrics.observe(c, code, err, c.srv.now().Sub(start))
	}()
	if err != nil {
		return nil, err
	}
	return c.dispatch(ctx)
}

// regrouped tells of the resource in the group that the client knows it by,
// where it is kept as one of another.
func (c *call) regrouped(err error) error {
	var st *apierrors.StatusError
	if !errors.As(err, &st) || st.ErrStatus.Details == nil || st.ErrStatus.Details.Kind != c.res.gr.Resource || st.ErrStatus.Details.Group != c.res.gr.Group {
		return err
	}
	out := &apierrors.StatusError{ErrStatus: *st.ErrStatus.DeepCopy()}
	out.ErrStatus.Details.Group = c.res.gvr.Group
	out.ErrStatus.Message = strings.Replace(out.ErrStatus.Message, c.res.gr.String()+" ", c.res.gvr.GroupResource().String()+" ", 1)
	return out
}

func (c *call) panicked(p any) error {
	c.record.Panicked()
	c.srv.log.Error("request panicked", "verb", c.req.Verb, "resource", c.req.Resource.Resource,
		"subresource", c.req.Subresource, "panic", p, "stack", string(debug.Stack()))
	return apierrors.NewInternalError(fmt.Errorf("apiserver panic'd on %s %s", c.req.Verb, requestPath(c.req)))
}

func (c *call) dispatch(ctx context.Context) (*answer, error) {
	switch {
	case c.sub == nil && c.res.store == nil:
		return c.action(ctx, c.res.gr.String(), nil)
	case c.sub == nil:
		return c.main(ctx)
	case c.sub.Object != nil:
		return c.objectSub(ctx)
	case c.sub.Project != nil:
		return c.project(ctx)
	case c.sub.Action != nil:
		return c.action(ctx, c.res.gr.String()+"/"+c.req.Subresource, c.sub.Action)
	}
	return nil, apierrors.NewMethodNotSupported(c.res.gvr.GroupResource(), string(c.req.Verb))
}

func (c *call) main(ctx context.Context) (*answer, error) {
	switch c.req.Verb {
	case client.Get:
		return c.get(ctx)
	case client.List:
		return c.list(ctx)
	case client.Create:
		return c.create(ctx)
	case client.Update, client.Patch:
		return c.update(ctx, &c.res.Strategy)
	case client.Delete:
		return c.delete(ctx)
	case client.DeleteCollection:
		return c.deleteCollection(ctx)
	}
	return nil, apierrors.NewMethodNotSupported(c.res.gvr.GroupResource(), string(c.req.Verb))
}

// code is the HTTP status of a success.
func (a *answer) code(req *client.Request) int {
	switch {
	case a.created:
		return http.StatusCreated
	case a.pending && req.Options.OrphanDependents != nil && !*req.Options.OrphanDependents:
		return http.StatusAccepted
	}
	return http.StatusOK
}

// kindOf is the kind of an answer's object as it is shown.
func (c *call) kindOf(a *answer) schema.GroupVersionKind {
	if a.hub || a.entry != nil {
		return c.res.view.GroupVersionKind
	}
	if _, ok := a.obj.(*metav1.Status); ok {
		return wire.StatusHead.GVK
	}
	if gvk := a.obj.GetObjectKind().GroupVersionKind(); !gvk.Empty() {
		return gvk
	}
	if c.sub != nil && c.sub.Action != nil {
		return c.sub.Action.Result
	}
	return c.bodyKind()
}
