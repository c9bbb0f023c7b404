package namespace

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 5

// Content that goes in a moment is looked for again after 10 ms, then ever
// more slowly: nothing tells when the last finalizer of an arbitrary kind is
// gone. Pods tell, so they are not waited for by time.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = 10 * time.Second
)

// Controller empties and releases namespaces.
type Controller struct {
	env        controllers.Env
	discover   controllers.Discovery
	namespaces client.Informer[*corev1.Namespace]
	pods       client.Informer[*corev1.Pod]
	loop       *client.Loop
	writes     client.Writes

	mu    sync.Mutex
	delay map[string]time.Duration // until the next look, per namespace
}

// New makes the controller; discover says what a namespace may hold.
func New(env controllers.Env, discover controllers.Discovery) (*Controller, error) {
	c := &Controller{
		env: env, discover: discover,
		delay:      map[string]time.Duration{},
		namespaces: client.InformerFor(env.Informers, client.Namespaces),
		pods:       client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("namespace", c.reconcile)
	if _, err := c.namespaces.OnChange(func(n, _ *corev1.Namespace) {
		if n != nil && n.DeletionTimestamp != nil {
			c.loop.AddObject(n)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.pods.OnChange(func(p, old *corev1.Pod) {
		if p == nil { // the last pod to go lets the rest go
			if n, ok := c.namespaces.Get("", old.Namespace); ok && n.DeletionTimestamp != nil {
				c.loop.AddObject(n)
			}
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	n, ok := c.namespaces.Get("", name)
	if !ok {
		c.writes.Forget(name)
		c.mu.Lock()
		delete(c.delay, name)
		c.mu.Unlock()
		return 0, nil
	}
	if n.DeletionTimestamp == nil || !hasFinalizer(n) {
		return 0, nil
	}
	if !c.namespaces.CaughtUp(&c.writes, name) {
		return 0, nil // the event that is still to come wakes us
	}
	report := c.empty(ctx, name)
	n, err := c.report(ctx, n, &report)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("updating namespace status: %w", err)
	}
	if !report.Done() {
		c.env.Log.Debug("namespace is not empty yet", "namespace", name, "left", remaining(report.Left), "failures", len(report.Failures))
		return c.nextLook(name, &report), nil
	}
	n = n.DeepCopy()
	n.Spec.Finalizers = slices.DeleteFunc(n.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = client.Namespaces.In(c.env.Client, "").Update(ctx, n, client.Sub("finalize"))
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("finalizing namespace %s: %w", name, err)
	}
	return 0, nil
}

func (c *Controller) nextLook(name string, r *Report) time.Duration {
	if r.Discovery == nil && len(r.Failures) == 0 && len(r.Left) == 1 && isPods(r.Left[0].GroupResource()) {
		return lastLook
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.delay[name]
	c.delay[name] = min(max(2*d, firstLook), lastLook)
	return c.delay[name]
}

// empty deletes what it finds and reports what is left.
func (c *Controller) empty(ctx context.Context, ns string) Report {
	var r Report
	all, err := c.discover(ctx)
	if err != nil {
		r.Discovery = err
	}
	pods, rest := phase(all)
	for _, res := range pods {
		c.deleteAll(ctx, ns, &res, &r)
	}
	if len(r.Left) > 0 || len(r.Failures) > 0 {
		return r
	}
	for _, res := range rest {
		c.deleteAll(ctx, ns, &res, &r)
	}
	return r
}

// deleteAll deletes a resource's objects in the namespace. It looks first:
// most resources have none.
func (c *Controller) deleteAll(ctx context.Context, ns string, res *controllers.Resource, r *Report) {
	objs, err := c.list(ctx, ns, res)
	if err == nil && len(objs) > 0 {
		if err = c.delete(ctx, ns, res, objs); err == nil {
			objs, err = c.list(ctx, ns, res)
		}
	}
	if err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return // the resource itself is gone, or cannot be deleted
		}
		r.Failures = append(r.Failures, fmt.Errorf("%s: %w", res.GroupVersionResource, err))
		return
	}
	if len(objs) == 0 {
		return
	}
	left := Left{GroupVersionResource: res.GroupVersionResource, Count: len(objs), Finalizers: map[string]int{}}
	for _, o := range objs {
		for _, f := range o.GetFinalizers() {
			left.Finalizers[f]++
		}
	}
	r.Left = append(r.Left, left)
}

func (c *Controller) list(ctx context.Context, ns string, res *controllers.Resource) ([]metav1.Object, error) {
	got, err := c.env.Client.Do(ctx, &client.Request{Verb: client.List, Resource: res.GroupVersionResource, Namespace: ns})
	if err != nil {
		return nil, err
	}
	out := make([]metav1.Object, 0, len(got.List.Items))
	for _, it := range got.List.Items {
		o, err := controllers.Accessor(it)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func (c *Controller) delete(ctx context.Context, ns string, res *controllers.Resource, objs []metav1.Object) error {
	background := metav1.DeletePropagationBackground
	opts := client.Options{PropagationPolicy: &background}
	if res.Can(client.DeleteCollection) {
		_, err := c.env.Client.Do(ctx, &client.Request{Verb: client.DeleteCollection, Resource: res.GroupVersionResource, Namespace: ns, Options: opts})
		if !apierrors.IsMethodNotSupported(err) {
			return err
		}
	}
	return controllers.Each(len(objs), func(i int) error {
		_, err := c.env.Client.Do(ctx, &client.Request{Verb: client.Delete, Resource: res.GroupVersionResource, Namespace: ns, Name: objs[i].GetName(), Options: opts})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// report writes the conditions, unless they say what they said before, and
// returns the namespace to go on with.
func (c *Controller) report(ctx context.Context, n *corev1.Namespace, r *Report) (*corev1.Namespace, error) {
	conditions := Conditions(n.Status.Conditions, r, metav1.NewTime(c.env.Clock.Now()))
	if n.Status.Phase == corev1.NamespaceTerminating && apiequality.Semantic.DeepEqual(conditions, n.Status.Conditions) {
		return n, nil
	}
	m := n.DeepCopy()
	m.Status.Phase, m.Status.Conditions = corev1.NamespaceTerminating, conditions
	got, err := client.Namespaces.In(c.env.Client, "").UpdateStatus(ctx, m)
	if err != nil {
		return nil, err
	}
	c.writes.Wrote(n.Name, got)
	return got, nil
}
