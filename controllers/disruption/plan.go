// Package disruption tells how many pods of a PodDisruptionBudget may be
// evicted now: budgets and their pods in, the budgets' statuses out. The
// eviction subresource spends what it grants.
package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/controllers/pods"
)

// unconfirmed is how long an eviction may be on record without its pod being
// deleted; after that the pod counts as healthy again.
const unconfirmed = 2 * time.Minute

// Plan is what one reconcile finds out.
type Plan struct {
	Status policyv1.PodDisruptionBudgetStatus
	// Overdue are the pods that were to be deleted and were not.
	Overdue []*corev1.Pod
	// Again is when an eviction on record runs out; 0 is never.
	Again time.Duration
}

// NeedsScale says that the budget is measured against the size that the pods'
// owners ask for, and not against the pods that there are.
func NeedsScale(pdb *policyv1.PodDisruptionBudget) bool {
	return pdb.Spec.MaxUnavailable != nil || pdb.Spec.MinAvailable != nil && pdb.Spec.MinAvailable.Type == intstr.String
}

// Make plans for a budget. covered are its pods; scale is what their owners
// ask for together, and used only if NeedsScale; current says that covered is
// no older than the budget.
func Make(pdb *policyv1.PodDisruptionBudget, covered []*corev1.Pod, current bool, scale int32, now time.Time) (Plan, error) {
	expected, desired := int32(len(covered)), int32(0)
	switch s := pdb.Spec; {
	case s.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(s.MaxUnavailable, int(scale), true)
		if err != nil {
			return Plan{}, err
		}
		expected, desired = scale, max(scale-int32(n), 0)
	case s.MinAvailable != nil && s.MinAvailable.Type == intstr.Int:
		desired = s.MinAvailable.IntVal
	case s.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(s.MinAvailable, int(scale), true)
		if err != nil {
			return Plan{}, err
		}
		expected, desired = scale, int32(n)
	}
	plan := Plan{}
	disrupted := plan.disrupted(pdb, covered, current, now)
	healthy := int32(0)
	for _, p := range covered {
		if _, going := disrupted[p.Name]; !going && p.DeletionTimestamp == nil && !pods.Finished(p) && pods.Ready(p) {
			healthy++
		}
	}
	allowed := healthy - desired
	if expected <= 0 || allowed < 0 {
		allowed = 0
	}
	plan.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: pdb.Generation, DisruptedPods: disrupted,
		ExpectedPods: expected, DesiredHealthy: desired, CurrentHealthy: healthy, DisruptionsAllowed: allowed,
	}
	c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason}
	if allowed == 0 {
		c.Status, c.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	plan.Status.Conditions = withCondition(pdb, c, now)
	return plan, nil
}

// disrupted are the evictions that are still to be confirmed by their pods'
// deletion. A pod that is not there has gone, unless it is so new that it was
// evicted before it could be seen; one that is newer than the eviction has only
// the name of the evicted one.
func (plan *Plan) disrupted(pdb *policyv1.PodDisruptionBudget, covered []*corev1.Pod, current bool, now time.Time) map[string]metav1.Time {
	byName := make(map[string]*corev1.Pod, len(covered))
	for _, p := range covered {
		byName[p.Name] = p
	}
	var out map[string]metav1.Time
	for name, at := range pdb.Status.DisruptedPods {
		p, left := byName[name], at.Add(unconfirmed).Sub(now)
		switch {
		case p == nil && (current || left <= 0):
			continue
		case p != nil && (p.DeletionTimestamp != nil || p.CreationTimestamp.After(at.Time)):
			continue
		case left <= 0:
			plan.Overdue = append(plan.Overdue, p)
			continue
		}
		if out == nil {
			out = map[string]metav1.Time{}
		}
		out[name] = at
		if plan.Again == 0 || left < plan.Again {
			plan.Again = left
		}
	}
	return out
}

// Failed is the status of a budget that cannot be computed: it grants
// nothing.
func Failed(pdb *policyv1.PodDisruptionBudget, err error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	st := *pdb.Status.DeepCopy()
	st.DisruptionsAllowed = 0
	st.Conditions = withCondition(pdb, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error(),
	}, now)
	return st
}

func withCondition(pdb *policyv1.PodDisruptionBudget, c metav1.Condition, now time.Time) []metav1.Condition {
	out := append([]metav1.Condition(nil), pdb.Status.Conditions...)
	c.ObservedGeneration, c.LastTransitionTime = pdb.Generation, metav1.NewTime(now)
	meta.SetStatusCondition(&out, c)
	return out
}
