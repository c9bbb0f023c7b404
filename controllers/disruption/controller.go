package disruption

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const workers = 2

// Controller reconciles PodDisruptionBudgets.
type Controller struct {
	env     controllers.Env
	budgets client.Informer[*policyv1.PodDisruptionBudget]
	pods    client.Informer[*corev1.Pod]
	scales  scales
	loop    *client.Loop
	writes  client.Writes
}

// New makes the controller and registers its handlers. find may be nil; then
// owners of kinds that are not built in have no known size.
func New(env controllers.Env, find controllers.Discovery) (*Controller, error) {
	c := &Controller{
		env:     env,
		budgets: client.InformerFor(env.Informers, client.PodDisruptionBudgets),
		pods:    client.InformerFor(env.Informers, client.Pods),
		scales:  newScales(env, find),
	}
	c.loop = env.NewLoop("disruption", c.reconcile)
	if _, err := c.budgets.OnChange(func(b, old *policyv1.PodDisruptionBudget) {
		if b == nil {
			b = old
		}
		c.loop.AddObject(b)
	}); err != nil {
		return nil, err
	}
	if err := c.scales.onChange(c.wakeNamespace); err != nil {
		return nil, err
	}
	_, err := c.pods.OnChange(c.podChanged)
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// wakeNamespace wakes the budgets that a changed size may concern.
func (c *Controller) wakeNamespace(ns string) {
	for _, b := range c.budgets.List(ns, nil) {
		if NeedsScale(b) {
			c.loop.AddObject(b)
		}
	}
}

func (c *Controller) podChanged(p, old *corev1.Pod) {
	if p != nil && old != nil && p.UID == old.UID && pods.Ready(p) == pods.Ready(old) && pods.Finished(p) == pods.Finished(old) &&
		(p.DeletionTimestamp == nil) == (old.DeletionTimestamp == nil) && maps.Equal(p.Labels, old.Labels) &&
		apiequality.Semantic.DeepEqual(p.OwnerReferences, old.OwnerReferences) {
		return
	}
	for _, x := range [...]*corev1.Pod{p, old} {
		if x == nil {
			continue
		}
		for _, b := range c.budgets.List(x.Namespace, nil) {
			if sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && sel.Matches(labels.Set(x.Labels)) {
				c.loop.AddObject(b)
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	b, ok := c.budgets.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		return 0, nil
	}
	if !c.budgets.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	plan, err := c.plan(ctx, b)
	if err != nil {
		if werr := c.writeStatus(ctx, key, b, Failed(b, err, c.env.Clock.Now())); werr != nil {
			return 0, werr
		}
		return 0, err
	}
	for _, p := range plan.Overdue {
		c.env.Events.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	return plan.Again, c.writeStatus(ctx, key, b, plan.Status)
}

func (c *Controller) plan(ctx context.Context, b *policyv1.PodDisruptionBudget) (Plan, error) {
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return Plan{}, err
	}
	current := c.pods.Seen(b.ResourceVersion) // asked before the pods are read
	covered := c.pods.List(b.Namespace, sel)
	if len(covered) == 0 {
		c.env.Events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	scale := int32(0)
	if NeedsScale(b) {
		var unmanaged bool
		scale, unmanaged, err = c.scales.expected(ctx, b.Namespace, covered)
		if err != nil {
			c.env.Events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
			return Plan{}, err
		}
		if unmanaged {
			c.env.Events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %s) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
		}
	}
	return Make(b, covered, current, scale, c.env.Clock.Now())
}

// writeStatus writes the status into the budget as seen: an eviction that
// came between wins, and the budget is looked at again.
func (c *Controller) writeStatus(ctx context.Context, key string, b *policyv1.PodDisruptionBudget, st policyv1.PodDisruptionBudgetStatus) error {
	if apiequality.Semantic.DeepEqual(b.Status, st) {
		return nil
	}
	m := b.DeepCopy()
	m.Status = st
	got, err := client.PodDisruptionBudgets.In(c.env.Client, b.Namespace).UpdateStatus(ctx, m)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("updating status: %w", err)
	}
	c.writes.Wrote(key, got)
	return nil
}
