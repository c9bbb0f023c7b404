package resourcequota

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/api/quota"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	workers = 5
	// recount is how long after a charge the quota is counted again: by then
	// what was charged for is there, or never will be.
	recount = 10 * time.Second
	// lookAgain is when a resource that is not served is looked for again.
	lookAgain = time.Minute
)

var pods = schema.GroupResource{Resource: "pods"}

// Controller keeps the quotas' status.
type Controller struct {
	env      controllers.Env
	discover controllers.Discovery
	quotas   client.Informer[*corev1.ResourceQuota]
	loop     *client.Loop
	writes   client.Writes
	ledger   ledger

	mu      sync.Mutex
	watched map[schema.GroupResource]*source
	ctx     context.Context // of Run, for informers begun while it runs
}

// source is the informer of a resource that some quota counts.
type source struct {
	gvr      schema.GroupVersionResource
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandlerRegistration
}

// New makes the controller; discover says what is served, for the quotas that
// count objects of any kind.
func New(env controllers.Env, discover controllers.Discovery) (*Controller, error) {
	c := &Controller{
		env: env, discover: discover,
		quotas:  client.InformerFor(env.Informers, client.ResourceQuotas),
		watched: map[schema.GroupResource]*source{},
	}
	c.loop = env.NewLoop("resourcequota_primary", c.reconcile)
	_, err := c.quotas.OnChange(func(q, old *corev1.ResourceQuota) {
		if q == nil {
			return
		}
		key := q.Namespace + "/" + q.Name
		c.ledger.saw(key, q.ResourceVersion, env.Clock.Now())
		switch {
		case old == nil || !apiequality.Semantic.DeepEqual(q.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard):
			c.loop.AddObject(q)
		case !apiequality.Semantic.DeepEqual(q.Status, old.Status):
			c.loop.AddAfter(key, recount)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	c.loop.Run(ctx, c.env.WorkersOr(workers))
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	q, ok := c.quotas.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		c.ledger.forget(key)
		return 0, nil
	}
	if !c.quotas.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	again := time.Duration(0)
	var failed error
	known := c.ledger.look(key, q.ResourceVersion, c.env.Clock.Now())
	status := Status(q, func(gr schema.GroupResource) ([]any, bool) {
		s, err := c.source(ctx, gr)
		if err == nil && gr == quota.ResourceClaims {
			_, err = c.source(ctx, quota.DeviceClasses)
		}
		if err != nil {
			failed = err
			return nil, false
		}
		if s == nil {
			again = lookAgain
			return nil, true // not served: there are none
		}
		objs, err := s.informer.GetIndexer().ByIndex(cache.NamespaceIndex, q.Namespace)
		if err != nil {
			failed = err
		}
		return objs, err == nil
	}, c.counter())
	if failed != nil {
		return 0, fmt.Errorf("counting: %w", failed)
	}
	status.Used = known.used(status.Used, q.Status.Used)
	if known.wait > 0 && (again == 0 || known.wait < again) {
		again = known.wait
	}
	settle := func(version string) {
		c.ledger.settle(key, version, known, q.Status.Used, status.Used, c.env.Clock.Now())
	}
	if apiequality.Semantic.DeepEqual(status, q.Status) {
		settle(q.ResourceVersion)
		return again, nil
	}
	out := q.DeepCopy()
	out.Status = status
	got, err := client.ResourceQuotas.In(c.env.Client, q.Namespace).UpdateStatus(ctx, out)
	switch {
	case err == nil:
		settle(got.ResourceVersion)
		c.writes.Wrote(key, got)
		return again, nil
	case apierrors.IsNotFound(err):
		return 0, nil
	case !apierrors.IsConflict(err): // it may have been written all the same
		settle("")
	}
	return 0, fmt.Errorf("updating quota status: %w", err)
}

// source returns the synced informer of a resource, nil when it is not
// served.
func (c *Controller) source(ctx context.Context, gr schema.GroupResource) (*source, error) {
	c.mu.Lock()
	s := c.watched[gr]
	if s == nil {
		gvr, err := c.resolve(ctx, gr)
		if err != nil || gvr.Empty() {
			c.mu.Unlock()
			return nil, err
		}
		s = &source{gvr: gvr, informer: c.env.Informers.Any(gvr)}
		if s.handler, err = s.informer.AddEventHandler(c.handler(gr)); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		c.watched[gr] = s
		c.env.Informers.Start(c.ctx)
	}
	c.mu.Unlock()
	if !client.WaitForSync(ctx, s.handler.HasSyncedChecker()) {
		return nil, context.Cause(ctx)
	}
	if s.informer.IsStopped() { // the resource went, and may have come back
		c.mu.Lock()
		delete(c.watched, gr)
		c.mu.Unlock()
		return nil, fmt.Errorf("%s is no longer watched", gr)
	}
	return s, nil
}

func (c *Controller) resolve(ctx context.Context, gr schema.GroupResource) (schema.GroupVersionResource, error) {
	all, err := c.discover(ctx)
	for _, r := range all {
		if r.GroupResource() == gr && (r.Namespaced || gr == quota.DeviceClasses) && r.Can(client.List, client.Watch) {
			return r.GroupVersionResource, nil
		}
	}
	return schema.GroupVersionResource{}, err
}

// counter counts by what is known of pods and classes now.
func (c *Controller) counter() quota.Counter {
	return quota.Counter{
		Now: c.env.Clock.Now(),
		Class: func(name string) *resourcev1.DeviceClass {
			class, _ := c.known(quota.DeviceClasses, name).(*resourcev1.DeviceClass)
			return class
		},
		Pod: func(namespace, name string) *corev1.Pod {
			pod, _ := c.known(pods, namespace+"/"+name).(*corev1.Pod)
			return pod
		},
	}
}

// known returns an object of a resource that is watched, nil if there is none.
func (c *Controller) known(gr schema.GroupResource, key string) any {
	c.mu.Lock()
	s := c.watched[gr]
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	obj, _, err := s.informer.GetIndexer().GetByKey(key)
	if err != nil {
		return nil
	}
	return obj
}

// handler wakes the quotas of a namespace when something in it has gone, has
// become smaller or is in other scopes now; what is made, admission has charged.
func (c *Controller) handler(gr schema.GroupResource) cache.ResourceEventHandler {
	if gr == quota.DeviceClasses {
		return c.classHandler()
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			// A claim that was seen before its pod was counted without it.
			if p, ok := o.(*corev1.Pod); ok && asksForDevices(p) {
				c.wake(p.Namespace, quota.ResourceClaims)
			}
		},
		UpdateFunc: func(old, o any) {
			if shrank(gr, o, old, c.counter()) || moved(o, old) {
				c.givenBack(gr, o, old)
			}
		},
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			c.givenBack(gr, nil, o)
		},
	}
}

// classHandler has claims counted anew when it changes what their classes serve.
func (c *Controller) classHandler() cache.ResourceEventHandler {
	serves := func(o any) string {
		if class, ok := o.(*resourcev1.DeviceClass); ok && class.Spec.ExtendedResourceName != nil {
			return *class.Spec.ExtendedResourceName
		}
		return ""
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.wake("", quota.ResourceClaims) },
		UpdateFunc: func(old, o any) {
			if serves(old) != serves(o) {
				c.wake("", quota.ResourceClaims)
			}
		},
		DeleteFunc: func(any) { c.wake("", quota.ResourceClaims) },
	}
}

// wake has the quotas of a namespace ("" for all) counted that count a resource.
func (c *Controller) wake(namespace string, gr schema.GroupResource) {
	for _, q := range c.quotas.List(namespace, nil) {
		for name := range q.Spec.Hard {
			if slices.Contains(quota.Resources(name), gr) {
				c.loop.AddObject(q)
				break
			}
		}
	}
}

// givenBack notes what a change of an object (nil: it is gone) gives back to
// the quotas that count it, and wakes them.
func (c *Controller) givenBack(gr schema.GroupResource, obj, old any) {
	m, err := controllers.Accessor(old)
	if err != nil {
		return
	}
	for _, q := range c.quotas.List(m.GetNamespace(), nil) {
		names := corev1.ResourceList{}
		for name, hard := range q.Spec.Hard {
			if slices.Contains(quota.Resources(name), gr) {
				names[name] = hard
			}
		}
		if len(names) == 0 {
			continue
		}
		c.ledger.told(q.Namespace+"/"+q.Name, quota.Mask(freed(q, gr, obj, old, c.counter()), names), c.env.Clock.Now())
		c.loop.AddObject(q)
	}
}
