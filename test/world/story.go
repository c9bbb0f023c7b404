package world

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/controllers/pods"
)

// told is how much of a history a failure shows.
const told = 150

// note writes a change into the history.
func (w *World) note(c *Change) {
	what := "changed"
	switch {
	case c.Old == nil:
		what = "made"
	case c.New == nil:
		what = "gone"
	}
	o := c.Object()
	text := fmt.Sprintf("%s %d %s %s/%s %s", c.At.Format("15:04:05.000"), c.Revision, c.Resource, o.GetNamespace(), o.GetName(), what)
	if c.Actor != "" {
		text += " by " + c.Actor
	}
	if o.GetDeletionTimestamp() != nil {
		text += ", ending"
	}
	w.history = append(w.history, text+describe(o))
	if n := len(w.history); n > 4*told && !w.failed {
		w.history = append(w.history[:0], w.history[n-told:]...)
	}
}

// describe says what matters of an object.
func describe(o any) string {
	switch o := o.(type) {
	case *corev1.Pod:
		return fmt.Sprintf(": on %q %s ready=%v %v", o.Spec.NodeName, o.Status.Phase, pods.Ready(o), o.Finalizers)
	case *appsv1.ReplicaSet:
		return fmt.Sprintf(": wants %d, has %d, available %d", *o.Spec.Replicas, o.Status.Replicas, o.Status.AvailableReplicas)
	case *appsv1.Deployment:
		return fmt.Sprintf(": %s wants %d, has %d, updated %d, available %d", o.Spec.Template.Spec.Containers[0].Image, *o.Spec.Replicas, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
	case *appsv1.StatefulSet:
		return fmt.Sprintf(": %s wants %d, has %d, updated %d (%s -> %s)", o.Spec.Template.Spec.Containers[0].Image, *o.Spec.Replicas, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.CurrentRevision, o.Status.UpdateRevision)
	case *batchv1.Job:
		s := &o.Status
		text := fmt.Sprintf(": active %d succeeded %d failed %d completed %q", s.Active, s.Succeeded, s.Failed, s.CompletedIndexes)
		if u := s.UncountedTerminatedPods; u != nil {
			text += fmt.Sprintf(" uncounted %v/%v", u.Succeeded, u.Failed)
		}
		for _, c := range s.Conditions {
			text += fmt.Sprintf(" %s=%s", c.Type, c.Status)
		}
		return text
	}
	return ""
}

// tell shows the end of a history that went wrong.
func (w *World) tell() {
	if !w.T.Failed() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.history)
	for i, text := range w.history {
		if strings.HasPrefix(text, "WRONG") {
			last = min(last, i+20)
			break
		}
	}
	for _, text := range w.history[max(last-told, 0):last] {
		w.T.Log(text)
	}
}
