package apiserver

import (
	"context"
	"fmt"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
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
	next := func(_, _ runtime.Object) (runtime.Object, error) { return u.req.Object.DeepCopyObject(), nil }
	owners := u.ownersOfUpdate
	if u.req.Verb == client.Patch {
		switch u.req.PatchType {
		case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType:
			if u.res.custom && u.req.PatchType == types.StrategicMergePatchType {
				return wire.Unsupported([]string{patchTypes[0], patchTypes[1], patchTypes[3]})
			}
			next = u.projectionPatch(p)
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
		want, err := next(cur, was)
		if err != nil {
			return nil, err
		}
		return u.setProjection(p, cur, was, want, owners)
	}
	return nil
}

// projectionPatch is how a patch changes the projection of cur. What a refusal
// shows has owners, which are worked out only then.
func (u *updating) projectionPatch(p *api.Projection) func(cur, was runtime.Object) (runtime.Object, error) {
	patcher := u.patcher(wire.NewHead(p.GVK), p.New)
	return func(cur, was runtime.Object) (runtime.Object, error) {
		obj, err := patcher.apply(was)
		if !apierrors.IsInvalid(err) {
			return obj, err
		}
		entries, failed := u.projectedOwners(cur).ToSubresource()
		if failed != nil {
			return nil, err
		}
		shown := wire.Shallow(was)
		accessor(shown).SetManagedFields(entries)
		return patcher.apply(shown)
	}
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
		if err == nil {
			err = u.judgeApplied(conf)
		}
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
	if ns := m.GetNamespace(); ns == "" {
		m.SetNamespace(accessor(was).GetNamespace())
	} else if u.res.Namespaced && ns != u.req.Namespace {
		return nil, errNamespace()
	}
	a := u.attributes(admission.Update, want, was)
	a.Kind = p.GVK
	if err := u.admit(a); err != nil {
		return nil, err
	}
	bare := wire.Shallow(want)
	accessor(bare).SetManagedFields(nil) // which are not the projection's to say
	errs := apivalidation.ValidateObjectMetaAccessor(accessor(bare), u.res.Namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if p.Validate != nil {
		errs = append(errs, p.Validate(want)...)
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(p.GVK.GroupKind(), m.GetName(), errs)
	}
	if have := accessor(was).GetUID(); u.req.Verb == client.Patch && m.GetUID() != "" && m.GetUID() != have {
		gr := schema.GroupResource{Group: u.res.gr.Group, Resource: u.res.gr.Resource + "/" + u.req.Subresource}
		return nil, apierrors.NewConflict(gr, u.req.Name, fmt.Errorf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", m.GetUID(), have))
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
		t.fm = r.singleFields(p.GVK, p.New, sub, scaleSchema)
	})
	return t.fm
}

// singleFields makes the field manager of a kind with one version, which is nil
// if there can be none.
func (r *resource) singleFields(gvk schema.GroupVersionKind, make func() runtime.Object, sub, text string) *managedfields.FieldManager {
	parser, err := typed.NewParser(typed.YAMLObject(text))
	if err == nil {
		conv := &singleConverter{gvk, make}
		types := managedfields.NewSchemeTypeConverter(r.srv.cfg.Table.Scheme, parser)
		var fm *managedfields.FieldManager
		if fm, err = managedfields.NewDefaultFieldManager(types, conv, conv, conv, gvk, gvk.GroupVersion(), sub, nil); err == nil {
			return fm
		}
	}
	r.srv.log.Warn("fields of a subresource are not tracked", "resource", r.gvr.String(), "subresource", sub, "error", err)
	return nil
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
type singleConverter struct {
	gvk  schema.GroupVersionKind
	make func() runtime.Object
}

// New makes an empty object.
func (s *singleConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	obj := s.make()
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
		obj, _ := s.New(s.gvk)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.UnstructuredContent(), obj); err != nil {
			return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", s.gvk, err)
		}
		in = obj
	}
	if gv, ok := target.(schema.GroupVersion); ok && gv != s.gvk.GroupVersion() {
		return nil, runtime.NewNotRegisteredErrForTarget("cox", nil, gv)
	}
	return in, nil
}
