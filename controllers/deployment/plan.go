// Package deployment rolls a Deployment's pod template out through
// ReplicaSets: the Deployment and its sets in, changes to sets and the
// Deployment's status out.
package deployment

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Plan is what one reconcile does.
type Plan struct {
	// Create is the set for a new template; nil when it exists already.
	Create *appsv1.ReplicaSet
	// Update are changed copies of sets.
	Update []Update
	// Delete are old sets beyond the history limit.
	Delete []*appsv1.ReplicaSet
	// Revision is the Deployment's revision annotation; "" leaves it.
	Revision string
	Status   appsv1.DeploymentStatus
	// Again is when the progress deadline has to be looked at; 0 is never.
	Again time.Duration
}

// Update is a set as it is to be, with its size before and after.
type Update struct {
	Set      *appsv1.ReplicaSet
	From, To int32
}

// Message is the event's text for a change of size, "" when there is none.
func (u *Update) Message() string {
	switch {
	case u.To > u.From:
		return fmt.Sprintf("Scaled up replica set %s from %d to %d", u.Set.Name, u.From, u.To)
	case u.To < u.From:
		return fmt.Sprintf("Scaled down replica set %s from %d to %d", u.Set.Name, u.From, u.To)
	}
	return ""
}

// set is a ReplicaSet during planning: its size and annotations as they are
// and as they are to be.
type set struct {
	*appsv1.ReplicaSet
	replicas    int32
	annotations map[string]string
	minReady    int32
	created     bool
}

func (s *set) was() int32 {
	if s.created {
		return 0
	}
	return replicasOf(s.Spec.Replicas)
}

// available never exceeds the size: the status may lag behind a scale-down.
func (s *set) available() int32 { return min(s.Status.AvailableReplicas, s.replicas) }

type planner struct {
	d        *appsv1.Deployment
	now      time.Time
	all      []*set // oldest first
	old      []*set // all but new
	new      *set   // nil while a paused Deployment has none
	surge    int32
	unavail  int32
	replicas int32
	plan     Plan
}

// Make plans for d. sets are the ReplicaSets that it controls;
// podsLeft tells whether any pod of the given sets has not finished yet (only
// the Recreate strategy asks).
func Make(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, podsLeft func(sets []*appsv1.ReplicaSet) bool, now time.Time) Plan {
	p := newPlanner(d, sets, now)
	conditions := newConditions(d, now)
	if d.DeletionTimestamp != nil {
		p.status(conditions)
		return p.plan
	}
	conditions.pause()
	scaling := p.isScaling()
	// Recreate makes the new set only once nothing old is left.
	blocked := d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType &&
		(len(active(p.old)) > 0 || podsLeft(plain(p.old)))
	p.sync(conditions, !d.Spec.Paused && !scaling && !blocked)
	switch {
	case d.Spec.Paused, scaling:
		p.scaleProportionally()
		if d.Spec.Paused {
			p.cleanUp()
		}
		p.status(conditions)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.recreate(blocked)
		p.rolloutStatus(conditions)
	default:
		p.roll()
		p.rolloutStatus(conditions)
	}
	p.collect()
	return p.plan
}

func newPlanner(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, now time.Time) *planner {
	p := &planner{d: d, now: now, replicas: replicasOf(d.Spec.Replicas)}
	p.surge, p.unavail = bounds(d)
	sets = slices.Clone(sets)
	slices.SortFunc(sets, older)
	present := newSetOf(d, sets)
	for _, rs := range sets {
		s := &set{ReplicaSet: rs, replicas: replicasOf(rs.Spec.Replicas), annotations: rs.Annotations, minReady: rs.Spec.MinReadySeconds}
		p.all = append(p.all, s)
		if rs == present {
			p.new = s
		} else {
			p.old = append(p.old, s)
		}
	}
	return p
}

func replicasOf(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// bounds resolves maxSurge (up) and maxUnavailable (down) to pods. Both
// cannot be 0, or nothing would ever move.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	r := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return 0, 0
	}
	replicas := replicasOf(d.Spec.Replicas)
	var s, u int
	if r != nil {
		s = resolve(r.MaxSurge, int(replicas), true)
		u = resolve(r.MaxUnavailable, int(replicas), false)
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), min(int32(u), replicas)
}

func resolve(v *intstr.IntOrString, of int, up bool) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, up)
	if err != nil || n < 0 {
		return 0 // validation refuses such values
	}
	return n
}

// sync sees to the new set: it makes it when there is none and create is
// set, and keeps its annotations, and the Deployment's revision, right.
func (p *planner) sync(c *conditions, create bool) {
	revision := nextRevision(plain(p.old))
	switch {
	case p.new != nil:
		p.new.annotations = annotate(p.d, p.new.Annotations, revision)
		p.new.minReady = p.d.Spec.MinReadySeconds
		c.foundSet(p.new.Name)
	case create:
		rs := makeSet(p.d, revision)
		p.new = &set{ReplicaSet: rs, annotations: rs.Annotations, minReady: rs.Spec.MinReadySeconds, created: true}
		p.all = append(p.all, p.new)
		p.resize(p.new, p.newSize())
		c.createdSet(rs.Name)
	default:
		return
	}
	if rev := p.new.annotations[revisionAnnotation]; rev != p.d.Annotations[revisionAnnotation] {
		p.plan.Revision = rev
	}
}

func plain(sets []*set) []*appsv1.ReplicaSet {
	out := make([]*appsv1.ReplicaSet, len(sets))
	for i, s := range sets {
		out[i] = s.ReplicaSet
	}
	return out
}

// resize gives a set a size, and the annotations from which a later change
// of the Deployment's size takes its proportions.
func (p *planner) resize(s *set, n int32) {
	s.replicas = n
	desired, most := strconv.Itoa(int(p.replicas)), strconv.Itoa(int(p.replicas+p.surge))
	if s.annotations[desiredAnnotation] == desired && s.annotations[maxAnnotation] == most {
		return
	}
	a := make(map[string]string, len(s.annotations)+2)
	for k, v := range s.annotations {
		a[k] = v
	}
	a[desiredAnnotation], a[maxAnnotation] = desired, most
	s.annotations = a
}

func total(sets []*set) (n int32) {
	for _, s := range sets {
		n += s.replicas
	}
	return n
}

func available(sets []*set) (n int32) {
	for _, s := range sets {
		n += s.available()
	}
	return n
}

func active(sets []*set) (out []*set) {
	for _, s := range sets {
		if s.replicas > 0 {
			out = append(out, s)
		}
	}
	return out
}

// isScaling says that the Deployment's size has changed since its sets were
// last sized, which comes before any rolling.
func (p *planner) isScaling() bool {
	for _, s := range active(p.all) {
		n, err := strconv.ParseInt(s.annotations[desiredAnnotation], 10, 32)
		if err == nil && int32(n) != p.replicas {
			return true
		}
	}
	return false
}

// cleanUp deletes old sets beyond the history limit, the oldest revisions
// first, but none that still has or wants pods.
func (p *planner) cleanUp() {
	limit := p.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	var old []*set
	for _, s := range p.old {
		if s.DeletionTimestamp == nil {
			old = append(old, s)
		}
	}
	excess := len(old) - int(*limit)
	if excess <= 0 {
		return
	}
	slices.SortStableFunc(old, func(a, b *set) int {
		return int(revisionOf(a.ReplicaSet) - revisionOf(b.ReplicaSet))
	})
	for _, s := range old[:excess] {
		if s.Status.Replicas == 0 && s.replicas == 0 && s.was() == 0 && s.Generation <= s.Status.ObservedGeneration {
			p.plan.Delete = append(p.plan.Delete, s.ReplicaSet)
		}
	}
}

// collect turns the sets' new sizes and annotations into the plan's updates.
func (p *planner) collect() {
	for _, s := range p.all {
		if s.created {
			n := s.replicas
			s.ReplicaSet.Spec.Replicas, s.ReplicaSet.Annotations = &n, s.annotations
			p.plan.Create = s.ReplicaSet
			continue
		}
		if s.replicas == s.was() && s.minReady == s.Spec.MinReadySeconds && mapsEqual(s.annotations, s.Annotations) {
			continue
		}
		c, n := s.ReplicaSet.DeepCopy(), s.replicas
		c.Spec.Replicas, c.Spec.MinReadySeconds, c.Annotations = &n, s.minReady, s.annotations
		p.plan.Update = append(p.plan.Update, Update{Set: c, From: s.was(), To: n})
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
