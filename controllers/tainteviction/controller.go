package tainteviction

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const workers = 4

// Controller evicts pods.
type Controller struct {
	env   controllers.Env
	nodes client.Informer[*corev1.Node]
	pods  client.Informer[*corev1.Pod]
	loop  *client.Loop
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:   env,
		nodes: client.InformerFor(env.Informers, client.Nodes),
		pods:  client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("noexec_taint_pod", c.reconcile)
	if err := c.pods.AddIndex(controllers.NodeIndex, controllers.ByNode); err != nil {
		return nil, err
	}
	if _, err := c.nodes.OnChange(func(n, old *corev1.Node) {
		if n == nil || old != nil && apiequality.Semantic.DeepEqual(noExecute(n), noExecute(old)) || old == nil && len(noExecute(n)) == 0 {
			return
		}
		for _, p := range c.pods.ByIndex(controllers.NodeIndex, n.Name) {
			c.loop.AddObject(p)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.pods.OnChange(func(p, old *corev1.Pod) {
		if p == nil || p.Spec.NodeName == "" {
			return
		}
		if old == nil || old.Spec.NodeName == "" || len(p.Spec.Tolerations) != len(old.Spec.Tolerations) {
			if n, ok := c.nodes.Get("", p.Spec.NodeName); ok && len(noExecute(n)) > 0 {
				c.loop.AddObject(p)
			}
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func noExecute(n *corev1.Node) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectNoExecute })
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	p, ok := c.pods.GetKey(key)
	if !ok || p.DeletionTimestamp != nil || pods.Finished(p) {
		return 0, nil
	}
	n, ok := c.nodes.Get("", p.Spec.NodeName)
	if !ok {
		return 0, nil
	}
	now := c.env.Clock.Now()
	at, ok := EvictAt(p, n.Spec.Taints, now)
	if !ok {
		return 0, nil
	}
	if wait := at.Sub(now); wait > 0 {
		return wait, nil
	}
	return 0, c.evict(ctx, p)
}

// evict says in the pod's status why it goes, then deletes it.
func (c *Controller) evict(ctx context.Context, p *corev1.Pod) error {
	c.env.Events.Eventf(p, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
	res := client.Pods.In(c.env.Client, p.Namespace)
	m := p.DeepCopy()
	if pods.SetCondition(m, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation,
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		LastTransitionTime: metav1.NewTime(c.env.Clock.Now()),
	}) {
		if _, err := res.UpdateStatus(ctx, m); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("marking pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	err := res.Delete(ctx, p.Name, client.Exactly(p.UID))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	c.env.Counts.PodEvicted(false)
	return nil
}
