package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	celmutation "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
	kjson "sigs.k8s.io/json"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
	patching "github.com/coxswain/cox/apiserver/patch"
)

// Mutating is the plugin MutatingAdmissionPolicy.
func (m *Manager) Mutating() admission.Plugin { return mutator{m} }

type mutator struct{ m *Manager }

func (mutator) Name() string { return "MutatingAdmissionPolicy" }

// Handles: what is deleted or connected to is not changed.
func (mutator) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}
func (mutator) Validate(context.Context, *admission.Attributes) error { return nil }
func (p mutator) Admit(ctx context.Context, a *admission.Attributes) error {
	return p.m.mutate(ctx, a)
}

// rounds is what policies remember between the rounds of a write.
type rounds struct {
	earlier map[string]bool // may be carried out again, and were since the last change
	again   map[string]bool
	last    runtime.Object
}

func (r *rounds) changed() {
	for k := range r.earlier {
		r.again[k] = true
	}
	clear(r.earlier)
}

func (m *Manager) mutate(ctx context.Context, a *admission.Attributes) error {
	if unasked(a) || a.Object == nil {
		return nil
	}
	if err := m.gate.Wait(ctx, a); err != nil {
		return err
	}
	policies := m.bound(mutating)
	if len(policies) == 0 {
		return nil
	}
	r, _ := a.Memo["MutatingAdmissionPolicy"].(*rounds)
	if r == nil {
		r = &rounds{earlier: map[string]bool{}, again: map[string]bool{}}
		a.Remember("MutatingAdmissionPolicy", r)
	}
	if a.Round > 0 && r.last != nil && !apiequality.Semantic.DeepEqual(r.last, a.Object) {
		r.changed()
	}
	w := match.New(a, m.cfg.Door, m.cfg.Served)
	for _, p := range policies {
		if err := m.change(ctx, p, w, r); err != nil {
			return err
		}
	}
	r.last = a.Object.DeepCopyObject()
	return nil
}

// unreadable is what a patch made that is no object of the kind. No failure
// policy looks past it.
type unreadable struct{ error }

// unbound is why a binding cannot be carried out.
type unbound struct{ error }

// refuse is what a policy that cannot be carried out means for a write: with a
// binding for that binding, without for the policy as such.
func refuse(p *policy, b *binding, a *admission.Attributes, err error) error {
	var u unreadable
	switch {
	case errors.As(err, &u):
		return apierrors.NewInternalError(u.error)
	case p.ignores:
		return nil
	case b == nil:
		return refusedBy(a, fmt.Sprintf("policy %q denied request: failed to configure policy: %v", p.name, err), metav1.StatusReasonForbidden)
	}
	reason := metav1.StatusReasonInvalid
	if errors.As(err, new(unbound)) {
		reason = metav1.StatusReasonForbidden
	}
	return refusedBy(a, fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", p.name, b.name, err), reason)
}

// refusedBy is the Status of a mutating policy's no, whose code is that of
// Forbidden for whatever reason.
func refusedBy(a *admission.Attributes, message string, reason metav1.StatusReason) error {
	out := apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), errors.New(message))
	s := &out.ErrStatus
	s.Message, s.Reason = message, reason
	s.Details.Causes = []metav1.StatusCause{{Message: message}}
	return out
}

// change carries one policy out with all its bindings and parameters.
func (m *Manager) change(ctx context.Context, p *policy, w *match.Write, r *rounds) error {
	seen, ok, err := match.Seen{}, false, error(nil)
	if p.constraints != nil {
		seen, ok, err = p.constraints.match(ctx, w)
	}
	if err == nil && (ok || p.constraints == nil) {
		err = m.fault(p)
	}
	if err != nil {
		return refuse(p, nil, w.Attributes, err)
	}
	if !ok {
		return nil
	}
	for _, b := range p.bindings {
		err := b.err
		ok := false
		if err == nil {
			_, ok, err = b.constraints.match(ctx, w)
		}
		var params []any
		if err == nil && ok {
			params, err = m.params(ctx, p, b, w)
		}
		if err != nil {
			if err = refuse(p, b, w.Attributes, unbound{fmt.Errorf("failed to configure binding: %w", err)}); err != nil {
				return err
			}
			continue
		}
		for i, param := range params {
			key := fmt.Sprintf("%s/%s/%d", p.name, b.name, i)
			if w.Round > 0 && !r.again[key] {
				continue
			}
			begin := time.Now()
			changed, err := m.changeWith(ctx, p, w, seen, param)
			m.cfg.Counts.mutatedBy(p, b, err, time.Since(begin))
			if err != nil {
				if err = refuse(p, b, w.Attributes, err); err != nil {
					return err
				}
				continue
			}
			if changed {
				r.changed()
				w.Again = true
			}
			if p.reinvoke {
				r.earlier[key] = true
			}
		}
	}
	return nil
}

// changeWith evaluates the mutations with one parameter, each on what the one
// before left. It says whether the object is another now; on an error it is
// what it was.
func (m *Manager) changeWith(ctx context.Context, p *policy, w *match.Write, seen match.Seen, param any) (bool, error) {
	values, err := w.Values(ctx, seen, m.cfg.Authz, true)
	if err != nil {
		return false, err
	}
	e := p.begin(ctx, values, param)
	if !p.conditions.Empty() {
		if ok, err := p.conditions.Match(ctx, e.values); !ok || err != nil {
			return false, err
		}
	}
	obj, err := w.In(seen, w.Object)
	if err != nil {
		return false, err
	}
	before := w.Object.DeepCopyObject()
	obj = obj.DeepCopyObject()
	budget := e.budget
	for _, mu := range p.mutations {
		out, err := e.eval(mu.prg)
		if err != nil {
			return false, fmt.Errorf("expression '%v' resulted in error: %w", mu.prg.Source, err)
		}
		if mu.apply {
			obj, err = m.merge(w, seen, obj, out)
		} else {
			obj, err = patch(w, seen, obj, out)
		}
		if err != nil {
			return false, err
		}
		if values["object"], err = runtime.DefaultUnstructuredConverter.ToUnstructured(match.Typed(obj, seen.Kind)); err != nil {
			return false, err
		}
		e = p.begin(ctx, values, param)
		e.budget = budget
	}
	if err := w.Replace(seen, obj); err != nil {
		return false, err
	}
	return !apiequality.Semantic.DeepEqual(before, w.Object), nil
}

// merge applies the Object that an expression made as server-side apply would.
func (m *Manager) merge(w *match.Write, seen match.Seen, obj runtime.Object, out ref.Val) (runtime.Object, error) {
	val, ok := out.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unexpected type from evaluation: %T", out)
	}
	if err := val.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	native, err := val.ConvertToNative(reflect.TypeFor[map[string]any]())
	if err != nil {
		return nil, err
	}
	change := &unstructured.Unstructured{Object: native.(map[string]any)}
	change.SetGroupVersionKind(seen.Kind)
	result, err := m.apply(seen, obj, change)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: %w", err)
	}
	text, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return decode(w, seen, obj, text)
}

// apply merges change into obj by the schema of their kind.
func (m *Manager) apply(seen match.Seen, obj runtime.Object, change *unstructured.Unstructured) (runtime.Object, error) {
	schema, err := m.cfg.Types(seen.Resource)
	if err != nil {
		return nil, err
	}
	was, err := schema.ObjectToTyped(match.Typed(obj, seen.Kind))
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	want, err := schema.ObjectToTyped(change)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	if whole := atomics(want.Schema(), want.TypeRef(), change.Object, ""); len(whole) > 0 {
		return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %s", strings.Join(whole, ", "))
	}
	merged, err := was.Merge(want)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	result, err := schema.TypedToObject(merged)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	return result, nil
}

// decode reads what a policy made. As from a client that wants to be told,
// nothing unknown is let pass.
func decode(w *match.Write, seen match.Seen, like runtime.Object, text []byte) (runtime.Object, error) {
	obj := w.Empty(seen, like)
	strict, err := kjson.UnmarshalStrict(text, obj)
	if err != nil {
		return nil, unreadable{err}
	}
	if len(strict) > 0 {
		return nil, unreadable{runtime.NewStrictDecodingError(strict)}
	}
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk != seen.Kind && !gvk.Empty() {
		// The name of the registry is upstream's, which its clients are shown.
		return nil, unreadable{runtime.NewNotRegisteredErrForKind("pkg/api/legacyscheme/scheme.go:30", gvk)}
	}
	return obj, nil
}

// patch applies the list of JSONPatch values that an expression made.
func patch(w *match.Write, seen match.Seen, obj runtime.Object, out ref.Val) (runtime.Object, error) {
	list, ok := out.(traits.Lister)
	if !ok {
		return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array, got %T", out)
	}
	var ops []map[string]any
	for it := list.Iterator(); it.HasNext().Value() == true; {
		next := it.Next()
		op, err := next.ConvertToNative(reflect.TypeFor[*celmutation.JSONPatchVal]())
		if err != nil {
			return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch: %w", err)
		}
		v := op.(*celmutation.JSONPatchVal)
		entry := map[string]any{"op": v.Op, "path": v.Path}
		if v.From != "" {
			entry["from"] = v.From
		}
		if v.Val != nil {
			native, err := v.Val.ConvertToNative(reflect.TypeFor[*structpb.Value]())
			if err != nil {
				return nil, fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
			}
			entry["value"] = native
		}
		ops = append(ops, entry)
	}
	if len(ops) == 0 {
		return obj, nil
	}
	text, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	whole, err := json.Marshal(match.Typed(obj, seen.Kind))
	if err != nil {
		return nil, err
	}
	if whole, err = patching.Operate(decoded, whole); err != nil {
		if errors.Is(err, jsonpatch.ErrTestFailed) {
			return obj, nil // a test that fails leaves the object alone
		}
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	return decode(w, seen, obj, whole)
}
