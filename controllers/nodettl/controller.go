package nodettl

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 5

// Controller annotates the nodes.
type Controller struct {
	env   controllers.Env
	nodes client.Informer[*corev1.Node]
	loop  *client.Loop

	mu    sync.Mutex
	count int // of nodes
	at    int // the step
}

// New makes the controller and registers its handlers. Crossing a step
// rewrites no node at once: each follows at its next change, which its
// kubelet brings about every few minutes.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{env: env, nodes: client.InformerFor(env.Informers, client.Nodes)}
	c.loop = env.NewLoop("ttlcontroller", c.reconcile)
	_, err := c.nodes.OnChange(func(n, old *corev1.Node) {
		at := c.counted(n, old)
		if n == nil {
			return
		}
		if _, lacks := Lacks(n, at); lacks {
			c.loop.AddObject(n)
		}
	})
	return c, err
}

// counted takes a change of nodes into account and returns the step.
func (c *Controller) counted(n, old *corev1.Node) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case old == nil:
		c.count++
	case n == nil:
		c.count--
	}
	c.at = Move(c.at, c.count)
	return c.at
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	n, ok := c.nodes.GetKey(key)
	if !ok {
		return 0, nil
	}
	c.mu.Lock()
	at := c.at
	c.mu.Unlock()
	text, lacks := Lacks(n, at)
	if !lacks {
		return 0, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{corev1.ObjectTTLAnnotationKey: text}}})
	if err != nil {
		return 0, err
	}
	if _, err := client.Nodes.In(c.env.Client, "").Patch(ctx, n.Name, types.StrategicMergePatchType, patch); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("annotating node %s: %w", n.Name, err)
	}
	return 0, nil
}
