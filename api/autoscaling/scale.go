package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
)

// Scalable is what the scale subresource reads and writes of an object: the
// wanted replicas, the selector of its pods in the form of a string, and the
// number of replicas observed. Wanted points into the object.
type Scalable struct {
	Wanted   *int32
	Selector string
	Observed int32
}

// ScaleSubresource is the scale subresource of a kind (autoscaling/v1). scale
// looks at an object; set gives it a number of replicas.
func ScaleSubresource[T api.Object](scale func(T) (Scalable, error), set func(obj T, replicas int32)) api.Subresource {
	return api.Subresource{Project: &api.Projection{
		GVK: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"},
		New: api.New[autoscalingv1.Scale](),
		Get: func(o runtime.Object) (runtime.Object, error) {
			obj := o.(T)
			s, err := scale(obj)
			if err != nil {
				return nil, err
			}
			out := &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{
					Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
					ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
				},
				Status: autoscalingv1.ScaleStatus{Replicas: s.Observed, Selector: s.Selector},
			}
			if s.Wanted != nil {
				out.Spec.Replicas = *s.Wanted
			}
			return out, nil
		},
		Validate: func(in runtime.Object) field.ErrorList {
			n := in.(*autoscalingv1.Scale).Spec.Replicas
			if n < 0 {
				return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), n, "must be greater than or equal to 0").WithOrigin("minimum")}
			}
			return nil
		},
		Set: func(o, in runtime.Object) error {
			set(o.(T), in.(*autoscalingv1.Scale).Spec.Replicas)
			return nil
		},
	}}
}

// SelectorString is a label selector as the scale's status shows it. An
// absent selector is "", which selects nothing.
func SelectorString(s *metav1.LabelSelector) (string, error) {
	if s == nil {
		return "", nil
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "", err
	}
	return sel.String(), nil
}
