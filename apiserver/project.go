package apiserver

import (
	"context"
	"fmt"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/table"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// project answers a subresource of another kind that is a part of the object,
// such as scale.
func (c *call) project(ctx context.Context) (*answer, error) {
	p := c.sub.Project
	if c.req.Verb == client.Get {
		got, err := c.get(ctx)
		if err != nil {
			return nil, err
		}
		if p.Readable != nil {
			if err := p.Readable(got.entry.Object); err != nil {
				return nil, err
			}
		}
		return projected(p, got)
	}
	if err := c.checkWriteOptions(); err != nil {
		return nil, err
	}
	u := &updating{transaction: &transaction{call: c, ctx: ctx}, strategy: &c.res.Strategy, tracked: true}
	if err := u.prepareProjection(p); err != nil {
		return nil, err
	}
	got, err := u.run()
	if err != nil {
		return nil, err
	}
	return projected(p, got)
}

func projected(p *api.Projection, a *answer) (*answer, error) {
	hub := a.obj
	if a.entry != nil {
		hub = a.entry.Object
	}
	obj, err := p.Get(hub)
	if err != nil {
		return nil, err
	}
	return &answer{obj: obj}, nil
}

// prepareProjection sets how a write to the projection changes the object.
func (u *updating) prepareProjection(p *api.Projection) error {
	next := func(runtime.Object) (runtime.Object, error) { return u.req.Object.DeepCopyObject(), nil }
	owners := u.ownersOfUpdate
	if u.req.Verb == client.Patch {
		switch u.req.PatchType {
		case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType:
			next = u.patcher(wire.NewHead(p.GVK), p.New).apply
		case types.ApplyYAMLPatchType:
			return u.prepareProjectionApply(p)
		default:
			return wire.Unsupported(patchTypes)
		}
	} else if m := accessor(u.req.Object); m.GetName() == "" {
		return u.nameless()
	} else if err := u.matchRequest(m); err != nil {
		return err
	}
	u.produce = func(cur runtime.Object) (runtime.Object, error) {
		was, err := p.Get(cur)
		if err != nil {
			return nil, err
		}
		want, err := next(was)
		if err != nil {
			return nil, err
		}
		return u.setProjection(p, cur, was, want, owners)
	}
	return nil
}

// prepareProjectionApply sets how a server-side apply changes the projection.
func (u *updating) prepareProjectionApply(p *api.Projection) error {
	fm := u.res.projectionFields(p, u.req.Subresource)
	if fm == nil {
		return wire.Unsupported(patchTypes[:3])
	}
	conf, err := u.configuration()
	if err != nil {
		return err
	}
	u.produce = func(cur runtime.Object) (runtime.Object, error) {
		u.warns = append(u.warns, conf.warnings...)
		was, err := p.Get(cur)
		if err != nil {
			return nil, err
		}
		live := wire.Shallow(was)
		live.GetObjectKind().SetGroupVersionKind(p.GVK)
		entries, err := u.projectedOwners(cur).ToSubresource()
		if err != nil {
			return nil, err
		}
		accessor(live).SetManagedFields(entries)
		applied, err := fm.Apply(live, conf.DeepCopy(), u.fieldManager(), u.req.Options.Force)
		if err != nil {
			return nil, err
		}
		want := applied.DeepCopyObject()
		wire.ClearKind(want)
		return u.setProjection(p, cur, was, want, func(_ *managedfields.FieldManager, _, want runtime.Object) []metav1.ManagedFieldsEntry {
			return accessor(applied).GetManagedFields()
		})
	}
	return nil
}

// projectedOwners carries the owners of the scaled object's replicas over into
// Scale's field and back.
func (u *updating) projectedOwners(obj runtime.Object) *managedfields.ScaleHandler {
	paths := managedfields.ResourcePathMappings{}
	for i := range u.res.Views {
		paths[u.res.Views[i].GroupVersion().String()] = fieldpath.MakePathOrDie("spec", "replicas")
	}
	return managedfields.NewScaleHandler(accessor(obj).GetManagedFields(), u.res.view.GroupVersion(), paths)
}

// owners says whom the fields of a projection belong to after a write.
type owners func(fm *managedfields.FieldManager, was, want runtime.Object) []metav1.ManagedFieldsEntry

func (u *updating) ownersOfUpdate(fm *managedfields.FieldManager, was, want runtime.Object) []metav1.ManagedFieldsEntry {
	return accessor(fm.UpdateNoErrors(was, want, u.fieldManager())).GetManagedFields()
}

func (u *updating) setProjection(p *api.Projection, cur, was, want runtime.Object, after owners) (runtime.Object, error) {
	m := accessor(want)
	if m.GetName() == "" {
		return nil, u.nameless()
	}
	if m.GetName() != u.req.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), u.req.Name))
	}
	a := u.attributes(admission.Update, want, was)
	a.Kind = p.GVK
	if err := u.admit(a); err != nil {
		return nil, err
	}
	if p.Validate != nil {
		if errs := p.Validate(want); len(errs) > 0 {
			return nil, apierrors.NewInvalid(p.GVK.GroupKind(), m.GetName(), errs)
		}
	}
	if err := u.validate(a); err != nil {
		return nil, err
	}
	obj := cur.DeepCopyObject()
	if err := p.Set(obj, want); err != nil {
		return nil, err
	}
	om := accessor(obj)
	om.SetUID(m.GetUID())
	if v := m.GetResourceVersion(); v != "" {
		om.SetResourceVersion(v)
	}
	u.trackProjection(p, obj, was, want, after)
	return obj, nil
}

// trackProjection carries the ownership of the projected field over into the
// object's managed fields, under the subresource's name.
func (u *updating) trackProjection(p *api.Projection, obj, was, want runtime.Object, after owners) {
	h := u.projectedOwners(obj)
	entries, err := h.ToSubresource()
	if err != nil {
		return
	}
	fm := u.res.projectionFields(p, u.req.Subresource)
	if fm == nil {
		return
	}
	live, next := wire.Shallow(was), wire.Shallow(want)
	for _, o := range []runtime.Object{live, next} {
		o.GetObjectKind().SetGroupVersionKind(p.GVK)
		accessor(o).SetManagedFields(entries)
	}
	if merged, err := h.ToParent(after(fm, live, next)); err == nil {
		accessor(obj).SetManagedFields(merged)
	}
}

// projectionFields returns the field manager of a projected kind.
func (r *resource) projectionFields(p *api.Projection, sub string) *managedfields.FieldManager {
	v, _ := r.trackers.LoadOrStore("project/"+sub, &tracker{})
	t := v.(*tracker)
	t.once.Do(func() {
		conv := &singleConverter{p}
		types, err := scaleTypes(r.srv.cfg.Table.Scheme)
		if err != nil {
			r.srv.log.Warn("fields of a projection are not tracked", "resource", r.gvr.String(), "error", err)
			return
		}
		fm, err := managedfields.NewDefaultFieldManager(types, conv, conv, conv, p.GVK, p.GVK.GroupVersion(), sub, nil)
		if err == nil {
			t.fm = fm
		}
	})
	return t.fm
}

// scaleSchema is autoscaling/v1 Scale for field management: the published
// schemas leave it out, since it is never stored. Only spec.replicas is carried
// over to the scaled object.
const scaleSchema = `types:
- name: io.k8s.api.autoscaling.v1.Scale
  map:
    fields:
    - {name: apiVersion, type: {scalar: string}}
    - {name: kind, type: {scalar: string}}
    - {name: metadata, type: {namedType: any}}
    - {name: spec, type: {map: {fields: [{name: replicas, type: {scalar: numeric}}]}}}
    - {name: status, type: {map: {fields: [{name: replicas, type: {scalar: numeric}}, {name: selector, type: {scalar: string}}]}}}
- name: any
  scalar: untyped
  list: {elementType: {namedType: any}, elementRelationship: atomic}
  map: {elementType: {namedType: any}, elementRelationship: atomic}
`

func scaleTypes(scheme *runtime.Scheme) (managedfields.TypeConverter, error) {
	parser, err := typed.NewParser(scaleSchema)
	if err != nil {
		return nil, fmt.Errorf("schema of Scale: %w", err)
	}
	return managedfields.NewSchemeTypeConverter(scheme, parser), nil
}

// scaleTable prints the one kind that objects are projected to.
var scaleTable = sync.OnceValue(func() *table.Convertor {
	return table.New([]metav1.TableColumnDefinition{
		printing.Name(),
		printing.Integer("Desired", "Number of desired replicas"),
		printing.Integer("Available", "Number of actual replicas"),
		printing.AgeColumn(),
	}, func(o runtime.Object) []any {
		s := o.(*autoscalingv1.Scale)
		return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), printing.Age(s.CreationTimestamp)}
	})
})

// singleConverter serves field management for a kind with one version.
type singleConverter struct{ p *api.Projection }

// New makes an empty object.
func (s *singleConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	obj := s.p.New()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

// Default does nothing.
func (s *singleConverter) Default(runtime.Object) {}

// Convert is not used by field management.
func (s *singleConverter) Convert(_, _, _ any) error {
	return fmt.Errorf("conversion into an object is not supported")
}

// ConvertFieldLabel is not used by field management.
func (s *singleConverter) ConvertFieldLabel(schema.GroupVersionKind, string, string) (string, string, error) {
	return "", "", fmt.Errorf("conversion of field labels is not supported")
}

// ConvertToVersion returns in, which is of the only version, as its Go type.
func (s *singleConverter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if u, ok := in.(runtime.Unstructured); ok {
		obj, _ := s.New(s.p.GVK)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.UnstructuredContent(), obj); err != nil {
			return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", s.p.GVK, err)
		}
		in = obj
	}
	if gv, ok := target.(schema.GroupVersion); ok && gv != s.p.GVK.GroupVersion() {
		return nil, runtime.NewNotRegisteredErrForTarget("cox", nil, gv)
	}
	return in, nil
}

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
		attrs := t.attributes(admission.Create, t.req.Object, nil)
		if err := t.admit(attrs); err != nil {
			return err
		}
		if a.Validate != nil {
			if errs := a.Validate(t.req.Object); len(errs) > 0 {
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
	if named = false; t.res.Namespaced {
		if m, named = body.(metav1.Object); named && m.GetNamespace() == "" {
			m.SetNamespace(t.req.Namespace)
		}
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
		if err := t.invalid(name, errs); err != nil {
			if gk := t.res.Hub.GroupKind(); gk.Group == authorizationv1.GroupName { // whose refusals name no kind
				return apierrors.NewInvalid(schema.GroupKind{Group: gk.Group}, "", errs)
			}
			return err
		}
	}
	return t.validate(attrs)
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
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}
