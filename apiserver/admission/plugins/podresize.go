package plugins

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features"
	declared "k8s.io/component-helpers/nodedeclaredfeatures/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// resizeOf are the pods of a write to pods/resize of a pod that is on a node;
// nil of any other, and of one that resizes nothing.
func resizeOf(a *admission.Attributes) (pod, old *corev1.Pod) {
	if !is(a, podsResource, "resize") {
		return nil, nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	old, ok2 := a.Old.(*corev1.Pod)
	if !ok || !ok2 || old.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil, nil
	}
	return pod, old
}

func (d deps) nodeOf(ctx context.Context, a *admission.Attributes, pod *corev1.Pod) (*corev1.Node, error) {
	node, err := get(ctx, client.Nodes.In(d.door, ""), pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return nil, forbid(a, fmt.Sprintf("node %q not found", pod.Spec.NodeName))
	case err != nil:
		return nil, apierrors.NewInternalError(fmt.Errorf("look up node %q: %w", pod.Spec.NodeName, err))
	}
	return node, nil
}

// nodeDeclaredFeatures refuses a resize that takes what the pod's node has not
// declared that it can do (KEP-5328).
func nodeDeclaredFeatures(d deps) *plugin {
	known := nodedeclaredfeatures.New(features.AllFeatures)
	serves := version.MajorMinor(1, 36)
	return &plugin{ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		pod, old := resizeOf(a)
		if pod == nil {
			return nil
		}
		wants, err := known.InferForPodUpdate(&declared.PodInfo{Spec: &old.Spec, Status: &old.Status}, &declared.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, serves)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if wants.IsEmpty() {
			return nil
		}
		node, err := d.nodeOf(ctx, a, pod)
		if err != nil {
			return err
		}
		match, err := known.MatchNode(wants, node)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if !match.IsMatch {
			return forbid(a, fmt.Sprintf("pod update requires features %s which are not available on node %q",
				strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
		}
		return nil
	}}
}

// podResizeValidator refuses a resize that the pod's node could never carry
// out, even if the pod had it for itself (KEP-1287).
func podResizeValidator(d deps) *plugin {
	return &plugin{ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		pod, _ := resizeOf(a)
		if pod == nil {
			return nil
		}
		node, err := d.nodeOf(ctx, a, pod)
		if err != nil {
			return err
		}
		if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != string(corev1.Linux) {
			return unfit(a, "UnsupportedPlatform", fmt.Sprintf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os))
		}
		wants := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
		var lacks []string
		for _, r := range []struct {
			name  corev1.ResourceName
			count func(resource.Quantity) int64
		}{
			{corev1.ResourceCPU, func(q resource.Quantity) int64 { return q.MilliValue() }},
			{corev1.ResourceMemory, func(q resource.Quantity) int64 { return q.Value() }},
		} {
			if want, have := r.count(wants[r.name]), r.count(node.Status.Allocatable[r.name]); want > have {
				lacks = append(lacks, fmt.Sprintf("%s, requested: %d, allocatable: %d", r.name, want, have))
			}
		}
		if len(lacks) > 0 {
			return unfit(a, "NodeCapacity", "node didn't have enough allocatable resources: "+strings.Join(lacks, "; "))
		}
		return nil
	}}
}

// unfit is the refusal of a resize for a cause that clients tell by its type.
func unfit(a *admission.Attributes, cause metav1.CauseType, why string) error {
	err := apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), errors.New(why))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: cause}}
	return err
}
