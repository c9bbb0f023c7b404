package apiserver

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
)

// nameTries is how often a generated name that is taken is replaced.
const nameTries = 8

// create stores a new object.
func (c *call) create(ctx context.Context) (*answer, error) {
	if err := c.checkWriteOptions(); err != nil {
		return nil, err
	}
	if c.req.Name != "" {
		// Only the local door names the object; the URL of a POST does not.
		if m := accessor(c.req.Object); m.GetName() == "" {
			m.SetName(c.req.Name)
		}
		c.req.Name = ""
	}
	body, err := c.res.toHub(c.req.Object)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	c.req.Object = body
	m := accessor(body)
	if err := c.matchRequest(m); err != nil {
		return nil, err
	}
	t := &transaction{call: c, ctx: ctx}
	generated := m.GetName() == "" && m.GetGenerateName() != ""
	c.req.Name = m.GetName()
	for try := 1; ; try++ {
		obj := body
		if generated {
			obj = body.DeepCopyObject()
		}
		ans, name, err := t.createOnce(obj)
		t.finish(err == nil)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			t.tell()
			return ans, err
		}
		if !generated {
			t.tell()
			return nil, c.exists(ctx, obj, err)
		}
		if try == nameTries {
			return nil, apierrors.NewGenerateNameConflict(c.res.gr, name, 1)
		}
		t.restart()
	}
}

// exists says of the conflict with an object that this one is going.
func (c *call) exists(ctx context.Context, obj runtime.Object, err error) error {
	m := accessor(obj)
	e, gone := c.res.store.Get(ctx, c.res.key(m.GetNamespace(), m.GetName()), "0")
	var st *apierrors.StatusError
	if gone == nil && accessor(e.Object).GetDeletionTimestamp() != nil && errors.As(err, &st) {
		going := *st
		going.ErrStatus.Message = "object is being deleted: " + st.ErrStatus.Message
		return &going
	}
	return err
}

func (t *transaction) createOnce(obj runtime.Object) (ans *answer, name string, err error) {
	if err := t.prepareCreate(obj); err != nil {
		return nil, "", err
	}
	m := accessor(obj)
	if rv, err := revisionOf(m); err == nil && rv != 0 { // known to admission, which may say more
		return nil, "", errors.New("resourceVersion should not be set on objects to be created")
	}
	m.SetResourceVersion("")
	key := t.res.key(m.GetNamespace(), m.GetName())
	if t.req.Options.DryRun {
		if _, err := t.res.store.Get(t.ctx, key, ""); err == nil {
			return nil, m.GetName(), apierrors.NewAlreadyExists(t.res.gr, m.GetName())
		} else if !apierrors.IsNotFound(err) {
			return nil, "", err
		}
		t.finish(false)
		return &answer{obj: obj, hub: true, created: true}, "", nil
	}
	e, err := t.res.store.Create(t.ctx, key, obj)
	if err != nil {
		return nil, m.GetName(), err
	}
	return &answer{entry: e, created: true}, "", nil
}

// prepareCreate makes a decoded and defaulted object ready to be stored.
func (t *transaction) prepareCreate(obj runtime.Object) error {
	m := accessor(obj)
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	m.SetUID("")
	t.singleOwners(m, ownersInRequest)
	t.track(obj, nil, "", t.fieldManager())
	m.SetUID(newUID())
	m.SetCreationTimestamp(t.now())

	a := t.attributes(admission.Create, obj, nil)
	a.Name = m.GetName()
	if err := t.admit(a); err != nil {
		return err
	}
	return t.completeCreate(a, obj)
}

// completeCreate is what follows mutating admission.
func (t *transaction) completeCreate(a *admission.Attributes, obj runtime.Object) error {
	st := &t.res.Strategy
	m := accessor(obj)
	if err := t.keepPlace(m); err != nil {
		return err
	}
	t.singleOwners(m, ownersAdmitted)
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(generateName(m.GetGenerateName()))
		a.Name = m.GetName()
		if st.Default != nil { // defaults may depend on the name
			st.Default(obj)
		}
	}
	if st.EarlyWarnings != nil {
		t.warns = append(t.warns, st.EarlyWarnings(obj)...)
	}
	if st.PrepareCreate != nil { // needs the name: a Job's labels carry it
		st.PrepareCreate(obj)
	}
	if err := t.reserve(obj, nil); err != nil {
		return err
	}
	if st.Canonicalize != nil {
		st.Canonicalize(obj)
	}
	errs := t.validateNew(m, obj)
	if t.res.view.Check != nil {
		errs = append(errs, t.res.view.Check(obj, nil)...)
	}
	if err := t.invalid(m.GetName(), errs); err != nil {
		return err
	}
	if st.Warnings != nil {
		t.warns = append(t.warns, st.Warnings(obj, nil)...)
	}
	if err := t.validate(a); err != nil {
		return err
	}
	t.res.settle(obj)
	return nil
}

// validateNew checks an object's metadata and what its kind asks for.
func (t *transaction) validateNew(m metav1.Object, obj runtime.Object) field.ErrorList {
	var own field.ErrorList
	if t.res.Strategy.Validate != nil {
		own = t.res.Strategy.Validate(obj)
	}
	if t.sub != nil && t.sub.Object != nil && t.sub.Object.Validate != nil { // of what is made through it
		own = append(own, t.sub.Object.Validate(obj)...)
	}
	names, late := t.res.nameCheck(), t.res.Strategy.LateMetadata
	if late && t.res.view.Check == nil {
		if len(own) > 0 {
			return own
		}
		names = path.ValidatePathSegmentName
	}
	errs := apivalidation.ValidateObjectMetaAccessor(m, t.res.Namespaced, names, field.NewPath("metadata"))
	errs = append(errs, t.res.checkFinalizers(m, false)...)
	if late {
		return append(own, errs...)
	}
	return append(errs, own...)
}

// generateName appends five random characters, cutting the base so that the
// name fits a DNS label.
func generateName(base string) string {
	const label, suffix = 63, 5
	if len(base) > label-suffix {
		base = base[:label-suffix]
	}
	return base + rand.String(suffix)
}
