package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// updating is an update or patch of the object, through itself or through one
// of its subresources.
type updating struct {
	*transaction
	strategy *api.Strategy
	// produce makes the new hub object from the current one (nil when there
	// is none), which is shared and read only. The result is the caller's.
	produce func(cur runtime.Object) (runtime.Object, error)
	// mayCreate lets the request make an absent object.
	mayCreate bool
	// tracked says that produce has kept managedFields itself.
	tracked bool

	created bool
	removed runtime.Object // the new state of an object that the write removed
}

// update carries out PUT and PATCH under a strategy.
func (c *call) update(ctx context.Context, st *api.Strategy) (*answer, error) {
	if err := c.checkWriteOptions(); err != nil {
		return nil, err
	}
	u := &updating{transaction: &transaction{call: c, ctx: ctx}, strategy: st}
	var err error
	if c.req.Verb == client.Patch {
		err = u.preparePatch()
	} else {
		u.mayCreate = st.AllowCreateOnUpdate
		err = u.prepareBody()
	}
	if err != nil {
		return nil, err
	}
	return u.run()
}

// prepareBody converts the body of a PUT once; every try gets a copy.
func (u *updating) prepareBody() error {
	m := accessor(u.req.Object)
	if m.GetName() == "" && u.req.Name != "" {
		return u.nameless()
	}
	if err := u.matchRequest(m); err != nil {
		return err
	}
	body, err := u.res.toHub(u.req.Object)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	u.req.Object = body
	u.produce = func(runtime.Object) (runtime.Object, error) { return body.DeepCopyObject(), nil }
	return nil
}

func (u *updating) nameless() error {
	return apierrors.NewBadRequest("the name of the object (" + u.req.Name + " based on URL) was undeterminable: name must be provided")
}

func (u *updating) run() (*answer, error) {
	key := u.res.key(u.req.Namespace, u.req.Name)
	if u.req.Options.DryRun {
		return u.dryRun(key)
	}
	e, err := u.res.store.Update(u.ctx, key, u.mayCreate, u.try)
	u.finish(err == nil)
	if err != nil {
		u.tell()
		return nil, err
	}
	if u.removed != nil {
		accessor(u.removed).SetResourceVersion(revision(e.Revision))
		return &answer{obj: u.removed, hub: true}, nil
	}
	return &answer{entry: e, created: u.created}, nil
}

func (u *updating) dryRun(key string) (*answer, error) {
	cur, err := u.res.store.Get(u.ctx, key, "")
	if apierrors.IsNotFound(err) && u.mayCreate {
		cur, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	obj, err := u.try(cur)
	if obj == nil && err == nil {
		obj = u.removed
	}
	warns := u.warns
	u.finish(false)
	u.warnings = append(u.warnings, warns...)
	if err != nil {
		return nil, err
	}
	return &answer{obj: obj, hub: true, created: u.created}, nil
}

// try is one run of the transaction.
func (u *updating) try(cur *store.Entry) (runtime.Object, error) {
	u.restart()
	u.created, u.removed = false, nil
	if cur == nil {
		return u.tryCreate()
	}
	old, err := u.res.current(cur.Object)
	if err != nil {
		return nil, err
	}
	obj, err := u.produce(old)
	if err != nil {
		return nil, err
	}
	if err := u.checkCurrent(obj, old); err != nil {
		return nil, err
	}
	if err := u.prepareUpdate(obj, old); err != nil {
		return nil, err
	}
	if u.finished(obj) {
		if err := u.reserve(nil, old); err != nil {
			return nil, err
		}
		u.removed = obj
		return nil, nil
	}
	return obj, nil
}

// tryCreate makes the absent object, which needs the right to create it.
func (u *updating) tryCreate() (runtime.Object, error) {
	obj, err := u.produce(nil)
	if err != nil {
		return nil, err
	}
	m := accessor(obj)
	if u.tracked && m.GetName() == "" {
		return nil, u.nameless()
	}
	if _, err := revisionOf(m); err != nil {
		return nil, err
	}
	m.SetResourceVersion("")
	if uid := m.GetUID(); uid != "" && !u.tracked {
		return nil, u.wrongUID(uid, "")
	} else if uid != "" { // of an apply
		return nil, apierrors.NewConflict(u.res.gr, u.req.Name, fmt.Errorf(
			"uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if err := u.matchRequest(m); err != nil {
		return nil, err
	}
	if err := u.srv.authorize(u.ctx, &authz.Attributes{
		User: u.req.User, Verb: string(client.Create),
		Group: u.req.Resource.Group, Version: u.req.Resource.Version, Resource: u.req.Resource.Resource,
		Subresource: u.req.Subresource, Namespace: u.authNamespace(), Name: u.req.Name,
	}); err != nil {
		return nil, err
	}
	u.created = true
	if u.tracked {
		fields := m.GetManagedFields()
		err = u.prepareCreateTracked(obj, fields)
	} else {
		err = u.prepareCreate(obj)
	}
	return obj, err
}

// prepareCreateTracked is prepareCreate for an object whose managed fields
// server-side apply has made.
func (u *updating) prepareCreateTracked(obj runtime.Object, fields []metav1.ManagedFieldsEntry) error {
	m := accessor(obj)
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetManagedFields(fields)
	m.SetUID(newUID())
	m.SetCreationTimestamp(u.now())
	a := u.attributes(admission.Create, obj, nil)
	if err := u.admit(a); err != nil {
		return err
	}
	return u.completeCreate(a, obj)
}

// checkCurrent holds the new object's preconditions against the stored one
// and carries over what a client need not send.
func (u *updating) checkCurrent(obj, old runtime.Object) error {
	m, om := accessor(obj), accessor(old)
	if m.GetName() == "" {
		return u.nameless()
	}
	if !u.res.Namespaced || m.GetNamespace() == "" {
		m.SetNamespace(om.GetNamespace())
	}
	if m.GetName() != om.GetName() {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), om.GetName()))
	}
	if m.GetNamespace() != om.GetNamespace() {
		return errNamespace()
	}
	if uid := m.GetUID(); uid == "" {
		m.SetUID(om.GetUID())
	} else if uid != om.GetUID() && u.req.Verb != client.Patch { // a patch changes what must not change
		return u.wrongUID(uid, om.GetUID())
	}
	rv, err := revisionOf(m)
	switch {
	case err != nil:
		return err
	case rv == 0 && u.strategy.ForbidUnconditionalUpdate:
		return apierrors.NewInvalid(schema.GroupKind{Group: u.res.gr.Group, Kind: u.res.gr.Resource}, u.req.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), rv, "must be specified for an update")})
	case rv == 0:
		m.SetResourceVersion(om.GetResourceVersion())
	case m.GetResourceVersion() != om.GetResourceVersion():
		return apierrors.NewConflict(u.res.gr, u.req.Name, errModified)
	}
	m.SetCreationTimestamp(om.GetCreationTimestamp())
	// Deletion is begun and changed by DELETE only.
	if om.GetDeletionTimestamp() != nil {
		m.SetDeletionTimestamp(om.GetDeletionTimestamp())
		m.SetDeletionGracePeriodSeconds(om.GetDeletionGracePeriodSeconds())
	}
	m.SetSelfLink("")
	return nil
}

// revisionOf is an object's resourceVersion, 0 if it has none. One that is no
// number is refused as upstream does.
func revisionOf(m metav1.Object) (uint64, error) {
	if rv := m.GetResourceVersion(); rv != "" {
		return strconv.ParseUint(rv, 10, 64)
	}
	return 0, nil
}

// wrongUID is the conflict with an object of the same name that is another.
func (u *updating) wrongUID(want, have types.UID) error {
	root := "/registry"
	if u.req.Options.DryRun { // which does not get as far as where there is a prefix
		root = ""
	}
	return apierrors.NewConflict(u.res.gr, u.req.Name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s/%s/%s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v",
		root, u.res.Prefix, u.res.key(u.req.Namespace, u.req.Name), want, have))
}

// prepareUpdate makes a changed object ready to be stored.
func (u *updating) prepareUpdate(obj, old runtime.Object) error {
	m, om := accessor(obj), accessor(old)
	if u.req.Verb == client.Update {
		u.singleOwners(m, ownersInRequest)
	}
	if !u.tracked {
		u.track(obj, old, u.req.Subresource, u.fieldManager())
	}
	a := u.attributes(admission.Update, obj, old)
	projection := u.sub != nil && u.sub.Project != nil // which admission has seen already
	if !projection {
		if err := u.admit(a); err != nil {
			return err
		}
		if err := u.keepPlace(m); err != nil {
			return err
		}
		switch m.GetResourceVersion() {
		case "":
			m.SetResourceVersion(om.GetResourceVersion())
		case om.GetResourceVersion():
		default: // admission asks for another version than the one at hand
			return apierrors.NewConflict(u.res.gr, u.req.Name, errModified)
		}
		m.SetCreationTimestamp(om.GetCreationTimestamp())
		u.singleOwners(m, ownersAdmitted)
	}
	m.SetGeneration(om.GetGeneration())
	if u.strategy.PrepareUpdate != nil {
		u.strategy.PrepareUpdate(obj, old)
	}
	if err := u.reserve(obj, old); err != nil {
		return err
	}
	if u.strategy.Canonicalize != nil {
		u.strategy.Canonicalize(obj)
	}
	path := field.NewPath("metadata")
	meta := apivalidation.ValidateObjectMetaAccessorUpdate(m, om, path)
	errs := slices.Clone(meta)
	if !slices.Equal(m.GetFinalizers(), om.GetFinalizers()) {
		errs = append(errs, u.res.checkFinalizers(m, true)...)
	}
	errs = append(errs, meta...) // upstream's kinds check the metadata again themselves, which the causes show
	if !u.res.Namespaced && m.GetNamespace() != "" {
		errs = append(errs, field.Forbidden(path.Child("namespace"), "not allowed on this type"))
	}
	if u.strategy.ValidateUpdate != nil {
		errs = append(errs, u.strategy.ValidateUpdate(obj, old)...)
	}
	switch view := u.res.view; {
	case u.req.Subresource == "status" && view.CheckStatus != nil:
		errs = append(errs, view.CheckStatus(obj, old)...)
	case view.Check != nil && (u.req.Subresource == "" || u.res.custom):
		errs = append(errs, view.Check(obj, old)...)
	}
	if err := u.invalid(m.GetName(), errs); err != nil {
		return err
	}
	if u.strategy.Warnings != nil {
		u.warns = append(u.warns, u.strategy.Warnings(obj, old)...)
	}
	if !projection {
		if err := u.validate(a); err != nil {
			return err
		}
	}
	u.res.settle(obj)
	return nil
}

// finished says that an object which is being deleted has nothing left to
// wait for.
func (u *updating) finished(obj runtime.Object) bool {
	m := accessor(obj)
	if m.GetDeletionTimestamp() == nil || len(m.GetFinalizers()) > 0 {
		return false
	}
	if g := m.GetDeletionGracePeriodSeconds(); g != nil && *g > 0 {
		return false
	}
	return u.res.Strategy.Keep == nil || !u.res.Strategy.Keep(obj)
}
