package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

type metav1Status = metav1.Status

func statusErrorOf(st *metav1.Status) error { return &apierrors.StatusError{ErrStatus: *st} }

func newUID() types.UID { return uuid.NewUUID() }

func revision(r int64) string { return strconv.FormatInt(r, 10) }

// errModified is upstream's word for a lost race.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// transaction is one write while it runs, possibly several times over.
type transaction struct {
	*call
	ctx   context.Context
	undo  []func(committed bool) // what hooks of the current try reserved
	warns []string               // of the current try
}

// restart drops what the previous try reserved and said.
func (t *transaction) restart() {
	t.finish(false)
	t.warns = t.warns[:0]
}

// finish tells the hooks how the try ended.
func (t *transaction) finish(committed bool) {
	for _, f := range t.undo {
		f(committed)
	}
	t.undo = nil
	if committed {
		t.tell()
	}
}

// tell gives the user the warnings of the last try, which is also done when it
// was refused.
func (t *transaction) tell() {
	for _, w := range t.warns {
		t.warn(w)
	}
	t.warns = t.warns[:0]
}

// reserve runs the kind's hook.
func (t *transaction) reserve(obj, old runtime.Object) error {
	if t.res.hook.Begin == nil {
		return nil
	}
	done, err := t.res.hook.Begin(t.ctx, t.req, obj, old)
	if done != nil {
		t.undo = append(t.undo, done)
	}
	return err
}

// attributes are what admission sees of the write.
func (t *transaction) attributes(op admission.Operation, obj, old runtime.Object) *admission.Attributes {
	gvk := t.res.Hub
	if obj != nil && t.sub != nil && (t.sub.Action != nil || t.sub.Connect != nil) {
		gvk = t.bodyKind()
	}
	a := &admission.Attributes{
		User: t.req.User, Operation: op, Kind: gvk, Resource: t.req.Resource,
		Subresource: t.req.Subresource, Namespace: t.req.Namespace, Name: t.req.Name,
		DryRun: t.req.Options.DryRun, Options: &t.req.Options, Object: obj, Old: old,
		Warn: func(w string) { t.warns = append(t.warns, w) }, Annotate: t.record.Annotate,
	}
	if a.Namespace == "" && t.res.gr == namespaces {
		a.Namespace = a.Name
	}
	return a
}

// admit runs the mutating phase; changed says that a plugin may have changed
// the object.
func (t *transaction) admit(a *admission.Attributes) (err error) {
	begin := time.Now()
	defer t.admitted(a, admitting, begin, &err)
	chain := t.srv.admission.Load().steps(a.Operation, admitting)
	for again := true; again; {
		if err := runAll(t.ctx, chain, a); err != nil {
			return t.refused(a, err)
		}
		again = a.Again && a.Round == 0
		a.Round++
	}
	if a.Object != nil && len(chain) > 0 && a.Operation != admission.Connect && t.res.Strategy.Default != nil &&
		(t.sub == nil || t.sub.Object != nil) {
		t.res.Strategy.Default(a.Object)
	}
	return nil
}

// validate runs the validating phase.
func (t *transaction) validate(a *admission.Attributes) (err error) {
	begin := time.Now()
	defer t.admitted(a, validating, begin, &err)
	if err := runAll(t.ctx, t.srv.admission.Load().steps(a.Operation, validating), a); err != nil {
		return t.refused(a, err)
	}
	return nil
}

// admitted measures a phase of admission that has ended.
func (t *transaction) admitted(a *admission.Attributes, phase int, begin time.Time, err *error) {
	t.srv.metrics.gates.admitted(a.Operation, phase, *err, time.Since(begin))
	if t.req.Verb != client.DeleteCollection { // which waits for several at a time
		t.waited += a.Waited
	}
	a.Waited = 0
}

// refused turns a plugin's error into the 403 that users see, unless it is a
// status already.
func (t *transaction) refused(a *admission.Attributes, err error) error {
	var st apierrors.APIStatus
	if errors.As(err, &st) {
		return err
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), err)
}

// invalid is the 422 for a list of field errors, or nil.
func (t *transaction) invalid(name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	if !t.res.custom {
		for _, e := range errs {
			e.BadValue = check.Shown(e.BadValue)
		}
	}
	return apierrors.NewInvalid(t.res.Hub.GroupKind(), name, errs)
}

// fieldManager is the manager that a write's fields belong to.
func (c *call) fieldManager() string {
	if c.req.Options.FieldManager != "" {
		return c.req.Options.FieldManager
	}
	return c.manager
}

// checkWriteOptions refuses malformed options of create, update and patch.
func (c *call) checkWriteOptions() error {
	o := &c.req.Options
	if o.FieldManager == "" && o.FieldValidation == "" && c.req.Verb != client.Patch {
		return nil
	}
	var errs field.ErrorList
	kind := ""
	switch c.req.Verb {
	case client.Create:
		kind = "CreateOptions"
		errs = metavalidation.ValidateCreateOptions(&metav1.CreateOptions{FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	case client.Update:
		kind = "UpdateOptions"
		errs = metavalidation.ValidateUpdateOptions(&metav1.UpdateOptions{FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	case client.Patch:
		kind = "PatchOptions"
		po := &metav1.PatchOptions{FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
		if o.Force {
			po.Force = &o.Force
		}
		errs = metavalidation.ValidatePatchOptions(po, c.req.PatchType)
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// matchRequest holds the body's name and namespace against the URL's, and
// fills in what the body leaves out.
func (c *call) matchRequest(m metav1.Object) error {
	if c.req.Name != "" {
		if m.GetName() == "" {
			m.SetName(c.req.Name)
		} else if m.GetName() != c.req.Name {
			return apierrors.NewBadRequest(fmt.Sprintf(
				"the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), c.req.Name))
		}
	}
	switch {
	case !c.res.Namespaced:
		m.SetNamespace("") // as upstream has it, which refuses none
	case m.GetNamespace() == "":
		m.SetNamespace(c.req.Namespace)
	case m.GetNamespace() != c.req.Namespace:
		return errNamespace()
	}
	return nil
}

// keepPlace puts an object where the request is, or refuses one that names
// another namespace. Without it, admission could have an object written in one
// namespace be stored in another.
func (t *transaction) keepPlace(m metav1.Object) error {
	m.SetSelfLink("")
	switch {
	case !t.res.Namespaced:
		m.SetNamespace("")
	case m.GetNamespace() == "":
		m.SetNamespace(t.req.Namespace)
	case m.GetNamespace() != t.req.Namespace:
		return errNamespace()
	}
	return nil
}

func errNamespace() error {
	return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
}

// now is the present as API timestamps have it, in whole seconds and in the
// zone that decoded ones have.
func (c *call) now() metav1.Time {
	return metav1.Time{Time: metav1.NewTime(c.srv.now()).Rfc3339Copy().Local()}
}
