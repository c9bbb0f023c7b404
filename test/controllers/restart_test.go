package controllers_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
)

// births counts the pods that were ever made, by the ReplicaSet they belong
// to, and tells whoever waits about every one.
type births struct {
	mu   sync.Mutex
	seen map[types.UID]bool
	by   map[string]int
	each chan struct{}
}

func (b *births) follow(ctx context.Context, w *world, ns string) {
	for ctx.Err() == nil {
		wi, err := client.Pods.In(w.root, ns).Watch(ctx, client.Options{})
		if err != nil {
			continue
		}
		for e := range wi.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Error {
				b.add(p)
			}
		}
	}
}

func (b *births) add(p *corev1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[p.UID] || len(p.OwnerReferences) != 1 {
		return
	}
	b.seen[p.UID] = true
	b.by[p.OwnerReferences[0].Name]++
	select {
	case b.each <- struct{}{}:
	default:
	}
}

// TestRestartsNeitherDuplicateNorLosePods rolls 50 Deployments out and to a new
// template while their controllers are ended and started again a hundred
// times: at the end every ReplicaSet has made as many pods as it was ever to
// have, not one more. A pod made twice or made again would be one too many.
func TestRestartsNeitherDuplicateNorLosePods(t *testing.T) {
	const deployments, replicas, restarts = 50, 3, 100
	workloads := []string{"deployment-controller", "replicaset-controller"}
	var cfg manager.Config
	w := newWorld(t, func(c *manager.Config) {
		cfg = *c
		c.Controllers = []string{"*"}
		for _, name := range workloads {
			c.Controllers = append(c.Controllers, "-"+name)
		}
	})
	cfg.Controllers = workloads
	ns, ctx := w.namespace("restarts"), t.Context()
	b := &births{seen: map[types.UID]bool{}, by: map[string]int{}, each: make(chan struct{}, 10*deployments*replicas)}
	var following sync.WaitGroup
	defer following.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	following.Go(func() { b.follow(watching, w, ns) })

	one := intstr.FromInt32(1)
	for i := range deployments {
		d := deployment(ns, fmt.Sprintf("d-%d", i), "v1", replicas)
		d.Spec.RevisionHistoryLimit = ptr.To[int32](10)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &one}}
		_, err := client.Deployments.In(w.root, ns).Create(ctx, d)
		w.must(err)
	}
	finished := make(chan error, 1)
	following.Go(func() {
		finished <- func() error {
			if err := w.rolledOut(ctx, ns, deployments, replicas); err != nil {
				return err
			}
			for i := range deployments {
				_, err := client.Deployments.In(w.root, ns).Mutate(ctx, fmt.Sprintf("d-%d", i), "", func(d *appsv1.Deployment) (bool, error) {
					d.Spec.Template.Spec.Containers[0].Image = "v2"
					return true, nil
				})
				if err != nil {
					return err
				}
			}
			return w.rolledOut(ctx, ns, deployments, replicas)
		}()
	})
	// Each life of the controllers ends when it has made a few pods, some at
	// once; the last goes on until all is done.
	over := false
	for life := 0; life <= restarts; life++ {
		ctx, end := context.WithCancel(ctx)
		cfg.Informers = client.NewInformers(client.As(w.server.Door(), client.User{Name: "system:kube-controller-manager", Groups: []string{"system:authenticated"}}))
		ended := make(chan struct{})
		go func() { defer close(ended); _ = manager.Run(ctx, cfg) }()
		for left := rand.IntN(4); (left > 0 || life == restarts) && !over; left-- {
			select {
			case <-b.each:
			case err := <-finished:
				w.must(err)
				over = true
			}
		}
		end()
		<-ended
	}
	sets, _, err := client.ReplicaSets.In(w.root, ns).List(ctx, client.Options{})
	w.must(err)
	if len(sets) != 2*deployments {
		t.Errorf("%d ReplicaSets, want %d", len(sets), 2*deployments)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rs := range sets {
		if n := b.by[rs.Name]; n != replicas {
			t.Errorf("%s has made %d pods, want %d", rs.Name, n, replicas)
		}
	}
	stop()
}

// rolledOut waits until so many Deployments have all their replicas in their
// newest version.
func (w *world) rolledOut(ctx context.Context, ns string, deployments int, replicas int32) error {
	done := map[string]bool{}
	for {
		wi, err := client.Deployments.In(w.root, ns).Watch(ctx, client.Options{})
		if err != nil {
			return err
		}
		for e := range wi.ResultChan() {
			d, ok := e.Object.(*appsv1.Deployment)
			if !ok {
				break
			}
			s := &d.Status
			done[d.Name] = s.ObservedGeneration == d.Generation && s.UpdatedReplicas == replicas && s.AvailableReplicas == replicas && s.Replicas == replicas
			n := 0
			for _, ok := range done {
				if ok {
					n++
				}
			}
			if n == deployments {
				wi.Stop()
				return nil
			}
		}
		wi.Stop()
	}
}
