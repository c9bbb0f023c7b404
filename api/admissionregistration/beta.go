package admissionregistration

import (
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	admissionv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
)

// 1.36 stores mutating policies and their bindings as v1beta1 and serves them
// as v1. Both versions have the same fields, so that one is the other's JSON;
// the objects are few and seldom written. What a row does is written for v1.

// version converts between the two versions of one kind.
type version[V any, PV interface {
	*V
	runtime.Object
}] struct {
	hub func() runtime.Object
}

func convert(in runtime.Object, out runtime.Object) (runtime.Object, error) {
	text, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return nil, fmt.Errorf("convert %T to %T: %w", in, out, err)
	}
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return out, nil
}

func (v version[V, PV]) toHub(in runtime.Object) (runtime.Object, error) { return convert(in, v.hub()) }

func (v version[V, PV]) fromHub(in runtime.Object) (runtime.Object, error) {
	return convert(in, PV(new(V)))
}

// v1 shows a hub object in v1. It panics on what has no JSON form, which no
// object of the table is.
func (v version[V, PV]) v1(hub runtime.Object) PV {
	out, err := v.fromHub(hub)
	if err != nil {
		panic(err)
	}
	return out.(PV)
}

// change lets f change a hub object as v1.
func (v version[V, PV]) change(hub runtime.Object, f func(PV)) {
	obj := v.v1(hub)
	f(obj)
	back, err := v.toHub(obj)
	if err != nil {
		panic(err)
	}
	switch h := hub.(type) {
	case *admissionv1beta1.MutatingAdmissionPolicy:
		*h = *back.(*admissionv1beta1.MutatingAdmissionPolicy)
	case *admissionv1beta1.MutatingAdmissionPolicyBinding:
		*h = *back.(*admissionv1beta1.MutatingAdmissionPolicyBinding)
	}
}

// stored makes of a row of v1 functions one whose hub is v1beta1.
func (v version[V, PV]) stored(k *api.Kind, newHub, newHubList func() runtime.Object) *api.Kind {
	served, hub := k.Hub, admissionv1beta1.SchemeGroupVersion.WithKind(k.Hub.Kind)
	s := k.Strategy
	k.Views = []api.View{{
		GroupVersionKind: served, New: k.New, NewList: k.NewList, ToHub: v.toHub, FromHub: v.fromHub,
	}}
	k.Hub, k.New, k.NewList = hub, newHub, newHubList
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       func(o runtime.Object) { v.change(o, func(p PV) { s.Default(p) }) },
		PrepareCreate: func(o runtime.Object) { v.change(o, func(p PV) { s.PrepareCreate(p) }) },
		PrepareUpdate: func(o, old runtime.Object) { v.change(o, func(p PV) { s.PrepareUpdate(p, v.v1(old)) }) },
		Validate:      func(o runtime.Object) field.ErrorList { return s.Validate(v.v1(o)) },
		ValidateUpdate: func(o, old runtime.Object) field.ErrorList {
			return s.ValidateUpdate(v.v1(o), v.v1(old))
		},
	}
	cells := k.Cells
	k.Cells = func(o runtime.Object) []any { return cells(v.v1(o)) }
	return k
}

func storedMutatingPolicy() *api.Kind {
	hub := api.New[admissionv1beta1.MutatingAdmissionPolicy]()
	v := version[admissionv1.MutatingAdmissionPolicy, *admissionv1.MutatingAdmissionPolicy]{hub}
	return v.stored(mutatingPolicyKind(), hub, api.New[admissionv1beta1.MutatingAdmissionPolicyList]())
}

func storedMutatingBinding() *api.Kind {
	hub := api.New[admissionv1beta1.MutatingAdmissionPolicyBinding]()
	v := version[admissionv1.MutatingAdmissionPolicyBinding, *admissionv1.MutatingAdmissionPolicyBinding]{hub}
	return v.stored(mutatingBindingKind(), hub, api.New[admissionv1beta1.MutatingAdmissionPolicyBindingList]())
}
