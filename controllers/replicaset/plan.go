// Package replicaset keeps as many pods alive as a ReplicaSet or a
// ReplicationController asks for: sets and pods in, pod creations, deletions
// and the set's status out.
package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/controllers/pods"
)

// burst bounds the pods that one reconcile makes or deletes.
const burst = 500

// Plan is what one reconcile does about the pods of a set.
type Plan struct {
	// Create is how many pods to make.
	Create int
	// Delete are the pods to delete.
	Delete []*corev1.Pod
	// Again is when a pod becomes available by time alone; 0 is never.
	Again time.Duration
	// Status is the set's status as the observed pods have it, without
	// conditions.
	Status appsv1.ReplicaSetStatus
}

// Make plans for a set. owned are all pods that it controls; siblings counts
// the active pods of the whole family (all sets of one Deployment) on a
// pod's node.
func Make(set *appsv1.ReplicaSet, owned []*corev1.Pod, siblings func(*corev1.Pod) int, now time.Time) Plan {
	var plan Plan
	active := make([]*corev1.Pod, 0, len(owned))
	var terminating int32
	for _, p := range owned {
		switch {
		case pods.Active(p):
			active = append(active, p)
		case pods.Terminating(p):
			terminating++
		}
	}
	plan.Status = status(set, active, now, &plan.Again)
	plan.Status.TerminatingReplicas = &terminating
	if set.DeletionTimestamp != nil {
		return plan
	}
	want := 1
	if set.Spec.Replicas != nil {
		want = int(*set.Spec.Replicas)
	}
	switch diff := len(active) - want; {
	case diff < 0:
		plan.Create = min(-diff, burst)
	case diff > 0:
		diff = min(diff, burst)
		if diff < len(active) {
			slices.SortStableFunc(active, pods.DeletionOrder(siblings, now))
		}
		plan.Delete = active[:diff]
	}
	return plan
}

func status(set *appsv1.ReplicaSet, active []*corev1.Pod, now time.Time, again *time.Duration) appsv1.ReplicaSetStatus {
	st := appsv1.ReplicaSetStatus{Replicas: int32(len(active)), ObservedGeneration: set.Generation}
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			st.FullyLabeledReplicas++
		}
		if pods.Ready(p) {
			st.ReadyReplicas++
		}
		ok, wait := pods.Available(p, set.Spec.MinReadySeconds, now)
		if ok {
			st.AvailableReplicas++
		} else if wait > 0 && (*again == 0 || wait < *again) {
			*again = wait
		}
	}
	return st
}

// WithFailure returns conditions with ReplicaFailure as the last attempt
// left it: set while pods cannot be made or deleted, absent otherwise.
func WithFailure(old []appsv1.ReplicaSetCondition, creating bool, err error, now metav1.Time) []appsv1.ReplicaSetCondition {
	i := slices.IndexFunc(old, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	if err == nil {
		if i < 0 {
			return old
		}
		return slices.Delete(slices.Clone(old), i, i+1)
	}
	if i >= 0 {
		return old // the first reason stays until it is gone, so that retries write nothing
	}
	reason := "FailedDelete"
	if creating {
		reason = "FailedCreate"
	}
	return append(slices.Clone(old), appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: now, Reason: reason, Message: err.Error(),
	})
}
