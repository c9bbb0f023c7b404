package daemonset

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
	"k8s.io/client-go/util/flowcontrol"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/controllers/revisions"
)

const workers = 2

// Controller reconciles DaemonSets.
type Controller struct {
	env       controllers.Env
	sets      client.Informer[*appsv1.DaemonSet]
	revisions client.Informer[*appsv1.ControllerRevision]
	pods      client.Informer[*corev1.Pod]
	nodes     client.Informer[*corev1.Node]
	loop      *client.Loop
	podsW     client.Writes
	revW      client.Writes
	statusW   client.Writes
	failures  *flowcontrol.Backoff
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:       env,
		sets:      client.InformerFor(env.Informers, client.DaemonSets),
		revisions: client.InformerFor(env.Informers, client.ControllerRevisions),
		pods:      client.InformerFor(env.Informers, client.Pods),
		nodes:     client.InformerFor(env.Informers, client.Nodes),
		failures:  flowcontrol.NewBackOff(time.Second, 15*time.Minute),
	}
	c.failures.Clock = env.Clock
	c.loop = env.NewLoop("daemonset", c.reconcile)
	return c, errors.Join(
		c.pods.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*corev1.Pod]),
		c.revisions.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*appsv1.ControllerRevision]),
		controllers.Follow(c.loop, c.sets),
		controllers.OnEach(c.revisions, func(r *appsv1.ControllerRevision) { c.wakeFor(r) }),
		controllers.On(c.nodes, c.nodeChanged),
		controllers.On(c.pods, c.podChanged),
	)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// wakeFor wakes the set that controls a pod or a revision, or for an orphan
// those that could adopt it.
func (c *Controller) wakeFor(o client.Object) {
	controllers.WakeOwner(c.loop, c.sets, client.DaemonSets.GVK(), func(s *appsv1.DaemonSet) *metav1.LabelSelector { return s.Spec.Selector }, o)
}

func (c *Controller) podChanged(p, old *corev1.Pod) {
	if p != nil && old != nil && pods.FactsOf(p) == pods.FactsOf(old) && maps.Equal(p.Labels, old.Labels) {
		return
	}
	if old != nil && metav1.GetControllerOfNoCopy(old) != nil {
		c.wakeFor(old)
	}
	if p != nil {
		c.wakeFor(p)
	}
}

// nodeChanged wakes the sets for which a node begins or ceases to fit.
func (c *Controller) nodeChanged(n, old *corev1.Node) {
	if n != nil && old != nil && maps.Equal(n.Labels, old.Labels) && apiequality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) {
		return
	}
	for _, ds := range c.sets.List("", nil) {
		place := newPlacer(ds)
		var is, was Fit
		if n != nil {
			is = place.on(n)
		}
		if old != nil {
			was = place.on(old)
		}
		if is != was || n == nil {
			c.loop.AddObject(ds)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	ds, ok := c.sets.GetKey(key)
	if !ok {
		for _, w := range [...]*client.Writes{&c.podsW, &c.revW, &c.statusW} {
			w.Forget(key)
		}
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return 0, nil // validation refuses it
	}
	if sel.Empty() {
		c.env.Events.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	if err := controllers.Settle(ctx, c.env.Client, client.Pods, &c.podsW, key, ds, sel); err != nil {
		return 0, err
	}
	if !c.pods.CaughtUp(&c.podsW, key) || !c.revisions.CaughtUp(&c.revW, key) || !c.sets.CaughtUp(&c.statusW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	again, err := c.sync(ctx, key, ds, sel)
	if controllers.NamespaceEnding(err) {
		return 0, nil
	}
	return again, err
}

func (c *Controller) sync(ctx context.Context, key string, ds *appsv1.DaemonSet, sel labels.Selector) (time.Duration, error) {
	owner := metav1.NewControllerRef(ds, client.DaemonSets.GVK())
	owned, err := claim(ctx, c, client.Pods, c.pods, &c.podsW, key, ds, sel, owner)
	if err != nil {
		return 0, fmt.Errorf("claiming pods: %w", err)
	}
	all, err := claim(ctx, c, client.ControllerRevisions, c.revisions, &c.revW, key, ds, sel, owner)
	if err != nil {
		return 0, fmt.Errorf("claiming revisions: %w", err)
	}
	from := revisions.Owner{Object: ds, Ref: *owner, Template: &ds.Spec.Template,
		HashLabel: appsv1.ControllerRevisionHashLabelKey, Collisions: ds.Status.CollisionCount}
	history := revisions.Find(from, all)
	if ds.DeletionTimestamp == nil {
		err := revisions.Apply(ctx, c.env.Client, from, &history, func(r client.Object) { c.revW.Wrote(key, r) })
		var collision *revisions.CollisionError
		if errors.As(err, &collision) {
			return 0, errors.Join(err, c.collide(ctx, key, ds))
		}
		if err != nil {
			return 0, err
		}
	}
	plan := Make(State{
		Set: ds, Nodes: c.nodes.List("", nil), Pods: owned, Now: c.env.Clock.Now(),
		Hash: history.Current.Labels[appsv1.ControllerRevisionHashLabelKey],
		Backoff: func(node string) time.Duration {
			id := string(ds.UID) + "/" + node
			if now := c.env.Clock.Now(); c.failures.IsInBackOffSinceUpdate(id, now) {
				return c.failures.Get(id)
			}
			return 0
		},
	})
	applyErr := c.apply(ctx, key, ds, owner, history.Current, &plan)
	if err := c.writeStatus(ctx, key, ds, plan.Status); err != nil {
		return 0, err
	}
	if applyErr != nil {
		return 0, applyErr
	}
	if ds.DeletionTimestamp != nil {
		return 0, nil
	}
	return plan.Again, revisions.Delete(ctx, c.env.Client, ds.Namespace, revisions.Excess(history.Old, ds.Spec.RevisionHistoryLimit, inUse(owned)))
}

// inUse says which revisions a pod still has.
func inUse(owned []*corev1.Pod) func(*appsv1.ControllerRevision) bool {
	hashes := map[string]bool{}
	for _, p := range owned {
		hashes[p.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	return func(r *appsv1.ControllerRevision) bool {
		return hashes[r.Labels[appsv1.ControllerRevisionHashLabelKey]]
	}
}

// claim adopts, releases and returns what the set has of a kind.
func claim[T client.Object](ctx context.Context, c *Controller, k client.Kind[T], inf client.Informer[T], w *client.Writes,
	key string, ds *appsv1.DaemonSet, sel labels.Selector, owner *metav1.OwnerReference) ([]T, error) {
	candidates := append(inf.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(ds.UID))),
		inf.ByIndex(controllers.OwnerIndex, controllers.OrphansIn(ds.Namespace))...)
	return controllers.ApplyClaim(ctx, c.env.Client, k, *owner, ds.Namespace, controllers.Claims(ds, sel, candidates),
		func(ctx context.Context) (metav1.Object, error) {
			return client.DaemonSets.In(c.env.Client, ds.Namespace).Get(ctx, ds.Name)
		},
		func(o T) { w.Wrote(key, o) })
}

func (c *Controller) collide(ctx context.Context, key string, ds *appsv1.DaemonSet) error {
	st := ds.Status.DeepCopy()
	n := int32(1)
	if st.CollisionCount != nil {
		n = *st.CollisionCount + 1
	}
	st.CollisionCount = &n
	return c.writeStatus(ctx, key, ds, *st)
}

func (c *Controller) apply(ctx context.Context, key string, ds *appsv1.DaemonSet, owner *metav1.OwnerReference, rev *appsv1.ControllerRevision, plan *Plan) error {
	hash := rev.Labels[appsv1.ControllerRevisionHashLabelKey]
	deleteErr := controllers.Each(len(plan.Delete), func(i int) error { return c.delete(ctx, key, ds, &plan.Delete[i]) })
	_, createErr := controllers.SlowStart(len(plan.Create), func(i int) error {
		got, err := controllers.Create(ctx, c.env.Client, client.Pods, &c.podsW, key, newPod(ds, owner, hash, plan.Create[i]))
		if err != nil {
			if !controllers.NamespaceEnding(err) {
				c.env.Events.Eventf(ds, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
			}
			return err
		}
		c.env.Events.Eventf(ds, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", got.Name)
		return nil
	})
	if createErr != nil {
		return createErr
	}
	return deleteErr
}

func (c *Controller) delete(ctx context.Context, key string, ds *appsv1.DaemonSet, d *Deletion) error {
	p := d.Pod
	switch {
	case d.Failed:
		c.failures.Next(string(ds.UID)+"/"+d.Node, c.env.Clock.Now())
		c.env.Events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, d.Node)
	case d.Succeeded:
		c.env.Events.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, d.Node)
	}
	done, err := controllers.Delete(ctx, c.env.Client, client.Pods, &c.podsW, key, p, client.Options{})
	if err == nil {
		if done {
			c.env.Events.Eventf(ds, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		}
		return nil
	}
	c.env.Events.Eventf(ds, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("deleting pod %s: %w", p.Name, err)
}

func (c *Controller) writeStatus(ctx context.Context, key string, ds *appsv1.DaemonSet, st appsv1.DaemonSetStatus) error {
	if apiequality.Semantic.DeepEqual(ds.Status, st) {
		return nil
	}
	n := ds.DeepCopy()
	n.Status = st
	n.Status.Conditions = slices.Clone(st.Conditions)
	got, err := client.DaemonSets.In(c.env.Client, ds.Namespace).UpdateStatus(ctx, n)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("updating status: %w", err)
	}
	c.statusW.Wrote(key, got)
	return nil
}
