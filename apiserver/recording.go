package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/store"
)

// recordedBody is the body of a create or update as it is recorded: with the
// defaults of its version, as upstream does.
func (c *call) recordedBody() runtime.Object {
	obj := c.req.Object
	if c.record.WantsBodies() < 1 {
		return obj
	}
	switch {
	case c.sub != nil && c.sub.Action != nil:
		if c.sub.Action.Default != nil {
			obj = obj.DeepCopyObject()
			c.sub.Action.Default(obj)
		}
	case c.sub == nil || c.sub.Object != nil:
		hub, err := c.res.toHub(obj.DeepCopyObject())
		if err != nil {
			return obj
		}
		if shown, err := c.res.fromHub(hub); err == nil {
			return shown
		}
	}
	return obj
}

// recordedOptions is the kind that upstream's records name for the body of a
// delete.
var recordedOptions = schema.GroupVersionKind{Group: metav1.GroupName, Version: runtime.APIVersionInternal, Kind: "DeleteOptions"}

// auditOptions records the body of a delete.
func (h *httpCall) auditOptions(o *metav1.DeleteOptions) {
	if h.record.WantsBodies() < 1 {
		return
	}
	shown := *o
	shown.TypeMeta = metav1.TypeMeta{}
	h.record.RequestObject(&shown, recordedOptions)
}

// auditAnswer records the answer as the client is shown it, but always in JSON.
func (c *call) auditAnswer(a *answer) {
	if c.record == nil {
		return
	}
	if st, ok := a.obj.(*metav1.Status); ok {
		c.record.ResponseObject(st, c.kindOf(a))
		return
	}
	if c.record.WantsBodies() < 2 {
		return
	}
	if c.form != nil {
		if body := c.form(*a); body != nil {
			c.record.ResponseBody(body)
			return
		}
	}
	switch {
	case a.entry != nil:
		if obj, err := c.res.fromHub(a.entry.Object); err == nil {
			c.record.ResponseObject(obj, c.res.view.GroupVersionKind)
		}
	case a.obj != nil:
		obj, gvk := a.obj, c.kindOf(a)
		if a.hub {
			obj, _ = c.res.fromHub(obj)
		}
		c.record.ResponseObject(obj, gvk)
	}
}

// recordedForm is the form of call.
func (h *httpCall) recordedForm(a answer) []byte {
	if a.list == nil && a.items == nil && h.accept.As == "" {
		return nil
	}
	if h.record.OmitsManagedFields() {
		a = a.withoutManagedFields()
	}
	shown := &httpCall{call: h.call, r: h.r, accept: h.accept}
	shown.accept.Media = wire.JSON
	pieces, err := shown.pieces(&a)
	defer shown.listing.recycle()
	if err != nil {
		return nil
	}
	return slices.Concat(pieces...)
}

// withoutManagedFields is the answer with copies of what it shows.
func (a answer) withoutManagedFields() answer {
	bare := func(obj runtime.Object) runtime.Object {
		obj = obj.DeepCopyObject()
		accessor(obj).SetManagedFields(nil)
		return obj
	}
	switch {
	case a.entry != nil:
		a.entry = &store.Entry{Object: bare(a.entry.Object)}
	case a.list != nil:
		l := *a.list
		l.Entries = make([]*store.Entry, len(a.list.Entries))
		for i, e := range a.list.Entries {
			l.Entries[i] = &store.Entry{Object: bare(e.Object)}
		}
		a.list = &l
	case a.items != nil:
		items := make([]runtime.Object, len(a.items))
		for i, o := range a.items {
			items[i] = bare(o)
		}
		a.items = items
	case a.hub && a.obj != nil:
		a.obj = bare(a.obj)
	}
	return a
}

// pathWriter notes what is answered to a request that is not for a resource.
type pathWriter struct {
	codeWriter
	rec     *audit.Record
	refusal *metav1.Status
}

// Refused is told of the status that is about to be sent.
func (p *pathWriter) Refused(st *metav1.Status) { p.refusal = st }

// Shown is told of the document that is about to be sent, in JSON.
func (p *pathWriter) Shown(body []byte) { p.rec.ResponseBody(body) }

// startWriter records when the answer to a long-running request begins, and with
// what.
type startWriter struct {
	codeWriter
	rec     *audit.Record
	refusal *metav1.Status
	begun   bool
}

// Refused is told of the status that is about to be sent.
func (s *startWriter) Refused(st *metav1.Status) { s.refusal = st }

func (s *startWriter) begin(code int) {
	if !s.begun {
		s.begun = true
		s.rec.ResponseStarted(int32(code), s.refusal)
	}
}

// WriteHeader notes the code.
func (s *startWriter) WriteHeader(code int) { s.begin(code); s.codeWriter.WriteHeader(code) }

// Write begins the answer, if nothing did yet.
func (s *startWriter) Write(p []byte) (int, error) {
	s.begin(http.StatusOK)
	return s.codeWriter.Write(p)
}

// Flush sends what is buffered.
func (s *startWriter) Flush() { s.begin(http.StatusOK); s.codeWriter.Flush() }

// Hijack hands over the connection.
func (s *startWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.begin(http.StatusSwitchingProtocols)
	return s.codeWriter.Hijack()
}
