// Package pods answers the questions that several controllers ask about a
// pod: is it active, ready, available, which one goes first. Pod in, fact out.
package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Active pods count as replicas: not finished and not being deleted.
func Active(p *corev1.Pod) bool {
	return !Finished(p) && p.DeletionTimestamp == nil
}

// Finished pods will never run again.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Terminating pods are being deleted and have not finished yet.
func Terminating(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && !Finished(p)
}

// Condition returns the pod's condition of a type, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// SetCondition puts c into the pod's status and says whether that changed
// anything. The time of transition moves only with the status.
func SetCondition(p *corev1.Pod, c corev1.PodCondition) bool {
	old := Condition(p, c.Type)
	if old == nil {
		p.Status.Conditions = append(p.Status.Conditions, c)
		return true
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	changed := old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message ||
		old.ObservedGeneration != c.ObservedGeneration
	*old = c
	return changed
}

// Ready says that the pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says that the pod has been ready for minReadySeconds. When it is
// ready but not for long enough, wait is how long it still has to be.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReadySeconds <= 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	wait = c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	return wait <= 0, max(wait, 0)
}

// ReadySince is when the pod became ready; zero when it is not.
func ReadySince(p *corev1.Pod) metav1.Time {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// Facts is what a pod's owner decides by, apart from its labels: an owner need
// not look at a pod again as long as they are equal.
type Facts struct {
	Owner    types.UID // of the controlling owner, "" for an orphan
	Node     string
	Phase    corev1.PodPhase
	Deleting bool
	Ready    bool
	Since    int64 // when it became ready, in seconds since 1970
}

// FactsOf returns those of p, which is only read.
func FactsOf(p *corev1.Pod) Facts {
	f := Facts{Node: p.Spec.NodeName, Phase: p.Status.Phase, Deleting: p.DeletionTimestamp != nil, Ready: Ready(p)}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		f.Owner = ref.UID
	}
	if f.Ready {
		f.Since = ReadySince(p).Unix()
	}
	return f
}

// FromTemplate makes a pod of a template for owner, which becomes its
// controller. namePrefix without its dash is the prefix of the pod's
// generated name.
func FromTemplate(t *corev1.PodTemplateSpec, namespace, namePrefix string, owner *metav1.OwnerReference) *corev1.Pod {
	p := &corev1.Pod{Spec: *t.Spec.DeepCopy()}
	p.Namespace, p.GenerateName = namespace, namePrefix+"-"
	p.Labels = copyMap(t.Labels)
	p.Annotations = copyMap(t.Annotations)
	p.Finalizers = append([]string(nil), t.Finalizers...)
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return p
}

func copyMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
