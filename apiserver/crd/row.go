package crd

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/apiextensions"
	"github.com/coxswain/cox/api/check"
)

// row makes the row of a definition, under the names that it was granted. It
// compiles nothing. Objects are kept in memory in the version that they were
// stored in, and converted when they are shown.
func (d *definition) row() *api.Kind {
	names := &d.crd.Status.AcceptedNames
	k := &api.Kind{
		Hub: d.storage.gvk, HubListKind: names.ListKind,
		Resource: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced: d.crd.Spec.Scope == extv1.NamespaceScoped,
		Prefix:     d.group + "/" + names.Plural,
		New:        d.storage.empty, NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
		Older:    d.older,
		Strategy: *d.strategy(d.storage),
		Schema:   sync.OnceValues(d.mergeSchema),
		Ending:   d.terminating,
	}
	selectable := map[string]bool{}
	for i := range d.crd.Spec.Versions {
		v := d.versions[schema.GroupVersion{Group: d.group, Version: d.crd.Spec.Versions[i].Name}.String()]
		for _, f := range v.SelectableFields {
			if name := strings.TrimPrefix(f.JSONPath, "."); !selectable[name] {
				selectable[name] = true
				k.FieldNames = append(k.FieldNames, name)
			}
		}
		if v.Served {
			k.Views = append(k.Views, d.view(v))
		}
	}
	k.Subresources = d.subresources(d.storage)
	if len(k.FieldNames) > 0 {
		names := k.FieldNames
		k.Fields = func(o runtime.Object) fields.Set { return fieldsOf(o, names) }
	}
	return k
}

// fieldsOf reads the fields with the given paths, as selectors see them.
func fieldsOf(o runtime.Object, names []string) fields.Set {
	set := make(fields.Set, len(names)+2)
	for _, n := range names {
		set[n] = text(nested(o.(*unstructured.Unstructured).Object, n))
	}
	return set
}

// empty makes an object of the version with nothing but its kind.
func (v *version) empty() runtime.Object {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": v.av, "kind": v.gvk.Kind}}
}

// older reads objects that were stored in another version. They stay in it if
// a webhook has to convert them: that may take long, and need the API.
func (d *definition) older(gvk schema.GroupVersionKind) (runtime.Object, func(runtime.Object) (runtime.Object, error)) {
	same := func(o runtime.Object) (runtime.Object, error) {
		if d.convert == nil || d.versions[gvk.GroupVersion().String()] == nil {
			o.(*unstructured.Unstructured).SetGroupVersionKind(d.storage.gvk)
		}
		return o, nil
	}
	return d.storage.empty(), same
}

func (d *definition) view(v *version) api.View {
	out := api.View{
		GroupVersionKind: v.gvk, New: v.empty, NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
		Default: func(o runtime.Object) { _, _ = v.normalize(o.(*unstructured.Unstructured), true) },
		Prune:   func(o runtime.Object) ([]error, error) { return v.normalize(o.(*unstructured.Unstructured), false) },
		ToHub:   func(o runtime.Object) (runtime.Object, error) { return d.to(d.storage, o) },
		FromHub: func(o runtime.Object) (runtime.Object, error) { return d.to(v, o) },
		Check:   d.checkView(v), CheckStatus: d.checkStatus(v),

		FieldNames: []string{},
	}
	if v.Deprecated {
		out.Deprecated = v.gvk.GroupVersion().String() + " " + v.gvk.Kind + " is deprecated"
		if v.DeprecationWarning != nil {
			out.Deprecated = *v.DeprecationWarning
		}
	}
	for _, f := range v.SelectableFields {
		out.FieldNames = append(out.FieldNames, strings.TrimPrefix(f.JSONPath, "."))
	}
	if d.convert == nil {
		out.Relabel = func(o runtime.Object) runtime.Object { return d.relabel(v, o.(*unstructured.Unstructured)) }
	}
	if d.convert != nil {
		out.FromHubList = func(list []runtime.Object) ([]runtime.Object, error) { return d.convert.all(d, v, list) }
		if len(out.FieldNames) > 0 {
			names := out.FieldNames
			out.Fields = func(o runtime.Object) fields.Set { return fieldsOf(o, names) }
		}
	}
	out.Columns, out.Cells = columns(v.AdditionalPrinterColumns)
	out.Strategy, out.Subresources = d.strategy(v), d.subresources(v)
	return out
}

// checkView validates an object in the version that it is written in, which
// alone decides: what is stored in another may not suit that one's schema.
func (d *definition) checkView(v *version) func(o, old runtime.Object) field.ErrorList {
	return func(o, old runtime.Object) field.ErrorList {
		shown, err := d.to(v, o)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		var was *unstructured.Unstructured
		if old != nil {
			w, err := d.to(v, old)
			if err != nil {
				return field.ErrorList{field.InternalError(nil, err)}
			}
			was = w.(*unstructured.Unstructured)
		}
		return v.validate(shown.(*unstructured.Unstructured), was)
	}
}

// checkStatus is checkView for a write through status, where clients are told
// the names of fields as they are within status.
func (d *definition) checkStatus(v *version) func(o, old runtime.Object) field.ErrorList {
	check := d.checkView(v)
	return func(o, old runtime.Object) field.ErrorList {
		errs := check(o, old)
		for _, e := range errs {
			e.Detail = strings.TrimPrefix(e.Detail, "status.")
		}
		return errs
	}
}

// to shows an object in a version. The argument is only read; the result may
// share its memory.
func (d *definition) to(v *version, o runtime.Object) (runtime.Object, error) {
	u := o.(*unstructured.Unstructured)
	switch {
	case u.GetAPIVersion() == v.av:
		return u, nil
	case u.Object["metadata"] == nil: // nothing of anyone's yet
		return v.empty(), nil
	case d.convert == nil:
		out := u.DeepCopy()
		out.SetAPIVersion(v.av)
		_, err := v.normalize(out, true)
		return out, err
	}
	out, err := d.convert.all(d, v, []runtime.Object{u})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// relabel is api.View.Relabel. What is stored is shown as the version knows it;
// between the versions of those who own fields nothing is dropped.
func (d *definition) relabel(v *version, u *unstructured.Unstructured) *unstructured.Unstructured {
	stored := u.GetAPIVersion() == d.storage.av && v != d.storage
	if !stored {
		shown := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
		shown.SetAPIVersion(v.av)
		return shown
	}
	shown := u.DeepCopy()
	shown.SetAPIVersion(v.av)
	if v.compile() == nil && v.schema != nil && !v.preserves {
		pruning.Prune(shown.Object, v.schema, true)
	}
	return shown
}

func (v *version) hasStatus() bool { return v.Subresources != nil && v.Subresources.Status != nil }

// strategy is how objects behave in a write through a version; it sees the
// storage version. The views validate.
func (d *definition) strategy(v *version) *api.Strategy {
	status := v.hasStatus()
	typed := func(o runtime.Object) *unstructured.Unstructured { return o.(*unstructured.Unstructured) }
	return &api.Strategy{
		ForbidUnconditionalUpdate: true,
		Warnings:                  warnings,
		Default:                   func(o runtime.Object) { u := typed(o); _, _ = d.of(u).normalize(u, true) },
		PrepareCreate: func(o runtime.Object) {
			u := typed(o)
			if status {
				delete(u.Object, "status")
			}
			u.SetGeneration(1)
		},
		PrepareUpdate: func(o, prev runtime.Object) {
			u, old := typed(o), typed(prev)
			if status {
				keep(u, old, "status")
			}
			g := old.GetGeneration()
			if !sameSpec(u.Object, old.Object, status) {
				g++
			}
			u.SetGeneration(g)
		},
	}
}

// warnings are about new finalizers that carry no domain: for custom resources
// they are allowed.
func warnings(o, old runtime.Object) []string {
	var had []string
	if old != nil {
		had = old.(*unstructured.Unstructured).GetFinalizers()
	}
	var out []string
	for _, f := range o.(*unstructured.Unstructured).GetFinalizers() {
		switch {
		case strings.Contains(f, "/"), slices.Contains(had, f), f == metav1.FinalizerOrphanDependents, f == metav1.FinalizerDeleteDependents, f == string(corev1.FinalizerKubernetes):
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}

// keep takes a field of the old object over into the new one.
func keep(u, old *unstructured.Unstructured, name string) {
	if was, ok := old.Object[name]; ok {
		u.Object[name] = runtime.DeepCopyJSONValue(was)
	} else {
		delete(u.Object, name)
	}
}

// sameSpec compares what a generation counts: all but metadata and, where it
// is a subresource, status.
func sameSpec(a, b map[string]any, status bool) bool {
	rest := func(m map[string]any) map[string]any {
		out := maps.Clone(m)
		delete(out, "metadata")
		if status {
			delete(out, "status")
		}
		return out
	}
	return apiequality.Semantic.DeepEqual(rest(a), rest(b))
}

// subresources are those that a version asks for; never nil.
func (d *definition) subresources(v *version) map[string]api.Subresource {
	out := map[string]api.Subresource{}
	if v.hasStatus() {
		out["status"] = api.Subresource{Object: d.statusStrategy(v)}
	}
	if v.Subresources != nil && v.Subresources.Scale != nil {
		out["scale"] = api.Subresource{Project: projection(v.Subresources.Scale)}
	}
	return out
}

// statusStrategy lets a write through status change nothing else.
func (d *definition) statusStrategy(v *version) *api.Strategy {
	st := d.strategy(v)
	st.PrepareCreate = nil
	st.PrepareUpdate = func(o, prev runtime.Object) {
		u, old := o.(*unstructured.Unstructured), prev.(*unstructured.Unstructured)
		meta, _ := u.Object["metadata"].(map[string]any)
		managed, tracked := meta["managedFields"]
		rv := u.GetResourceVersion()
		status, has := u.Object["status"]
		u.Object = runtime.DeepCopyJSON(old.Object)
		u.SetManagedFields(nil)
		if meta, ok := u.Object["metadata"].(map[string]any); ok && tracked {
			meta["managedFields"] = managed
		}
		u.SetResourceVersion(rv)
		if has {
			u.Object["status"] = status
		} else {
			delete(u.Object, "status")
		}
	}
	return st
}

func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// nested reads a value by a simple path; nil if there is none.
func nested(obj map[string]any, path string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(obj, steps(path)...)
	return v
}

// text is a scalar as field selectors show it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case float64, json.Number:
		return fmt.Sprint(v)
	}
	return ""
}

// projection is the scale of an object.
func projection(s *extv1.CustomResourceSubresourceScale) *api.Projection {
	return &api.Projection{
		GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), New: api.New[autoscalingv1.Scale](),
		Get: func(o runtime.Object) (runtime.Object, error) {
			u := o.(*unstructured.Unstructured)
			out := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{
				Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(),
				ResourceVersion: u.GetResourceVersion(), CreationTimestamp: u.GetCreationTimestamp(),
			}}
			want, _, err := unstructured.NestedInt64(u.Object, steps(s.SpecReplicasPath)...)
			if err != nil {
				return nil, err
			}
			have, _, _ := unstructured.NestedInt64(u.Object, steps(s.StatusReplicasPath)...)
			out.Spec.Replicas, out.Status.Replicas = int32(want), int32(have)
			if s.LabelSelectorPath != nil {
				out.Status.Selector, _, _ = unstructured.NestedString(u.Object, steps(*s.LabelSelectorPath)...)
			}
			return out, nil
		},
		Readable: func(o runtime.Object) error {
			if _, found, _ := unstructured.NestedInt64(o.(*unstructured.Unstructured).Object, steps(s.SpecReplicasPath)...); !found {
				return apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath))
			}
			return nil
		},
		Validate: api.Check(func(sc *autoscalingv1.Scale) field.ErrorList {
			return check.NonNegative(sc.Spec.Replicas, field.NewPath("spec", "replicas"))
		}),
		Set: func(o, in runtime.Object) error {
			n := int64(in.(*autoscalingv1.Scale).Spec.Replicas)
			if _, found, _ := unstructured.NestedInt64(o.(*unstructured.Unstructured).Object, steps(s.SpecReplicasPath)...); !found && n == 0 {
				return apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", s.SpecReplicasPath))
			}
			return unstructured.SetNestedField(o.(*unstructured.Unstructured).Object, n, steps(s.SpecReplicasPath)...)
		},
	}
}

// columns are what kubectl prints: the name, and the version's own or the age.
func columns(list []extv1.CustomResourceColumnDefinition) ([]metav1.TableColumnDefinition, func(runtime.Object) []any) {
	if len(list) == 0 {
		list = []extv1.CustomResourceColumnDefinition{{
			Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		}}
	}
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	out := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: doc["name"]}}
	for i := range list {
		c := &list[i]
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		out = append(out, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority})
	}
	var mu sync.Mutex // a parsed path keeps state while it is followed
	parsed := sync.OnceValue(func() []*apiextensions.Column {
		cols := make([]*apiextensions.Column, len(list))
		for i := range list {
			cols[i], _ = apiextensions.ParseColumn(&list[i]) // checked when it was written
		}
		return cols
	})
	return out, func(o runtime.Object) []any {
		u := o.(*unstructured.Unstructured)
		cells := []any{u.GetName()}
		mu.Lock()
		defer mu.Unlock()
		for _, c := range parsed() {
			if c == nil {
				cells = append(cells, nil)
				continue
			}
			cells = append(cells, c.Cell(u.Object))
		}
		return cells
	}
}
