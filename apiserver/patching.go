package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/coxswain/cox/apiserver/fields"
	"github.com/coxswain/cox/apiserver/patch"
	"github.com/coxswain/cox/apiserver/wire"
)

// patchTypes are the media types of patches, as a 415 names them.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// preparePatch sets how a PATCH makes the new object.
func (u *updating) preparePatch() error {
	switch u.req.PatchType {
	case types.ApplyYAMLPatchType:
		return u.prepareApply()
	case types.JSONPatchType, types.MergePatchType:
	case types.StrategicMergePatchType:
		if u.res.custom { // whose lists no Go type describes
			return wire.Unsupported([]string{patchTypes[0], patchTypes[1], patchTypes[3]})
		}
	default:
		return wire.Unsupported(patchTypes)
	}
	p := u.patcher(u.res.head, u.res.view.New)
	p.prune = u.res.view.Prune
	u.produce = func(cur runtime.Object) (runtime.Object, error) {
		if cur == nil {
			return nil, apierrors.NewNotFound(u.res.gr, u.req.Name)
		}
		shown, err := u.res.fromHub(cur)
		if err != nil {
			return nil, err
		}
		obj, err := p.apply(shown)
		if err != nil {
			return nil, err
		}
		return u.res.toHub(obj)
	}
	return nil
}

// patcher applies the request's patch to objects of one kind.
type patcher struct {
	t    *transaction
	head *wire.Head
	make func() runtime.Object
	// prune says what the schema does not know, where the type does not.
	prune func(runtime.Object) ([]error, error)
}

func (t *transaction) patcher(head *wire.Head, make func() runtime.Object) *patcher {
	return &patcher{t: t, head: head, make: make}
}

// patched is what a patch made of an object.
type patched struct {
	runtime.Object
	strict []error       // what strict field validation refuses
	shown  func() string // the patch or what it made, in errors
}

// apply returns a patched copy of obj, which is only read.
func (p *patcher) apply(obj runtime.Object) (runtime.Object, error) {
	out, err := p.patched(obj)
	if err != nil {
		return nil, err
	}
	wire.ClearKind(out.Object)
	if p.prune != nil {
		unknown, err := p.prune(out.Object)
		if err != nil {
			return nil, badPatch(out.shown(), err)
		}
		out.strict = append(out.strict, unknown...)
	}
	return out.Object, p.t.judgeStrict(out.strict, func(err error) error { return badPatch(out.shown(), err) })
}

// patched chooses the way: the first is the fast one, and cannot show what was
// refused.
func (p *patcher) patched(obj runtime.Object) (*patched, error) {
	if typed, dups, ok := p.applyTyped(obj); ok && (len(dups) == 0 || !p.t.strict()) {
		return &patched{Object: typed, strict: dups}, nil
	}
	if p.t.req.PatchType == types.StrategicMergePatchType {
		return p.applyStrategic(obj)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok && p.t.req.PatchType == types.MergePatchType {
		return p.mergeCustom(u)
	}
	return p.applyDocument(obj)
}

func badPatch(shown string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

func (p *patcher) mergeCustom(u *unstructured.Unstructured) (*patched, error) {
	doc, strict, err := patch.Merge(copyCustom(u).Object, p.t.req.Patch)
	if err != nil {
		return nil, err
	}
	out := p.make().(*unstructured.Unstructured)
	out.Object = doc
	shown := func() string { return "" }
	if p.t.strict() { // pruning takes out what the error is about
		was, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		shown = func() string { return string(was) }
	}
	return &patched{out, strict, shown}, p.checkCustomKind(out)
}

// applyDocument applies a patch that knows nothing of the kind, a JSON or a
// merge patch: what it makes of the object's JSON form is decoded like a body.
func (p *patcher) applyDocument(obj runtime.Object) (*patched, error) {
	body, err := p.t.srv.codec.Body(wire.JSON, obj)
	if err != nil {
		return nil, err
	}
	var changed []byte
	var strict []error
	if body = p.head.JSON(body); p.t.req.PatchType == types.JSONPatchType {
		changed, strict, err = patch.JSON(body, p.t.req.Patch)
	} else {
		changed, strict, err = patch.MergeJSON(body, p.t.req.Patch)
	}
	if err != nil {
		return nil, err
	}
	out := &patched{p.make(), strict, func() string { return string(changed) }}
	if u, ok := out.Object.(*unstructured.Unstructured); ok {
		u.Object = nil
		if err := kjson.UnmarshalCaseSensitivePreserveInts(changed, &u.Object); err != nil {
			return nil, badPatch(string(changed), err)
		}
		return out, p.checkCustomKind(u)
	}
	said, err := p.checkKind(changed)
	if err != nil {
		return nil, badPatch(string(changed), err)
	}
	if !said {
		out.strict = append(out.strict, unversioned(changed)...)
		return out, nil
	}
	more, err := kjson.UnmarshalStrict(changed, out.Object)
	if err != nil {
		return nil, badPatch(string(changed), err)
	}
	out.strict = append(out.strict, more...)
	return out, nil
}

// unversioned are what is unknown in a document that has lost its version: all
// of it, and so upstream misses the name next.
func unversioned(doc []byte) []error {
	var top map[string]json.RawMessage
	if json.Unmarshal(doc, &top) != nil {
		return nil
	}
	var unknown []error
	for _, k := range slices.Sorted(maps.Keys(top)) {
		if k != "apiVersion" && k != "kind" {
			unknown = append(unknown, fmt.Errorf("unknown field %q", k))
		}
	}
	return unknown
}

// checkKind refuses a document of another kind, in upstream's words; one that
// does not say is of the patched object's. said is that it has a version.
func (p *patcher) checkKind(doc []byte) (said bool, err error) {
	var says struct {
		APIVersion string `json:"apiVersion,omitempty"`
		Kind       string `json:"kind,omitempty"`
	}
	if err := json.Unmarshal(doc, &says); err != nil {
		return false, fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	gv, err := schema.ParseGroupVersion(says.APIVersion)
	if err != nil {
		return false, err
	}
	if says.Kind == "" {
		says.Kind = p.head.GVK.Kind
	}
	if gv.Empty() && says.Kind == p.head.GVK.Kind {
		return false, nil
	}
	if gv.WithKind(says.Kind) != p.head.GVK {
		return false, wire.Unregistered(gv.WithKind(says.Kind), p.head.GVK)
	}
	return true, nil
}

// checkCustomKind is checkKind for a custom resource.
func (p *patcher) checkCustomKind(out runtime.Object) error {
	u := out.(*unstructured.Unstructured)
	av, kind := p.head.GVK.ToAPIVersionAndKind()
	var errs field.ErrorList
	if got := u.GetKind(); got != kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), got, "must be "+kind))
	}
	if got := u.GetAPIVersion(); got != av {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), got, "must be "+av))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(u.GroupVersionKind().GroupKind(), u.GetName(), errs)
	}
	return nil
}

// applyTyped applies a patch that only sets and clears fields. It answers most
// patches at a fraction of the cost of applyMap, to which it leaves the rest.
func (p *patcher) applyTyped(obj runtime.Object) (out runtime.Object, strict []error, ok bool) {
	if _, custom := obj.(*unstructured.Unstructured); custom || p.t.req.PatchType == types.JSONPatchType {
		return nil, nil, false
	}
	doc, strict, err := patch.Decode(p.t.req.Patch)
	if err != nil || doc == nil {
		return nil, nil, false
	}
	out = copyToWrite(obj)
	out.GetObjectKind().SetGroupVersionKind(p.head.GVK)
	if !patch.Onto(out, doc, p.t.req.PatchType == types.StrategicMergePatchType) {
		return nil, nil, false
	}
	return out, strict, out.GetObjectKind().GroupVersionKind() == p.head.GVK
}

// copyToWrite copies obj but for its managedFields, which are replaced and
// never changed, and so can be shared.
func copyToWrite(obj runtime.Object) runtime.Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return copyCustom(u)
	}
	bare := wire.Shallow(obj)
	m, ok := bare.(metav1.Object)
	if !ok {
		return obj.DeepCopyObject()
	}
	entries := m.GetManagedFields()
	m.SetManagedFields(nil)
	out := bare.DeepCopyObject()
	out.(metav1.Object).SetManagedFields(entries)
	return out
}

func copyCustom(u *unstructured.Unstructured) *unstructured.Unstructured {
	bare := wire.Shallow(u).(*unstructured.Unstructured)
	meta, _ := bare.Object["metadata"].(map[string]any)
	entries, had := meta["managedFields"]
	delete(meta, "managedFields")
	out := bare.DeepCopy()
	if had {
		out.Object["metadata"].(map[string]any)["managedFields"] = entries
	}
	return out
}

// applyStrategic applies a patch by the tags of the object's Go type. What it
// says of the kind counts for nothing.
func (p *patcher) applyStrategic(obj runtime.Object) (*patched, error) {
	doc, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	doc, said, strict, err := patch.Strategic(doc, p.t.req.Patch, p.make())
	if err != nil {
		return nil, err
	}
	out := &patched{p.make(), strict, func() string { return fmt.Sprintf("%+v", said) }}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(doc, out.Object, true)
	if s, ok := runtime.AsStrictDecodingError(err); ok {
		out.strict = append(out.strict, s.Errors()...)
		return out, nil
	}
	if err != nil {
		return nil, badPatch(out.shown(), err)
	}
	return out, nil
}

// strict says that the request asks for strict field validation.
func (t *transaction) strict() bool {
	return t.req.Options.FieldValidation == metav1.FieldValidationStrict
}

// judgeStrict does with unknown and duplicate fields what the request's field
// validation says: refuse, warn (the default) or ignore.
func (t *transaction) judgeStrict(errs []error, refuse func(error) error) error {
	if len(errs) == 0 {
		return nil
	}
	switch t.req.Options.FieldValidation {
	case "Strict":
		return refuse(runtime.NewStrictDecodingError(errs))
	case "Ignore":
		return nil
	}
	for _, e := range errs {
		t.warns = append(t.warns, strictLines(e)...)
	}
	return nil
}

// strictLines are the single findings of a strict decoder: YAML's come in one
// error, which no warning could carry.
func strictLines(err error) []string {
	found, ok := strings.CutPrefix(err.Error(), yamlErrors)
	if !ok {
		return []string{err.Error()}
	}
	lines := strings.Split(found, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

const yamlErrors = "yaml: unmarshal errors:\n"

// prepareApply sets how a server-side apply makes the new object.
func (u *updating) prepareApply() error {
	if u.res.tracking(u.req.Subresource).fm == nil {
		return wire.Unsupported(patchTypes[:3])
	}
	conf, err := u.configuration()
	if err != nil {
		return err
	}
	u.mayCreate, u.tracked = u.sub == nil || u.strategy.AllowCreateOnUpdate, true
	u.produce = func(cur runtime.Object) (runtime.Object, error) {
		obj, err := u.applyTo(cur, conf.Unstructured)
		if err == nil {
			err = u.judgeApplied(conf)
		}
		return obj, err
	}
	return nil
}

// configuration is what a server-side apply applies.
type configuration struct {
	*unstructured.Unstructured
	strict error // what strict field validation refuses, if it can be applied at all
}

func (u *updating) configuration() (*configuration, error) {
	conf, strict, err := patch.Applied(u.req.Patch)
	if err != nil {
		return nil, err
	}
	return &configuration{conf, strict}, nil
}

// judgeApplied does with fields that a configuration has twice what the
// request's field validation says.
func (t *transaction) judgeApplied(conf *configuration) error {
	switch v := t.req.Options.FieldValidation; {
	case conf.strict == nil || v == metav1.FieldValidationIgnore:
	case v == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: error converting YAML to JSON: %v", conf.strict))
	default:
		t.warns = append(t.warns, strictLines(conf.strict)...)
	}
	return nil
}

func (u *updating) applyTo(cur runtime.Object, conf *unstructured.Unstructured) (runtime.Object, error) {
	if cur != nil {
		if obj, ok := u.applyTyped(cur, conf); ok {
			return obj, nil
		}
	}
	live := cur
	if live == nil {
		live = u.res.New()
	} else {
		live = wire.Shallow(live)
	}
	live.GetObjectKind().SetGroupVersionKind(u.res.Hub)
	obj, err := u.res.tracking(u.req.Subresource).fm.Apply(live, conf.DeepCopy(), u.fieldManager(), u.req.Options.Force)
	if err != nil {
		return nil, err
	}
	if obj == live || sharesWith(obj, cur) || u.res.custom { // what was not applied is shared
		obj = obj.DeepCopyObject()
	}
	wire.ClearKind(obj)
	return obj, nil
}

// applyTyped applies a configuration that only sets fields, to which its owner
// has a known right, as applyTo would.
func (u *updating) applyTyped(cur runtime.Object, conf *unstructured.Unstructured) (runtime.Object, bool) {
	t, manager := u.res.tracking(u.req.Subresource), u.fieldManager()
	if t.memo == nil || conf.GroupVersionKind() != u.res.view.GroupVersionKind {
		return nil, false
	}
	if _, migrates := accessor(cur).GetAnnotations()[corev1.LastAppliedConfigAnnotation]; migrates {
		return nil, false // of kubectl's two ways to apply, one continues the other
	}
	obj := copyToWrite(cur)
	var change []byte
	var ok bool
	if custom, is := obj.(*unstructured.Unstructured); is {
		change, ok = patch.ApplyTree(custom.Object, conf.Object)
	} else {
		change, ok = patch.Apply(obj, conf.Object)
	}
	if !ok {
		return nil, false
	}
	obj.GetObjectKind().SetGroupVersionKind(u.res.view.GroupVersionKind)
	(&viewConverter{u.res.kind}).Default(obj)
	live, before := wire.Shallow(cur), entriesOf(cur)
	live.GetObjectKind().SetGroupVersionKind(u.res.Hub)
	after, ok := t.memo.Apply(live, change, before, manager, u.req.Options.Force, u.now(), t.compute(live, live, manager),
		func(before []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool) {
			return t.applied(live, obj, conf, before, manager, u.req.Options.Force)
		})
	if !ok {
		return nil, false
	}
	setEntries(obj, after, live, before)
	wire.ClearKind(obj)
	return obj, true
}

// applied has the library apply a configuration to live with the entries
// before. ok says that the result is obj and that the manager gives no field
// up, which could go with it.
func (t *tracker) applied(live, obj runtime.Object, conf *unstructured.Unstructured, before []metav1.ManagedFieldsEntry, manager string, force bool) ([]metav1.ManagedFieldsEntry, bool) {
	was := wire.Shallow(live)
	accessor(was).SetManagedFields(before)
	got, err := t.fm.Apply(was, conf.DeepCopy(), manager, force)
	if err != nil {
		return nil, false
	}
	after := accessor(got).GetManagedFields()
	a, b := wire.Shallow(got), wire.Shallow(obj)
	for _, o := range []runtime.Object{a, b} {
		accessor(o).SetManagedFields(nil)
		if u, custom := o.(*unstructured.Unstructured); !custom {
			o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		} else {
			u.SetGroupVersionKind(conf.GroupVersionKind())
		}
	}
	return after, apiequality.Semantic.DeepEqual(a, b) && fields.Keeps(before, after)
}

// sharesWith says that nothing was applied and obj may be a view of cur.
func sharesWith(obj, cur runtime.Object) bool { return cur != nil && obj == cur }
