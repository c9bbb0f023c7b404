package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/controllers/revisions"
)

const (
	workers = 5
	// revisionHash is the label by which upstream marks a set's revisions.
	revisionHash = "controller.kubernetes.io/hash"
)

// Controller reconciles StatefulSets.
type Controller struct {
	env       controllers.Env
	sets      client.Informer[*appsv1.StatefulSet]
	revisions client.Informer[*appsv1.ControllerRevision]
	pods      client.Informer[*corev1.Pod]
	claims    client.Informer[*corev1.PersistentVolumeClaim]
	loop      *client.Loop
	podsW     client.Writes
	claimsW   client.Writes
	revW      client.Writes
	statusW   client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:       env,
		sets:      client.InformerFor(env.Informers, client.StatefulSets),
		revisions: client.InformerFor(env.Informers, client.ControllerRevisions),
		pods:      client.InformerFor(env.Informers, client.Pods),
		claims:    client.InformerFor(env.Informers, client.PersistentVolumeClaims),
	}
	c.loop = env.NewLoop("statefulset", c.reconcile)
	return c, errors.Join(
		c.pods.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*corev1.Pod]),
		c.revisions.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*appsv1.ControllerRevision]),
		controllers.Follow(c.loop, c.sets),
		controllers.OnEach(c.revisions, func(r *appsv1.ControllerRevision) { c.wakeFor(r) }),
		controllers.On(c.claims, c.claimChanged),
		controllers.On(c.pods, c.podChanged),
	)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// wakeFor wakes the set that controls a pod or a revision, or for an orphan
// those that could adopt it.
func (c *Controller) wakeFor(o client.Object) {
	controllers.WakeOwner(c.loop, c.sets, client.StatefulSets.GVK(), func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector }, o)
}

func (c *Controller) podChanged(p, old *corev1.Pod) {
	if p != nil && old != nil && pods.FactsOf(p) == pods.FactsOf(old) && maps.Equal(p.Labels, old.Labels) {
		return
	}
	if old != nil {
		c.wakeFor(old)
	}
	if p != nil {
		c.wakeFor(p)
	}
}

// claimChanged matters when a claim has come, is going or has gone, or its
// owners change: the sets that could have made it look again.
func (c *Controller) claimChanged(claim, old *corev1.PersistentVolumeClaim) {
	if claim != nil && old != nil && (claim.DeletionTimestamp == nil) == (old.DeletionTimestamp == nil) &&
		apiequality.Semantic.DeepEqual(claim.OwnerReferences, old.OwnerReferences) {
		return
	}
	if claim == nil {
		claim = old
	}
	for _, s := range c.sets.List(claim.Namespace, nil) {
		for i := range s.Spec.VolumeClaimTemplates {
			prefix := s.Spec.VolumeClaimTemplates[i].Name + "-"
			if len(claim.Name) > len(prefix) && claim.Name[:len(prefix)] == prefix && ordinalOf(s, claim.Name[len(prefix):]) >= 0 {
				c.loop.AddObject(s)
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	set, ok := c.sets.GetKey(key)
	if !ok {
		for _, w := range [...]*client.Writes{&c.podsW, &c.claimsW, &c.revW, &c.statusW} {
			w.Forget(key)
		}
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, nil // validation refuses it
	}
	if err := controllers.Settle(ctx, c.env.Client, client.Pods, &c.podsW, key, set, sel); err != nil {
		return 0, err
	}
	if !c.pods.CaughtUp(&c.podsW, key) || !c.claims.CaughtUp(&c.claimsW, key) ||
		!c.revisions.CaughtUp(&c.revW, key) || !c.sets.CaughtUp(&c.statusW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	again, err := c.sync(ctx, key, set, sel)
	if controllers.NamespaceEnding(err) {
		return 0, nil
	}
	return again, err
}

func (c *Controller) sync(ctx context.Context, key string, set *appsv1.StatefulSet, sel labels.Selector) (time.Duration, error) {
	owner := metav1.NewControllerRef(set, client.StatefulSets.GVK())
	owned, err := claim(ctx, c, client.Pods, c.pods, &c.podsW, key, set, sel, owner,
		func(p *corev1.Pod) bool { return ordinalOf(set, p.Name) >= 0 })
	if err != nil {
		return 0, fmt.Errorf("claiming pods: %w", err)
	}
	all, err := claim(ctx, c, client.ControllerRevisions, c.revisions, &c.revW, key, set, sel, owner,
		func(*appsv1.ControllerRevision) bool { return true })
	if err != nil {
		return 0, fmt.Errorf("claiming revisions: %w", err)
	}
	from := revisions.Owner{Object: set, Ref: *owner, Template: &set.Spec.Template, HashLabel: revisionHash, Collisions: set.Status.CollisionCount}
	history := revisions.Find(from, all)
	if set.DeletionTimestamp == nil {
		err := revisions.Apply(ctx, c.env.Client, from, &history, func(r client.Object) { c.revW.Wrote(key, r) })
		var collision *revisions.CollisionError
		if errors.As(err, &collision) {
			return 0, errors.Join(err, c.collide(ctx, key, set))
		}
		if err != nil {
			return 0, err
		}
	}
	current := history.Current
	for _, r := range history.Old {
		if r.Name == set.Status.CurrentRevision {
			current = r
		}
	}
	plan := Make(State{Set: set, Pods: owned, Current: current.Name, Update: history.Current.Name, Now: c.env.Clock.Now()})
	applyErr := c.apply(ctx, key, set, &plan, current, history.Current)
	if err := c.writeStatus(ctx, key, set, plan.Status); err != nil {
		return 0, err
	}
	if applyErr != nil || set.DeletionTimestamp != nil {
		return 0, applyErr
	}
	live := map[string]bool{current.Name: true, history.Current.Name: true}
	for _, p := range owned {
		live[revisionOf(p)] = true
	}
	return plan.Again, revisions.Delete(ctx, c.env.Client, set.Namespace,
		revisions.Excess(history.Old, set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return live[r.Name] }))
}

// claim adopts, releases and returns what the set has of a kind.
func claim[T client.Object](ctx context.Context, c *Controller, k client.Kind[T], inf client.Informer[T], w *client.Writes, key string,
	set *appsv1.StatefulSet, sel labels.Selector, owner *metav1.OwnerReference, member func(T) bool) ([]T, error) {
	candidates := append(inf.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(set.UID))),
		inf.ByIndex(controllers.OwnerIndex, controllers.OrphansIn(set.Namespace))...)
	candidates = slices.DeleteFunc(candidates, func(o T) bool { return !member(o) })
	return controllers.ApplyClaim(ctx, c.env.Client, k, *owner, set.Namespace, controllers.Claims(set, sel, candidates),
		func(ctx context.Context) (metav1.Object, error) {
			return client.StatefulSets.In(c.env.Client, set.Namespace).Get(ctx, set.Name)
		},
		func(o T) { w.Wrote(key, o) })
}

func (c *Controller) collide(ctx context.Context, key string, set *appsv1.StatefulSet) error {
	st := set.Status.DeepCopy()
	n := int32(1)
	if st.CollisionCount != nil {
		n = *st.CollisionCount + 1
	}
	st.CollisionCount = &n
	return c.writeStatus(ctx, key, set, *st)
}

func (c *Controller) writeStatus(ctx context.Context, key string, set *appsv1.StatefulSet, st appsv1.StatefulSetStatus) error {
	if apiequality.Semantic.DeepEqual(set.Status, st) {
		return nil
	}
	n := set.DeepCopy()
	n.Status = st
	n.Status.Conditions = slices.Clone(st.Conditions)
	got, err := client.StatefulSets.In(c.env.Client, set.Namespace).UpdateStatus(ctx, n)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("updating status: %w", err)
	}
	c.statusW.Wrote(key, got)
	return nil
}
