// Package audit records who asked what of the API and how it ended: requests
// go in as they pass the pipeline, audit.k8s.io/v1 events that the policy
// asks for go out to a sink.
package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/client"
)

// Sink takes finished events. An event is shared and read only once handed
// over. Write may block: the request waits for it, so that no request is
// answered whose record is lost (upstream's "blocking" mode). It is safe for
// concurrent use.
type Sink interface {
	Write(ev *auditv1.Event) error
}

// SinkFunc adapts a function.
type SinkFunc func(ev *auditv1.Event) error

// Write calls f.
func (f SinkFunc) Write(ev *auditv1.Event) error { return f(ev) }

// Request is what is known of a request before it is carried out. Path is
// set for requests that are not for a resource; Resource and what follows it
// for the others.
type Request struct {
	ID       types.UID // of the Audit-ID header or made by the pipeline
	Received time.Time
	URI      string
	Verb     string
	User     client.User

	SourceIPs []string
	UserAgent string

	Path                  string
	Group, Version        string
	Resource, Subresource string
	Namespace, Name       string

	// Annotations are what authentication and the resource have to say.
	Annotations map[string]string
}

// Log makes the records of requests. A nil *Log is audit switched off: Begin
// returns nil at no cost, and every method of a nil *Record does nothing.
type Log struct {
	policy *Policy
	sink   Sink
	now    func() time.Time
	failed func(error)
	strict bool
	counts *Counts
}

// Count makes c count what the log does. It is called before the log is used;
// l may be nil.
func (l *Log) Count(c *Counts) {
	if l != nil {
		l.counts = c
	}
}

// Strict makes a request fail whose beginning cannot be recorded (upstream's
// mode "blocking-strict"). It is called before the log is used; l may be nil.
func (l *Log) Strict() {
	if l != nil {
		l.strict = true
	}
}

// New returns a log that writes what policy asks for to sink; nil when policy
// is nil. now is the clock; failed is told of events that the sink did not
// take (it must not log the event itself).
func New(policy *Policy, sink Sink, now func() time.Time, failed func(error)) *Log {
	if policy == nil || sink == nil {
		return nil
	}
	return &Log{policy: policy, sink: sink, now: now, failed: failed}
}

// Record is the audit record of one request while it is carried out. Its
// methods are safe for concurrent use and on a nil *Record.
type Record struct {
	log  *Log
	rule decision

	mu   sync.Mutex
	ev   auditv1.Event
	said *metav1.Status // the answer, if it is one
	done bool
	// started: the stage ResponseStarted is past.
	started bool
	lost    error // of the beginning, in strict mode
}

// Begin starts the record of a request once its user is known, and writes
// the RequestReceived stage. It returns nil when nothing is to be recorded.
func (l *Log) Begin(r *Request) *Record {
	rec := l.begin(r)
	if rec == nil {
		return nil
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if err := rec.writeLocked(auditv1.StageRequestReceived); l.strict && err != nil {
		rec.lost = err
		l.counts.refused()
	}
	return rec
}

// Unknown records a request that was refused because nobody knows who makes it,
// which is one record of the stage ResponseStarted. l may be nil.
func (l *Log) Unknown(r *Request, refusal *metav1.Status) {
	l.begin(r).ResponseStarted(refusal.Code, refusal)
}

func (l *Log) begin(r *Request) *Record {
	if l == nil {
		return nil
	}
	rule := l.policy.decide(r)
	l.counts.decided(rule.level)
	if rule.level == auditv1.LevelNone {
		return nil
	}
	rec := &Record{log: l, rule: rule, ev: auditv1.Event{
		TypeMeta:                 metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "Event"},
		Level:                    rule.level,
		AuditID:                  r.ID,
		RequestURI:               r.URI,
		Verb:                     r.Verb,
		User:                     userInfo(r.User),
		SourceIPs:                r.SourceIPs,
		UserAgent:                r.UserAgent,
		RequestReceivedTimestamp: metav1.NewMicroTime(r.Received),
		Annotations:              maps.Clone(r.Annotations),
	}}
	if r.Path == "" {
		rec.ev.ObjectRef = &auditv1.ObjectReference{
			Resource: r.Resource, Namespace: r.Namespace, Name: r.Name,
			APIGroup: r.Group, APIVersion: r.Version, Subresource: r.Subresource,
		}
	}
	return rec
}

func userInfo(u client.User) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	if len(u.Extra) > 0 {
		out.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
		for k, v := range u.Extra {
			out.Extra[k] = v
		}
	}
	return out
}

// Lost is the error for which the request must be refused: in strict mode,
// that its beginning could not be recorded.
func (r *Record) Lost() error {
	if r == nil {
		return nil
	}
	return r.lost
}

// Impersonated notes on whose behalf the request is carried out, and the verb
// of the constrained impersonation (KEP-5284) that allowed it; "" for any other.
func (r *Record) Impersonated(u client.User, constraint string) {
	if r == nil {
		return
	}
	info := userInfo(u)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.ImpersonatedUser = &info
	if constraint != "" {
		r.ev.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

// Annotate adds an annotation; the first value of a key stays.
func (r *Record) Annotate(key, value string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ev.Annotations == nil {
		r.ev.Annotations = map[string]string{}
	}
	if _, ok := r.ev.Annotations[key]; !ok {
		r.ev.Annotations[key] = value
	}
}

// RequestObject notes the body of the request in the requested version, as
// the client sent it. obj is encoded at once, and only if the level asks for
// bodies; it is not kept.
func (r *Record) RequestObject(obj runtime.Object, gvk schema.GroupVersionKind) {
	if r == nil || obj == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref := r.ev.ObjectRef; ref != nil {
		fillRef(ref, obj)
	}
	if bodies(r.rule.level) >= 1 {
		r.ev.RequestObject = r.encode(obj, gvk)
	}
}

// RequestPatch notes the body of a patch, which must be JSON.
func (r *Record) RequestPatch(patch []byte) {
	if r == nil || bodies(r.rule.level) < 1 || !json.Valid(patch) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.RequestObject = &runtime.Unknown{Raw: append([]byte(nil), patch...), ContentType: runtime.ContentTypeJSON}
}

// ResponseObject notes the answer in the requested version, as RequestObject
// does.
func (r *Record) ResponseObject(obj runtime.Object, gvk schema.GroupVersionKind) {
	if r == nil || obj == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := obj.(*metav1.Status); ok {
		r.said = st.DeepCopy()
	}
	if bodies(r.rule.level) >= 2 {
		r.ev.ResponseObject = r.encode(obj, gvk)
	}
}

// ResponseBody notes an answer that is JSON already: a list, or another form
// of an object than its own. It is kept.
func (r *Record) ResponseBody(body []byte) {
	if r == nil || bodies(r.rule.level) < 2 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.ResponseObject = &runtime.Unknown{Raw: body, ContentType: runtime.ContentTypeJSON}
}

// OmitsManagedFields says that bodies are recorded without them.
func (r *Record) OmitsManagedFields() bool { return r != nil && r.rule.omitManaged }

// WantsBodies says whether the level asks for request (1 and more) and
// response bodies (2), so that the pipeline prepares them only then.
func (r *Record) WantsBodies() int {
	if r == nil {
		return 0
	}
	return bodies(r.rule.level)
}

// ResponseStarted writes that stage: for long-running requests, when their
// headers are out. A refusal passes its status. Only the first start counts.
func (r *Record) ResponseStarted(code int32, refusal *metav1.Status) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.done {
		return
	}
	r.started = true
	r.answeredLocked(code, refusal)
	_ = r.writeLocked(auditv1.StageResponseStarted)
}

// answeredLocked notes how the request ends. A refusal, which is what the
// client reads, is the answer too.
func (r *Record) answeredLocked(code int32, refusal *metav1.Status) {
	if refusal != nil {
		r.said = refusal
		if bodies(r.rule.level) >= 2 {
			shown := *refusal
			shown.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
			r.ev.ResponseObject = r.encode(&shown, schema.GroupVersionKind{})
		}
	}
	st := metav1.Status{}
	if r.said != nil {
		st.Status, st.Message, st.Reason, st.Details = r.said.Status, r.said.Message, r.said.Reason, r.said.Details
	}
	st.Code = code
	r.ev.ResponseStatus = &st
}

// End writes the last stage: ResponseComplete. A refusal passes its status,
// a success only its HTTP code. Only the first end counts.
func (r *Record) End(code int32, refusal *metav1.Status) {
	r.end(auditv1.StageResponseComplete, code, refusal)
}

// Panicked writes the Panic stage as the last one. What was thrown is not
// recorded, since it can hold anything.
func (r *Record) Panicked() {
	r.end(auditv1.StagePanic, 500, &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError,
		Message: "APIServer panic'd",
	})
}

func (r *Record) end(stage auditv1.Stage, code int32, refusal *metav1.Status) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return
	}
	r.done = true
	r.answeredLocked(code, refusal)
	_ = r.writeLocked(stage)
}

func (r *Record) writeLocked(stage auditv1.Stage) error {
	if r.rule.omits(stage) {
		return nil
	}
	r.ev.Stage = stage
	r.ev.StageTimestamp = metav1.NewMicroTime(r.log.now())
	if stage == auditv1.StageRequestReceived {
		r.ev.StageTimestamp = r.ev.RequestReceivedTimestamp
	}
	ev := r.ev // later stages change r.ev; the sink keeps this one
	ev.Annotations = maps.Clone(r.ev.Annotations)
	if r.ev.ObjectRef != nil {
		ref := *r.ev.ObjectRef
		ev.ObjectRef = &ref
	}
	r.log.counts.written()
	err := r.log.sink.Write(&ev)
	if err != nil && r.log.failed != nil {
		r.log.failed(fmt.Errorf("write audit event of request %s: %w", ev.AuditID, err))
	}
	return err
}

func (r *Record) encode(obj runtime.Object, gvk schema.GroupVersionKind) *runtime.Unknown {
	obj = withoutToken(obj)
	if r.rule.omitManaged {
		obj = withoutManagedFields(obj)
	}
	raw, err := json.Marshal(obj)
	if err != nil || len(raw) < 2 || raw[0] != '{' {
		return nil
	}
	if obj.GetObjectKind().GroupVersionKind().Empty() && !gvk.Empty() {
		head := fmt.Sprintf(`{"kind":%q,"apiVersion":%q`, gvk.Kind, gvk.GroupVersion().String())
		if raw[1] != '}' {
			head += ","
		}
		raw = append([]byte(head), raw[1:]...)
	}
	return &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
}

// withoutToken leaves out the bearer tokens that the API hands out or is asked
// about: who reads the records must not become their users.
func withoutToken(obj runtime.Object) runtime.Object {
	switch o := obj.(type) {
	case *authenticationv1.TokenRequest:
		if o.Status.Token != "" {
			o = o.DeepCopy()
			o.Status.Token = ""
			return o
		}
	case *authenticationv1.TokenReview:
		if o.Spec.Token != "" {
			o = o.DeepCopy()
			o.Spec.Token = ""
			return o
		}
	}
	return obj
}

func withoutManagedFields(obj runtime.Object) runtime.Object {
	if m, err := meta.Accessor(obj); err == nil && len(m.GetManagedFields()) > 0 {
		obj = obj.DeepCopyObject()
		m, _ = meta.Accessor(obj)
		m.SetManagedFields(nil)
	}
	return obj
}

func fillRef(ref *auditv1.ObjectReference, obj runtime.Object) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	if ref.Name == "" {
		ref.Name = m.GetName()
	}
	if ref.Namespace == "" {
		ref.Namespace = m.GetNamespace()
	}
	if ref.UID == "" {
		ref.UID = m.GetUID()
	}
	if ref.ResourceVersion == "" {
		ref.ResourceVersion = m.GetResourceVersion()
	}
}

// bodies ranks the levels by the bodies that they record.
func bodies(l auditv1.Level) int {
	switch l {
	case auditv1.LevelRequest:
		return 1
	case auditv1.LevelRequestResponse:
		return 2
	}
	return 0
}
