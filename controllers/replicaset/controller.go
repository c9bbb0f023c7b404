package replicaset

import (
	"context"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const workers = 5

// Controller reconciles the sets of one kind.
type Controller struct {
	env     controllers.Env
	kind    setKind
	pods    client.Informer[*corev1.Pod]
	loop    *client.Loop
	podsW   client.Writes
	statusW client.Writes
}

// setKind is what differs between ReplicaSet and ReplicationController. A
// view is the set dressed as a ReplicaSet, sharing everything with it: read only.
type setKind struct {
	gvk schema.GroupVersionKind
	// noTerminating: the kind's status has no such count.
	noTerminating bool
	// view returns a set from the informer.
	view func(key string) (*appsv1.ReplicaSet, bool)
	// views returns a namespace's sets.
	views func(namespace string) []*appsv1.ReplicaSet
	// family returns the UIDs of the sets whose pods count as siblings.
	family func(set *appsv1.ReplicaSet) []string
	// caughtUp: the sets' informer has seen this controller's status writes.
	caughtUp func(w *client.Writes, key string) bool
	live     func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error)
	// putStatus writes the status into the set as seen by set.
	putStatus func(ctx context.Context, set *appsv1.ReplicaSet, st appsv1.ReplicaSetStatus, fresh bool) (client.Object, error)
}

func newController(env controllers.Env, name string) (*Controller, error) {
	c := &Controller{env: env, pods: client.InformerFor(env.Informers, client.Pods)}
	c.loop = env.NewLoop(name, c.reconcile)
	return c, c.pods.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*corev1.Pod])
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// podChanged wakes the sets that a pod's change concerns: its controller,
// the one it had, and for an orphan those that could adopt it. Changes that
// no set's plan depends on wake no one.
func (c *Controller) podChanged(p, old *corev1.Pod) {
	if p != nil && old != nil {
		sameOwner := ownerUID(p) == ownerUID(old)
		if sameOwner && facts(p) == facts(old) && maps.Equal(p.Labels, old.Labels) {
			return
		}
		if !sameOwner {
			c.wakeOwner(old)
		}
	}
	if p == nil {
		c.wakeOwner(old)
		return
	}
	if metav1.GetControllerOfNoCopy(p) != nil {
		c.wakeOwner(p)
		return
	}
	if p.DeletionTimestamp != nil {
		return
	}
	for _, set := range c.kind.views(p.Namespace) {
		if sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector); err == nil && !sel.Empty() && sel.Matches(labels.Set(p.Labels)) {
			c.loop.AddObject(set)
		}
	}
}

func (c *Controller) wakeOwner(p *corev1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(p); controllers.ControlledBy(ref, c.kind.gvk) {
		c.loop.Add(p.Namespace + "/" + ref.Name)
	}
}

func ownerUID(p *corev1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		return string(ref.UID)
	}
	return ""
}

type podFacts struct {
	active, terminating, ready bool
	since                      int64
}

func facts(p *corev1.Pod) podFacts {
	f := podFacts{active: pods.Active(p), terminating: pods.Terminating(p), ready: pods.Ready(p)}
	if f.ready {
		f.since = pods.ReadySince(p).Unix()
	}
	return f
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	set, ok := c.kind.view(key)
	if !ok {
		c.podsW.Forget(key)
		c.statusW.Forget(key)
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, nil // validation refuses such sets; nothing to do with one that is there all the same
	}
	if err := controllers.Settle(ctx, c.env.Client, client.Pods, &c.podsW, key, set, sel); err != nil {
		return 0, err
	}
	if !c.pods.CaughtUp(&c.podsW, key) || !c.kind.caughtUp(&c.statusW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	candidates := append(c.pods.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(set.UID))),
		activeOnly(c.pods.ByIndex(controllers.OwnerIndex, controllers.OrphansIn(set.Namespace)))...)
	owned, err := controllers.ApplyClaim(ctx, c.env.Client, client.Pods, *c.ref(set), set.Namespace,
		controllers.Claims(set, sel, candidates),
		func(ctx context.Context) (metav1.Object, error) { return c.kind.live(ctx, set.Namespace, set.Name) },
		func(p *corev1.Pod) { c.podsW.Wrote(key, p) })
	if err != nil {
		return 0, fmt.Errorf("claiming pods: %w", err)
	}
	plan := Make(set, owned, c.siblings(set), c.env.Clock.Now())
	if c.kind.noTerminating {
		plan.Status.TerminatingReplicas = nil
	}
	applyErr := c.apply(ctx, key, set, &plan)
	plan.Status.Conditions = WithFailure(set.Status.Conditions, plan.Create > 0, applyErr, metav1.NewTime(c.env.Clock.Now()))
	if err := c.writeStatus(ctx, key, set, plan.Status); err != nil {
		return 0, fmt.Errorf("writing status: %w", err)
	}
	if controllers.NamespaceEnding(applyErr) {
		return 0, nil
	}
	return plan.Again, applyErr
}

func activeOnly(ps []*corev1.Pod) []*corev1.Pod {
	out := ps[:0]
	for _, p := range ps {
		if pods.Active(p) {
			out = append(out, p)
		}
	}
	return out
}

func (c *Controller) ref(set *appsv1.ReplicaSet) *metav1.OwnerReference {
	return metav1.NewControllerRef(set, c.kind.gvk)
}

func (c *Controller) about(set *appsv1.ReplicaSet) *corev1.ObjectReference {
	apiVersion, kind := c.kind.gvk.ToAPIVersionAndKind()
	return &corev1.ObjectReference{APIVersion: apiVersion, Kind: kind, Namespace: set.Namespace, Name: set.Name,
		UID: set.UID, ResourceVersion: set.ResourceVersion}
}

// siblings counts, per node, the family's active pods; only when asked, since
// only a scale-down does.
func (c *Controller) siblings(set *appsv1.ReplicaSet) func(*corev1.Pod) int {
	var perNode map[string]int
	return func(p *corev1.Pod) int {
		if perNode == nil {
			perNode = map[string]int{}
			for _, uid := range c.kind.family(set) {
				for _, s := range c.pods.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(uid)) {
					if pods.Active(s) {
						perNode[s.Spec.NodeName]++
					}
				}
			}
		}
		return perNode[p.Spec.NodeName]
	}
}

func (c *Controller) apply(ctx context.Context, key string, set *appsv1.ReplicaSet, plan *Plan) error {
	if plan.Create > 0 {
		ref := c.ref(set)
		_, err := controllers.SlowStart(plan.Create, func(int) error { return c.create(ctx, key, set, ref) })
		return err
	}
	return controllers.Each(len(plan.Delete), func(i int) error { return c.delete(ctx, key, set, plan.Delete[i]) })
}

func (c *Controller) create(ctx context.Context, key string, set *appsv1.ReplicaSet, ref *metav1.OwnerReference) error {
	p := pods.FromTemplate(&set.Spec.Template, set.Namespace, set.Name, ref)
	got, err := controllers.Create(ctx, c.env.Client, client.Pods, &c.podsW, key, p)
	if err != nil {
		if !controllers.NamespaceEnding(err) {
			c.env.Events.Eventf(c.about(set), corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.env.Events.Eventf(c.about(set), corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", got.Name)
	return nil
}

func (c *Controller) delete(ctx context.Context, key string, set *appsv1.ReplicaSet, p *corev1.Pod) error {
	done, err := controllers.Delete(ctx, c.env.Client, client.Pods, &c.podsW, key, p, client.Options{})
	if err == nil {
		if done {
			c.env.Events.Eventf(c.about(set), corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		}
		return nil
	}
	c.env.Events.Eventf(c.about(set), corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("deleting pod %s: %w", p.Name, err)
}

func (c *Controller) writeStatus(ctx context.Context, key string, set *appsv1.ReplicaSet, st appsv1.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(set.Status, st) {
		return nil
	}
	got, err := c.kind.putStatus(ctx, set, st, false)
	if apierrors.IsConflict(err) {
		// Another writer (a Deployment scaling the set) came first; what we
		// saw of the pods is still true of the generation that we saw.
		got, err = c.kind.putStatus(ctx, set, st, true)
	}
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	c.statusW.Wrote(key, got)
	return nil
}
