package deployment

import (
	"context"
	"errors"
	"fmt"
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
)

const workers = 5

// Controller reconciles Deployments.
type Controller struct {
	env         controllers.Env
	deployments client.Informer[*appsv1.Deployment]
	sets        client.Informer[*appsv1.ReplicaSet]
	pods        client.Informer[*corev1.Pod]
	loop        *client.Loop
	setsW       client.Writes
	ownW        client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:         env,
		deployments: client.InformerFor(env.Informers, client.Deployments),
		sets:        client.InformerFor(env.Informers, client.ReplicaSets),
		pods:        client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("deployment", c.reconcile)
	return c, errors.Join(
		c.sets.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*appsv1.ReplicaSet]),
		c.pods.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*corev1.Pod]),
		controllers.Follow(c.loop, c.deployments),
		controllers.On(c.sets, c.setChanged),
		controllers.On(c.pods, c.podChanged),
	)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) setChanged(s, old *appsv1.ReplicaSet) {
	if old != nil {
		c.wakeOwner(old)
	}
	if s == nil {
		return
	}
	ref := metav1.GetControllerOfNoCopy(s)
	if ref != nil {
		c.wakeOwner(s)
		return
	}
	for _, d := range c.deployments.List(s.Namespace, nil) {
		if sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !sel.Empty() && sel.Matches(labels.Set(s.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

func (c *Controller) wakeOwner(s *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOfNoCopy(s); controllers.ControlledBy(ref, client.Deployments.GVK()) {
		c.loop.Add(s.Namespace + "/" + ref.Name)
	}
}

// podChanged matters to the Recreate strategy alone, which waits for the last
// old pod to end.
func (c *Controller) podChanged(p, old *corev1.Pod) {
	if old == nil || p != nil && pods.Finished(p) == pods.Finished(old) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if !controllers.ControlledBy(ref, client.ReplicaSets.GVK()) {
		return
	}
	s, ok := c.sets.Get(old.Namespace, ref.Name)
	if !ok {
		return
	}
	ref = metav1.GetControllerOfNoCopy(s)
	if !controllers.ControlledBy(ref, client.Deployments.GVK()) {
		return
	}
	if d, ok := c.deployments.Get(s.Namespace, ref.Name); ok && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.AddObject(d)
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	d, ok := c.deployments.GetKey(key)
	if !ok {
		c.setsW.Forget(key)
		c.ownW.Forget(key)
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return 0, nil // validation refuses it
	}
	if sel.Empty() {
		c.env.Events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	if err := controllers.Settle(ctx, c.env.Client, client.ReplicaSets, &c.setsW, key, d, sel); err != nil {
		return 0, err
	}
	if !c.sets.CaughtUp(&c.setsW, key) || !c.deployments.CaughtUp(&c.ownW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	sets, err := c.claim(ctx, key, d, sel)
	if err != nil {
		return 0, fmt.Errorf("claiming replica sets: %w", err)
	}
	plan := Make(d, sets, c.podsLeft, c.env.Clock.Now())
	if err := c.apply(ctx, key, d, &plan); err != nil {
		if controllers.NamespaceEnding(err) {
			return 0, nil
		}
		return 0, err
	}
	return plan.Again, nil
}

func (c *Controller) claim(ctx context.Context, key string, d *appsv1.Deployment, sel labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates := append(c.sets.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(d.UID))),
		c.sets.ByIndex(controllers.OwnerIndex, controllers.OrphansIn(d.Namespace))...)
	owner := metav1.NewControllerRef(d, client.Deployments.GVK())
	return controllers.ApplyClaim(ctx, c.env.Client, client.ReplicaSets, *owner, d.Namespace,
		controllers.Claims(d, sel, candidates),
		func(ctx context.Context) (metav1.Object, error) {
			return client.Deployments.In(c.env.Client, d.Namespace).Get(ctx, d.Name)
		},
		func(s *appsv1.ReplicaSet) { c.setsW.Wrote(key, s) })
}

func (c *Controller) podsLeft(sets []*appsv1.ReplicaSet) bool {
	for _, s := range sets {
		for _, p := range c.pods.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(s.UID))) {
			if !pods.Finished(p) {
				return true
			}
		}
	}
	return false
}

func (c *Controller) apply(ctx context.Context, key string, d *appsv1.Deployment, plan *Plan) error {
	if plan.Create != nil {
		if err := c.create(ctx, key, d, plan.Create); err != nil {
			return err
		}
	}
	for i := range plan.Update {
		u := &plan.Update[i]
		message := u.Message()
		if _, err := controllers.Update(ctx, c.env.Client, client.ReplicaSets, &c.setsW, key, u.Set); err != nil {
			return fmt.Errorf("updating replica set: %w", err)
		}
		if message != "" {
			c.env.Events.Event(d, corev1.EventTypeNormal, "ScalingReplicaSet", message)
		}
	}
	for _, s := range plan.Delete {
		rv := s.ResourceVersion
		if _, err := controllers.Delete(ctx, c.env.Client, client.ReplicaSets, &c.setsW, key, s,
			client.Options{Preconditions: &metav1.Preconditions{ResourceVersion: &rv}}); err != nil {
			return fmt.Errorf("deleting old replica set %s: %w", s.Name, err)
		}
	}
	return c.writeStatus(ctx, key, d, plan.Status, plan.Revision)
}

// create makes the new set. A name that is taken is either our own set, which
// the informer has yet to show, or another template's with the same hash:
// then the count of collisions changes the hash for the next try.
func (c *Controller) create(ctx context.Context, key string, d *appsv1.Deployment, s *appsv1.ReplicaSet) error {
	name, size := s.Name, *s.Spec.Replicas
	template := s.Spec.Template.DeepCopy()
	_, err := controllers.Create(ctx, c.env.Client, client.ReplicaSets, &c.setsW, key, s)
	switch {
	case err == nil:
		if size > 0 {
			c.env.Events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", name, size)
		}
		return nil
	case apierrors.IsAlreadyExists(err):
		there, getErr := client.ReplicaSets.In(c.env.Client, d.Namespace).Get(ctx, name)
		if getErr != nil {
			return getErr
		}
		if ref := metav1.GetControllerOfNoCopy(there); ref != nil && ref.UID == d.UID && sameTemplate(template, &there.Spec.Template) {
			c.setsW.Wrote(key, there)
			return nil
		}
		st := d.Status.DeepCopy()
		n := int32(1)
		if st.CollisionCount != nil {
			n = *st.CollisionCount + 1
		}
		st.CollisionCount = &n
		if err := c.writeStatus(ctx, key, d, *st, ""); err != nil {
			return err
		}
		return fmt.Errorf("replica set %s has another template: %w", name, err)
	case controllers.NamespaceEnding(err):
		return err
	}
	c.env.Events.Eventf(d, corev1.EventTypeWarning, reasonSetCreateError, "Failed to create new replica set %q: %v", name, err)
	if err := c.writeStatus(ctx, key, d, CreateFailed(d, name, err, c.env.Clock.Now()), ""); err != nil {
		return err
	}
	return fmt.Errorf("creating replica set %s: %w", name, err)
}

// writeStatus writes the status and, when given, the revision annotation,
// which the status subresource lets through.
func (c *Controller) writeStatus(ctx context.Context, key string, d *appsv1.Deployment, st appsv1.DeploymentStatus, revision string) error {
	if revision == "" && apiequality.Semantic.DeepEqual(d.Status, st) {
		return nil
	}
	n := d.DeepCopy()
	n.Status = st
	if revision != "" {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[revisionAnnotation] = revision
	}
	got, err := client.Deployments.In(c.env.Client, d.Namespace).UpdateStatus(ctx, n)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("updating status: %w", err)
	}
	c.ownW.Wrote(key, got)
	return nil
}
