package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reasons that conditions carry, as clients know them.
const (
	reasonSetCreated        = "NewReplicaSetCreated"
	reasonSetFound          = "FoundNewReplicaSet"
	reasonSetCreateError    = "ReplicaSetCreateError"
	reasonSetUpdated        = "ReplicaSetUpdated"
	reasonSetAvailable      = "NewReplicaSetAvailable"
	reasonDeadline          = "ProgressDeadlineExceeded"
	reasonPaused            = "DeploymentPaused"
	reasonResumed           = "DeploymentResumed"
	reasonMinimum           = "MinimumReplicasAvailable"
	reasonMinimumNotReached = "MinimumReplicasUnavailable"
)

// conditions are a Deployment's conditions while a plan is made.
type conditions struct {
	d    *appsv1.Deployment
	now  metav1.Time
	list []appsv1.DeploymentCondition
}

func newConditions(d *appsv1.Deployment, now time.Time) *conditions {
	return &conditions{d: d, now: metav1.NewTime(now), list: slices.Clone(d.Status.Conditions)}
}

func (c *conditions) get(t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range c.list {
		if c.list[i].Type == t {
			return &c.list[i]
		}
	}
	return nil
}

func (c *conditions) remove(t appsv1.DeploymentConditionType) {
	c.list = slices.DeleteFunc(c.list, func(x appsv1.DeploymentCondition) bool { return x.Type == t })
}

// set puts a condition in; one of the same status and reason stays as it is,
// times and message included, unless refresh is set.
func (c *conditions) set(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, refresh bool) {
	n := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: c.now, LastTransitionTime: c.now}
	if old := c.get(t); old != nil {
		if old.Status == status && old.Reason == reason && !refresh {
			return
		}
		if old.Status == status {
			n.LastTransitionTime = old.LastTransitionTime
		}
		c.remove(t)
	}
	c.list = append(c.list, n)
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// pause notes that the Deployment was paused or resumed: the progress
// deadline does not run meanwhile.
func (c *conditions) pause() {
	if !hasDeadline(c.d) {
		return
	}
	cond := c.get(appsv1.DeploymentProgressing)
	if cond != nil && cond.Reason == reasonDeadline {
		return
	}
	paused := cond != nil && cond.Reason == reasonPaused
	switch {
	case c.d.Spec.Paused && !paused:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", false)
	case !c.d.Spec.Paused && paused:
		c.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", false)
	}
}

func (c *conditions) foundSet(name string) {
	if hasDeadline(c.d) && c.get(appsv1.DeploymentProgressing) == nil {
		c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetFound, fmt.Sprintf("Found new replica set %q", name), false)
	}
}

func (c *conditions) createdSet(name string) {
	if hasDeadline(c.d) {
		c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetCreated, fmt.Sprintf("Created new replica set %q", name), false)
	}
}

// CreateFailed returns the status of a Deployment whose new set could not be
// made.
func CreateFailed(d *appsv1.Deployment, set string, err error, now time.Time) appsv1.DeploymentStatus {
	st := *d.Status.DeepCopy()
	if !hasDeadline(d) {
		return st
	}
	c := newConditions(d, now)
	c.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonSetCreateError,
		fmt.Sprintf("Failed to create new replica set %q: %v", set, err), false)
	st.Conditions = c.list
	return st
}

// counts are the numbers of the status, conditions left out.
func (p *planner) counts() appsv1.DeploymentStatus {
	st := appsv1.DeploymentStatus{ObservedGeneration: p.d.Generation, CollisionCount: p.d.Status.CollisionCount}
	var wanted, terminating int32
	known := false
	for _, s := range p.all {
		wanted += s.replicas
		st.Replicas += s.Status.Replicas
		st.ReadyReplicas += s.Status.ReadyReplicas
		st.AvailableReplicas += s.Status.AvailableReplicas
		if s.Status.TerminatingReplicas != nil {
			known = true
			terminating += *s.Status.TerminatingReplicas
		}
	}
	if known || len(p.all) == 0 {
		st.TerminatingReplicas = &terminating
	}
	if p.new != nil {
		st.UpdatedReplicas = p.new.Status.Replicas
	}
	st.UnavailableReplicas = max(wanted-st.AvailableReplicas, 0)
	return st
}

// status puts the numbers and the Available condition into the plan.
func (p *planner) status(c *conditions) {
	st := p.counts()
	if st.AvailableReplicas >= p.replicas-p.unavail {
		c.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimum, "Deployment has minimum availability.", false)
	} else {
		c.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonMinimumNotReached, "Deployment does not have minimum availability.", false)
	}
	st.Conditions = c.list
	p.plan.Status = st
}

// isComplete says that the rollout is over: as many pods as wanted, all of
// the new template and available, none other.
func (p *planner) isComplete(st *appsv1.DeploymentStatus) bool {
	return st.UpdatedReplicas == p.replicas && st.Replicas == p.replicas && st.AvailableReplicas == p.replicas &&
		st.ObservedGeneration >= p.d.Generation
}

// progressed says that the rollout got further since the last status.
func (p *planner) progressed(st *appsv1.DeploymentStatus) bool {
	was := &p.d.Status
	return st.UpdatedReplicas > was.UpdatedReplicas ||
		st.Replicas-st.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		st.ReadyReplicas > was.ReadyReplicas || st.AvailableReplicas > was.AvailableReplicas
}

// rolloutStatus is status with the Progressing and ReplicaFailure conditions.
func (p *planner) rolloutStatus(c *conditions) {
	st := p.counts()
	cond := c.get(appsv1.DeploymentProgressing)
	settled := st.Replicas == st.UpdatedReplicas && cond != nil && cond.Reason == reasonSetAvailable
	if !hasDeadline(p.d) {
		c.remove(appsv1.DeploymentProgressing)
	} else if !settled {
		what := fmt.Sprintf("Deployment %q", p.d.Name)
		if p.new != nil {
			what = fmt.Sprintf("ReplicaSet %q", p.new.Name)
		}
		switch {
		case p.isComplete(&st):
			c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetAvailable, what+" has successfully progressed.", false)
		case p.progressed(&st):
			c.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated, what+" is progressing.", true)
		case p.late(cond):
			c.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonDeadline, what+" has timed out progressing.", false)
		}
	}
	p.failures(c)
	p.status(c)
	p.plan.Again = p.deadlineIn(c.get(appsv1.DeploymentProgressing))
}

// failures hands a set's ReplicaFailure on, the new set's first.
func (p *planner) failures(c *conditions) {
	sets := p.old
	if p.new != nil {
		sets = append([]*set{p.new}, p.old...)
	}
	for _, s := range sets {
		for _, f := range s.Status.Conditions {
			if f.Type == appsv1.ReplicaSetReplicaFailure && f.Status == corev1.ConditionTrue {
				c.set(appsv1.DeploymentReplicaFailure, f.Status, f.Reason, f.Message, false)
				return
			}
		}
	}
	c.remove(appsv1.DeploymentReplicaFailure)
}

func (p *planner) late(cond *appsv1.DeploymentCondition) bool {
	if cond == nil || cond.Reason == reasonSetAvailable {
		return false
	}
	return cond.Reason == reasonDeadline || p.now.After(p.deadline(cond))
}

func (p *planner) deadline(cond *appsv1.DeploymentCondition) time.Time {
	return cond.LastUpdateTime.Add(time.Duration(*p.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

// deadlineIn is when a rollout that is under way would be late: a second
// after the deadline, because conditions count in whole seconds.
func (p *planner) deadlineIn(cond *appsv1.DeploymentCondition) time.Duration {
	if !hasDeadline(p.d) || cond == nil || cond.Reason == reasonSetAvailable || cond.Reason == reasonDeadline || cond.Reason == reasonPaused {
		return 0
	}
	return max(p.deadline(cond).Add(time.Second).Sub(p.now), time.Second)
}
