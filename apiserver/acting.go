package apiserver

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// action carries out a posted subresource, or a request for a kind that is
// not stored.
func (c *call) action(ctx context.Context, key string, a *api.Action) (*answer, error) {
	run, ok := c.srv.cfg.Extensions.Actions[key]
	if !ok {
		return nil, notServed(c.req)
	}
	t := &transaction{call: c, ctx: ctx}
	if c.req.Object != nil {
		if err := t.prepareAction(a); err != nil {
			return nil, err
		}
	}
	res, err := run(ctx, c.req)
	if err != nil {
		return nil, err
	}
	for k, v := range res.Notes {
		c.record.Annotate(k, v)
	}
	for _, w := range append(t.warns, res.Warnings...) {
		c.warn(w)
	}
	ans := &answer{obj: res.Object, created: res.Created, pending: res.Pending}
	if res.List != nil {
		ans.items = res.List.Items
		if ans.items == nil {
			ans.items = []runtime.Object{}
		}
		return ans, nil
	}
	if a == nil {
		_, isStatus := res.Object.(*metav1.Status)
		ans.hub = !isStatus
		ans.created = ans.created || c.req.Verb == client.Create
	}
	return ans, nil
}

// prepareAction defaults, admits and validates the body of an action.
func (t *transaction) prepareAction(a *api.Action) error {
	if err := t.checkWriteOptions(); err != nil {
		return err
	}
	m, named := t.req.Object.(metav1.Object)
	if a != nil {
		if named {
			if err := t.matchAction(m); err != nil {
				return err
			}
		}
		if a.Default != nil {
			a.Default(t.req.Object)
		}
		if named && a.Schema != "" && t.front != nil {
			t.trackAction(a)
		}
		attrs := t.attributes(admission.Create, t.req.Object, nil)
		if err := t.admit(attrs); err != nil {
			return err
		}
		if a.Validate != nil {
			if errs := a.Validate(t.req.Object); len(errs) > 0 && a.GVK.Kind == "Binding" {
				return errs.ToAggregate() // a 500 to upstream's clients
			} else if len(errs) > 0 {
				return apierrors.NewInvalid(a.GVK.GroupKind(), bodyName(a, t.req.Name), errs)
			}
		}
		return t.validate(attrs)
	}
	body, err := t.res.toHub(t.req.Object)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	t.req.Object = body
	if err := t.ownReview(body); err != nil {
		return err
	}
	attrs := t.attributes(admission.Create, body, nil)
	if err := t.admit(attrs); err != nil {
		return err
	}
	if t.res.Strategy.Validate != nil {
		name := ""
		if m, ok := body.(metav1.Object); ok {
			name = m.GetName()
		}
		errs := t.res.Strategy.Validate(body)
		if t.res.Hub.Kind == "Binding" && len(errs) > 0 {
			return errs.ToAggregate()
		}
		if err := t.invalid(name, errs); err != nil {
			if gk := t.res.Hub.GroupKind(); gk.Group == authorizationv1.GroupName { // whose refusals name no kind
				return apierrors.NewInvalid(schema.GroupKind{Group: gk.Group}, "", errs)
			}
			return err
		}
	}
	return t.validate(attrs)
}

// ownReview makes a new object of one that is judged and not stored, as creates
// do: its fields have owners too.
func (t *transaction) ownReview(body runtime.Object) error {
	m, ok := body.(metav1.Object)
	if !ok {
		return nil
	}
	if err := t.keepPlace(m); err != nil {
		return err
	}
	m.SetUID("")
	m.SetCreationTimestamp(metav1.Time{})
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	if t.front != nil {
		t.track(body, nil, "", t.fieldManager())
	}
	return nil
}

// trackAction records whose the fields of an action's body are, where the body
// is the answer too.
func (t *transaction) trackAction(a *api.Action) {
	v, _ := t.res.trackers.LoadOrStore("action/"+t.req.Subresource, &tracker{})
	tr := v.(*tracker)
	tr.once.Do(func() { tr.fm = t.res.singleFields(a.GVK, a.New, t.req.Subresource, a.Schema) })
	if tr.fm == nil {
		return
	}
	live, body := a.New(), t.req.Object
	live.GetObjectKind().SetGroupVersionKind(a.GVK)
	body.GetObjectKind().SetGroupVersionKind(a.GVK)
	tr.fm.UpdateNoErrors(live, body, t.fieldManager())
	wire.ClearKind(body)
}

// bodyName is how errors name the body of an action: upstream's of a
// TokenRequest do not.
func bodyName(a *api.Action, name string) string {
	if a.GVK.Kind == "TokenRequest" {
		return ""
	}
	return name
}

// matchAction fills a body's name and namespace in from the URL and refuses
// other ones.
func (t *transaction) matchAction(m metav1.Object) error {
	switch kind := t.sub.Action.GVK.Kind; {
	case (kind == "Binding" || kind == "Eviction") && m.GetName() != t.req.Name:
		return apierrors.NewBadRequest("name in URL does not match name in " + kind + " object")
	case kind == "TokenRequest" && m.GetName() != "" && m.GetName() != t.req.Name:
		return apierrors.NewInvalid(t.sub.Action.GVK.GroupKind(), t.req.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), m.GetName(), "must match the service account name if specified")})
	case m.GetName() == "":
		m.SetName(t.req.Name)
	case m.GetName() != t.req.Name:
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), t.req.Name))
	}
	if m.GetNamespace() == "" {
		m.SetNamespace(t.req.Namespace)
	} else if m.GetNamespace() != t.req.Namespace {
		return errNamespace()
	}
	return nil
}
