package apiserver

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/fields"
	"github.com/coxswain/cox/apiserver/openapi"
	"github.com/coxswain/cox/apiserver/wire"
)

// tracker keeps metadata.managedFields for the writes to one subresource of
// one view. It is nil inside for kinds whose schema is not known: their
// fields are not tracked.
type tracker struct {
	once sync.Once
	fm   *managedfields.FieldManager
	memo *fields.Memo // nil where versions are converted
}

// memoBytes is about what a tracker may remember.
const memoBytes = 1 << 20

// tracking returns the tracker of a subresource, made at its first use.
func (r *resource) tracking(sub string) *tracker {
	v, ok := r.trackers.Load(sub)
	if !ok {
		v, _ = r.trackers.LoadOrStore(sub, &tracker{})
	}
	t := v.(*tracker)
	t.once.Do(func() {
		t.fm = r.newFields(sub)
		if r.view.ToHub == nil && r.view.FromHub == nil || r.custom && r.view.GroupVersionKind == r.Hub {
			t.memo = fields.NewMemo(r.view.GroupVersion().String(), memoBytes)
		}
	})
	return t
}

func (r *resource) newFields(sub string) *managedfields.FieldManager {
	types, err := r.types()
	if err != nil {
		r.srv.log.Debug("fields are not tracked", "resource", r.gvr.String(), "error", err)
		return nil
	}
	probe := r.view.New()
	probe.GetObjectKind().SetGroupVersionKind(r.view.GroupVersionKind)
	if _, err := types.ObjectToTyped(probe); err != nil && !r.custom {
		return nil
	}
	conv := &viewConverter{r.kind}
	make := managedfields.NewDefaultFieldManager
	if r.custom {
		make = managedfields.NewDefaultCRDFieldManager
	}
	fm, err := make(types, conv, conv, conv,
		r.view.GroupVersionKind, r.Hub.GroupVersion(), sub, r.resetFields(sub))
	if err != nil {
		r.srv.log.Warn("fields are not tracked", "resource", r.gvr.String(), "error", err)
		return nil
	}
	return fm
}

// typesOf reads the schema of a kind in all its versions.
func typesOf(s *Server, k *api.Kind) (managedfields.TypeConverter, error) {
	if k.Schema != nil {
		return k.Schema()
	}
	kinds := []schema.GroupVersionKind{k.Hub}
	for i := range k.Views {
		if gvk := k.Views[i].GroupVersionKind; gvk != k.Hub {
			kinds = append(kinds, gvk)
		}
	}
	types, err := fields.Converter(s.cfg.Table.Scheme, kinds...)
	if err != nil { // client-go knows none of the extensions' kinds, and no reviews
		return openapi.TypeConverter(k.Hub.GroupVersion())
	}
	return types, err
}

// resetFields names the fields that a write to the (sub)resource cannot set,
// so that it does not own them either: what its strategy says, by default
// status through the object, all but status through the status subresource.
func (r *resource) resetFields(sub string) map[fieldpath.APIVersion]fieldpath.Filter {
	paths := r.resets(sub)
	if paths == nil {
		return nil
	}
	set := fieldpath.NewSet()
	for _, p := range paths {
		var parts []any
		for part := range strings.SplitSeq(p, ".") {
			parts = append(parts, part)
		}
		set.Insert(fieldpath.MakePathOrDie(parts...))
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for i := range r.Views {
		if r.custom && !r.resetsIn(&r.Views[i], sub) {
			continue
		}
		out[fieldpath.APIVersion(r.Views[i].GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	}
	return out
}

// resetsIn says whether a write to the (sub)resource of a custom kind leaves
// aside what it cannot set of those who own it through another version: a
// write to status does, in versions that have one, a write to the object only
// in its own.
func (r *resource) resetsIn(v *api.View, sub string) bool {
	if sub == "" {
		return v.GroupVersionKind == r.view.GroupVersionKind
	}
	return r.SubresourcesOf(v)["status"].Object != nil
}

func (r *resource) resets(sub string) []string {
	status, hasStatus := r.Subresources["status"]
	hasStatus = hasStatus && status.Object != nil
	switch s := r.Subresources[sub]; {
	case sub == "" && r.Strategy.Resets != nil:
		return r.Strategy.Resets
	case sub == "" && hasStatus:
		return []string{"status"}
	case sub == "" || s.Object == nil:
		return nil
	case s.Object.Resets != nil:
		return s.Object.Resets
	case sub == "status" && r.custom: // its metadata stays as it was
		return []string{"spec", "metadata"}
	case sub == "status":
		return []string{"spec"}
	}
	return nil
}

// track records in obj's managedFields what manager changed against live (nil
// for a new object). Both are hub objects; only obj's metadata changes.
func (c *call) track(obj, live runtime.Object, sub, manager string) {
	r := c.res
	t := r.tracking(sub)
	if t.fm == nil {
		accessor(obj).SetManagedFields(nil)
		return
	}
	if live == nil {
		live = r.New()
	} else {
		live = wire.Shallow(live)
	}
	live.GetObjectKind().SetGroupVersionKind(r.Hub)
	obj.GetObjectKind().SetGroupVersionKind(r.Hub)
	defer wire.ClearKind(obj)
	before, plain := entriesBefore(obj, live, sub)
	if t.memo == nil || !plain {
		t.fm.UpdateNoErrors(live, obj, manager)
		return
	}
	after, ok := t.memo.Update(live, obj, before, manager, c.now(), t.compute(live, obj, manager))
	if !ok {
		t.fm.UpdateNoErrors(live, obj, manager)
		return
	}
	setEntries(obj, after, live, before)
}

// compute has the library work the owners of a change out. live and obj are
// only read.
func (t *tracker) compute(live, obj runtime.Object, manager string) fields.Compute {
	return func(before []metav1.ManagedFieldsEntry, same bool) []metav1.ManagedFieldsEntry {
		was, is := wire.Shallow(live), wire.Shallow(obj)
		if same {
			is = wire.Shallow(live)
		}
		accessor(was).SetManagedFields(before)
		accessor(is).SetManagedFields(nil)
		return accessor(t.fm.UpdateNoErrors(was, is, manager)).GetManagedFields()
	}
}

// entriesBefore are the managedFields that a write starts from; plain is false
// for one that sets them itself.
func entriesBefore(obj, live runtime.Object, sub string) (before []metav1.ManagedFieldsEntry, plain bool) {
	before = entriesOf(live)
	if sub != "" {
		return before, true
	}
	if custom, ok := obj.(*unstructured.Unstructured); ok && sharesEntries(custom, live) {
		return before, true
	}
	sent := entriesOf(obj)
	if len(sent) == 0 {
		return before, sent == nil
	}
	return before, slices.EqualFunc(before, sent, func(a, b metav1.ManagedFieldsEntry) bool {
		return a.Manager == b.Manager && a.Operation == b.Operation && a.APIVersion == b.APIVersion && a.Subresource == b.Subresource &&
			a.FieldsType == b.FieldsType && a.Time.Equal(b.Time) &&
			a.FieldsV1 != nil && b.FieldsV1 != nil && bytes.Equal(a.FieldsV1.Raw, b.FieldsV1.Raw)
	})
}

// viewConverter converts between the views of one kind for field management.
// The objects it gets and gives carry their kind.
type viewConverter struct{ *kind }

// New makes an empty object of a served or the hub version.
func (v *viewConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	obj, err := v.newOf(gvk.GroupVersion())
	if err == nil {
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}
	return obj, err
}

func (v *viewConverter) newOf(gv schema.GroupVersion) (runtime.Object, error) {
	for i := range v.Views {
		if v.Views[i].GroupVersion() == gv {
			return v.Views[i].New(), nil
		}
	}
	if gv == v.Hub.GroupVersion() {
		return v.Kind.New(), nil
	}
	return nil, runtime.NewNotRegisteredErrForTarget("cox", nil, gv)
}

// Default sets the defaults of an object of the hub version.
func (v *viewConverter) Default(obj runtime.Object) {
	gv := obj.GetObjectKind().GroupVersionKind().GroupVersion()
	for i := range v.Views {
		if w := &v.Views[i]; w.GroupVersion() == gv && w.Default != nil {
			w.Default(obj)
		}
	}
	if v.Strategy.Default != nil && v.isHubType(gv) {
		v.Strategy.Default(obj)
	}
}

// isHubType says that objects of the version have the hub's Go type.
func (v *viewConverter) isHubType(gv schema.GroupVersion) bool {
	for i := range v.Views {
		if w := &v.Views[i]; w.GroupVersion() == gv {
			return w.ToHub == nil
		}
	}
	return gv == v.Hub.GroupVersion()
}

// Convert is not used by field management.
func (v *viewConverter) Convert(_, _, _ any) error {
	return fmt.Errorf("conversion into an object is not supported")
}

// ConvertFieldLabel is not used by field management.
func (v *viewConverter) ConvertFieldLabel(schema.GroupVersionKind, string, string) (string, string, error) {
	return "", "", fmt.Errorf("conversion of field labels is not supported")
}

// ConvertToVersion converts in into the target version. in is only read.
func (v *viewConverter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	if u, ok := in.(runtime.Unstructured); ok && !v.custom {
		obj, err := v.newOf(from.GroupVersion())
		if err != nil {
			return nil, err
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.UnstructuredContent(), obj); err != nil {
			return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", from, err)
		}
		obj.GetObjectKind().SetGroupVersionKind(from)
		in = obj
	}
	to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{from})
	if ok && to == from {
		return in, nil
	}
	gv, isGV := target.(schema.GroupVersion)
	if !isGV {
		return nil, runtime.NewNotRegisteredErrForTarget("cox", nil, target)
	}
	return v.convert(in, from.GroupVersion(), gv)
}

func (v *viewConverter) convert(in runtime.Object, from, to schema.GroupVersion) (runtime.Object, error) {
	for i := range v.Views {
		if w := &v.Views[i]; w.GroupVersion() == to && w.Relabel != nil {
			return w.Relabel(in), nil
		}
	}
	var err error
	out := in
	for i := range v.Views {
		if w := &v.Views[i]; w.GroupVersion() == from && w.ToHub != nil {
			if out, err = w.ToHub(in); err != nil {
				return nil, err
			}
		}
	}
	gvk := to.WithKind(v.Hub.Kind)
	known := to == v.Hub.GroupVersion()
	for i := range v.Views {
		w := &v.Views[i]
		if w.GroupVersion() != to {
			continue
		}
		known, gvk = true, w.GroupVersionKind
		if w.FromHub != nil {
			if out, err = w.FromHub(out); err != nil {
				return nil, err
			}
		}
	}
	if !known {
		return nil, runtime.NewNotRegisteredErrForTarget("cox", nil, to)
	}
	if v.custom { // its conversion has set the version
		return out, nil
	}
	if out == in {
		out = wire.Shallow(in)
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}
