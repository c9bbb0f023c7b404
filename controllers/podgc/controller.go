// Package podgc deletes pods that no kubelet will ever clean up: those of
// nodes that are gone or out of service, those deleted before they had a
// node, and finished ones beyond a threshold.
package podgc

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const (
	workers = 4
	// quarantine is how long a node must be missing before its pods go: the
	// informer of nodes may lag behind that of pods, and a node may be made
	// anew.
	quarantine = 40 * time.Second
	// finishedKey is the queue's key for the threshold of finished pods.
	finishedKey = "/finished"
)

// Controller deletes such pods.
type Controller struct {
	env       controllers.Env
	threshold int
	nodes     client.Informer[*corev1.Node]
	pods      client.Informer[*corev1.Pod]
	loop      *client.Loop
	finished  atomic.Int64
}

// New makes the controller. Finished pods beyond threshold are deleted,
// oldest first; 0 keeps them all.
func New(env controllers.Env, threshold int) (*Controller, error) {
	c := &Controller{
		env: env, threshold: threshold,
		nodes: client.InformerFor(env.Informers, client.Nodes),
		pods:  client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("orphaned_pods_nodes", c.reconcile)
	if err := c.pods.AddIndex(controllers.NodeIndex, controllers.ByNode); err != nil {
		return nil, err
	}
	if _, err := c.nodes.OnChange(func(n, old *corev1.Node) {
		switch {
		case n == nil:
			for _, p := range c.pods.ByIndex(controllers.NodeIndex, old.Name) {
				c.loop.AddAfter(keyOf(p), quarantine)
			}
		case outOfService(n) && (old == nil || !outOfService(old)):
			for _, p := range c.pods.ByIndex(controllers.NodeIndex, n.Name) {
				c.loop.AddObject(p)
			}
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.pods.OnChange(c.podChanged)
	return c, err
}

func keyOf(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func (c *Controller) podChanged(p, old *corev1.Pod) {
	was, is := old != nil && pods.Finished(old), p != nil && pods.Finished(p)
	if is != was {
		n := int64(1)
		if was {
			n = -1
		}
		if total := c.finished.Add(n); n > 0 && c.threshold > 0 && total > int64(c.threshold) {
			c.loop.Add(finishedKey)
		}
	}
	if p == nil {
		return
	}
	switch {
	case p.DeletionTimestamp != nil && (old == nil || old.DeletionTimestamp == nil):
		c.loop.AddObject(p)
	case p.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == ""):
		if _, ok := c.nodes.Get("", p.Spec.NodeName); !ok {
			c.loop.AddAfter(keyOf(p), quarantine)
		}
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(x corev1.NodeCondition) bool {
		return x.Type == corev1.NodeReady && x.Status == corev1.ConditionTrue
	})
}

// verdict is what is to become of a pod.
type verdict int

const (
	keep verdict = iota
	drop
	// orphaned: drop, if the API says too that its node is gone.
	orphaned
)

// judge looks at one pod; node is nil when the informer has none of that name.
func judge(p *corev1.Pod, node *corev1.Node) verdict {
	switch {
	case p.Spec.NodeName == "":
		if p.DeletionTimestamp != nil {
			return drop // no kubelet has it to end it
		}
	case node == nil:
		return orphaned
	case p.DeletionTimestamp != nil && !ready(node) && outOfService(node):
		return drop
	}
	return keep
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if key == finishedKey {
		return 0, c.dropFinished(ctx)
	}
	p, ok := c.pods.GetKey(key)
	if !ok {
		return 0, nil
	}
	node, _ := c.nodes.Get("", p.Spec.NodeName)
	switch judge(p, node) {
	case keep:
		return 0, nil
	case orphaned:
		_, err := client.Nodes.In(c.env.Client, "").Get(ctx, p.Spec.NodeName)
		if err == nil {
			return 0, nil
		}
		if !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("looking for node %s: %w", p.Spec.NodeName, err)
		}
		if err := c.markFailed(ctx, p); err != nil {
			return 0, err
		}
	}
	return 0, c.delete(ctx, p)
}

// markFailed gives the pod the end that its kubelet cannot report, so that a
// Job counts it.
func (c *Controller) markFailed(ctx context.Context, p *corev1.Pod) error {
	if pods.Finished(p) {
		return nil
	}
	m := p.DeepCopy()
	m.Status.Phase = corev1.PodFailed
	pods.SetCondition(m, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation,
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists", LastTransitionTime: metav1.NewTime(c.env.Clock.Now()),
	})
	patch, err := controllers.StatusPatch(p, m)
	if err != nil {
		return err
	}
	_, err = client.Pods.In(c.env.Client, p.Namespace).Patch(ctx, p.Name, patch.Type, patch.Data, client.Sub("status"))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("marking pod %s/%s failed: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func (c *Controller) delete(ctx context.Context, p *corev1.Pod) error {
	var now int64
	uid := p.UID
	err := client.Pods.In(c.env.Client, p.Namespace).Delete(ctx, p.Name,
		client.Options{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func (c *Controller) dropFinished(ctx context.Context) error {
	all := slices.DeleteFunc(c.pods.List("", nil), func(p *corev1.Pod) bool { return !pods.Finished(p) || p.DeletionTimestamp != nil })
	excess := len(all) - c.threshold
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return controllers.Each(excess, func(i int) error { return c.delete(ctx, all[i]) })
}
