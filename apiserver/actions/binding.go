// Package actions holds the operations on built-in kinds that need more than
// their own object: binding a pod to its node, evicting it within its
// disruption budgets, and giving Services their addresses and ports. Requests
// come in from the pipeline, writes go to the store.
package actions

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

var podsResource = schema.GroupResource{Resource: "pods"}

// Binding carries out a create of pods/binding (and of the bindings resource):
// it sets the pod's node once, in one transaction. pods is the store of the
// pods. The now function gives the time of the PodScheduled condition.
func Binding(pods store.Interface, now func() time.Time) func(ctx context.Context, req *client.Request) (*client.Result, error) {
	return func(ctx context.Context, req *client.Request) (*client.Result, error) {
		b, ok := req.Object.(*corev1.Binding)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", req.Object))
		}
		name := req.Name
		if name == "" {
			name = b.Name
		}
		if b.Name != "" && b.Name != name {
			return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
		}
		switch {
		case b.Target.Name == "":
			return nil, apierrors.NewBadRequest("target.name: Required value")
		case b.Target.Kind != "" && b.Target.Kind != "Node":
			return nil, apierrors.NewBadRequest(`target.kind: Unsupported value: "` + b.Target.Kind + `": supported values: "Node", "<empty>"`)
		}
		assign := func(cur *store.Entry) (runtime.Object, error) {
			pod := cur.Object.(*corev1.Pod)
			if err := bindable(pod, b); err != nil {
				return nil, err
			}
			return bound(pod, b, now()), nil
		}
		var err error
		if req.Options.DryRun {
			var cur *store.Entry
			if cur, err = pods.Get(ctx, req.Namespace+"/"+name, ""); err == nil {
				_, err = assign(cur)
			}
		} else {
			_, err = pods.Update(ctx, req.Namespace+"/"+name, false, assign)
		}
		if err != nil {
			return nil, err
		}
		return &client.Result{Created: true, Object: &metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: 201,
		}}, nil
	}
}

// bindable says why pod cannot take the binding, or nil.
func bindable(pod *corev1.Pod, b *corev1.Binding) error {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return apierrors.NewConflict(podsResource, pod.Name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID))
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return apierrors.NewConflict(podsResource, pod.Name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion))
	case pod.DeletionTimestamp != nil:
		return conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

// bound returns a copy of pod assigned to the binding's target.
func bound(pod *corev1.Pod, b *corev1.Binding, now time.Time) *corev1.Pod {
	out := pod.DeepCopy()
	out.Spec.NodeName = b.Target.Name
	out.Status.NominatedNodeName = "" // KEP-5278: it has said what it had to
	for k, v := range b.Annotations {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[k] = v
	}
	for k, v := range b.Labels {
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[k] = v
	}
	scheduled := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	} // of no generation: the kubelet is the first to tell one, as upstream
	for i := range out.Status.Conditions {
		if c := &out.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			if c.Status == corev1.ConditionTrue {
				scheduled.LastTransitionTime = c.LastTransitionTime
			}
			*c = scheduled
			return out
		}
	}
	out.Status.Conditions = append(out.Status.Conditions, scheduled)
	return out
}
