package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const workers = 4

// Settings are kube-controller-manager's flags for nodes.
type Settings struct {
	// MonitorGrace is how long a node may be silent; StartupGrace how long
	// one that was never heard.
	MonitorGrace, StartupGrace time.Duration
	// EvictionInterval and SlowInterval lie between two nodes of a zone being
	// tainted NoExecute, in a healthy and in an unhealthy large zone.
	EvictionInterval, SlowInterval time.Duration
	// UnhealthyShare of its nodes makes a zone unhealthy; one of up to
	// LargeZone nodes is then not evicted from at all.
	UnhealthyShare float64
	LargeZone      int
}

// Defaults are upstream's.
func Defaults() Settings {
	return Settings{
		MonitorGrace: 50 * time.Second, StartupGrace: 60 * time.Second,
		EvictionInterval: 10 * time.Second, SlowInterval: 100 * time.Second,
		UnhealthyShare: 0.55, LargeZone: 50,
	}
}

// Controller watches over nodes.
type Controller struct {
	env      controllers.Env
	settings Settings
	nodes    client.Informer[*corev1.Node]
	leases   client.Informer[*coordinationv1.Lease]
	pods     client.Informer[*corev1.Pod]
	loop     *client.Loop
	writes   client.Writes

	mu     sync.Mutex
	health map[string]Health
	// marked are the nodes whose pods have been marked not ready since the
	// node was last ready.
	marked map[string]bool
	// evicted is when a node of the zone was last tainted NoExecute.
	evicted map[string]time.Time
}

// New makes the controller and registers its handlers.
func New(env controllers.Env, settings Settings) (*Controller, error) {
	c := &Controller{
		env: env, settings: settings,
		nodes: client.InformerFor(env.Informers, client.Nodes),
		leases: client.ScopedInformerFor(env.Informers, client.Leases,
			client.Scope{Namespace: corev1.NamespaceNodeLease}),
		pods:   client.InformerFor(env.Informers, client.Pods),
		health: map[string]Health{}, marked: map[string]bool{}, evicted: map[string]time.Time{},
	}
	c.loop = env.NewLoop("node_lifecycle_controller", c.reconcile)
	if err := c.pods.AddIndex(controllers.NodeIndex, controllers.ByNode); err != nil {
		return nil, err
	}
	if _, err := c.nodes.OnChange(c.nodeChanged); err != nil {
		return nil, err
	}
	_, err := c.leases.OnChange(c.leaseChanged)
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// nodeChanged and leaseChanged note a sign of life by our own clock: clocks
// of nodes may differ. They wake the node only where something else than time
// depends on it; the loop's own timer looks after silence.
func (c *Controller) nodeChanged(n, old *corev1.Node) {
	if n == nil {
		c.mu.Lock()
		delete(c.health, old.Name)
		delete(c.marked, old.Name)
		c.mu.Unlock()
		c.env.Events.Eventf(byName(old), corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", old.Name, old.Name)
		c.loop.Add(old.Name)
		return
	}
	ready := condition(n, corev1.NodeReady)
	if old == nil {
		c.env.Events.Eventf(byName(n), corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", n.Name, n.Name)
		c.sign(n.Name, ready != nil && ready.Status != corev1.ConditionUnknown)
	} else if was := condition(old, corev1.NodeReady); ready != nil && ready.Status != corev1.ConditionUnknown &&
		(was == nil || !was.LastHeartbeatTime.Equal(&ready.LastHeartbeatTime) || was.Status != ready.Status) {
		c.sign(n.Name, true)
	}
	if old == nil || n.Spec.Unschedulable != old.Spec.Unschedulable || keys(n) != keys(old) ||
		!apiequality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) || zoneOf(n) != zoneOf(old) {
		c.loop.Add(n.Name)
	}
	if old == nil || keys(n) != keys(old) || zoneOf(n) != zoneOf(old) {
		c.wakeWaiting(n.Name)
	}
}

// byName is the node for events about its coming and going: that of its kind,
// name and UID, as upstream refers to it.
func byName(n *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
}

// wakeWaiting looks again at the nodes that are not evicted from for their
// zone's sake, since a zone has changed.
func (c *Controller) wakeWaiting(but string) {
	for _, n := range c.nodes.List("", nil) {
		if _, noExecute := keysFor(n); noExecute != "" && n.Name != but && !tainted(n) {
			c.loop.Add(n.Name)
		}
	}
}

// keys sums up the taints that a node's state asks for.
func keys(n *corev1.Node) string {
	s, e := keysFor(n)
	return fmt.Sprint(s, e)
}

func (c *Controller) leaseChanged(l, old *coordinationv1.Lease) {
	if l == nil || old != nil && old.Spec.RenewTime.Equal(l.Spec.RenewTime) {
		return
	}
	silent := c.sign(l.Name, true)
	if silent {
		c.loop.Add(l.Name)
	}
}

// sign notes a sign of life, and says whether the node had been silent.
func (c *Controller) sign(node string, heard bool) (wasSilent bool) {
	now := c.env.Clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	h, known := c.health[node]
	wasSilent = known && c.settings.silentIn(h, now) <= 0
	c.health[node] = Health{Seen: now, Heard: h.Heard || heard}
	return wasSilent
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	n, ok := c.nodes.Get("", name)
	if !ok {
		c.writes.Forget(name)
		return 0, nil
	}
	if !c.nodes.CaughtUp(&c.writes, name) {
		return 0, nil // the event that is still to come wakes us
	}
	now := c.env.Clock.Now()
	c.mu.Lock()
	h := c.health[name]
	c.mu.Unlock()
	again := c.settings.silentIn(h, now)
	if again <= 0 {
		again = 0 // a sign of life wakes us
		if conditions := unknownConditions(n, metav1.NewTime(now)); conditions != nil {
			return 0, c.writeConditions(ctx, n, conditions)
		}
	}
	if err := c.markPods(ctx, n); err != nil {
		return 0, err
	}
	evict, wait := c.mayEvict(n, now)
	out, wanted := taints(n, evict, metav1.NewTime(now))
	if wanted && wait > 0 && (again == 0 || wait < again) {
		again = wait
	}
	if out == nil {
		return again, nil
	}
	if err := c.writeTaints(ctx, n, out); err != nil {
		return 0, err
	}
	return again, nil
}

func (c *Controller) writeConditions(ctx context.Context, n *corev1.Node, conditions []corev1.NodeCondition) error {
	m := n.DeepCopy()
	m.Status.Conditions = conditions
	got, err := client.Nodes.In(c.env.Client, "").UpdateStatus(ctx, m)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("marking the silent node: %w", err)
	}
	c.writes.Wrote(n.Name, got)
	return nil
}

// mayEvict says whether the node may be tainted NoExecute now, or how long it
// has to wait for its zone; 0 without evict is until a zone changes.
func (c *Controller) mayEvict(n *corev1.Node, now time.Time) (evict bool, wait time.Duration) {
	if _, noExecute := keysFor(n); noExecute == "" || tainted(n) {
		return false, 0
	}
	zones := map[string]zone{}
	for _, x := range c.nodes.List("", nil) {
		z := zones[zoneOf(x)]
		if r := condition(x, corev1.NodeReady); r != nil && r.Status == corev1.ConditionTrue {
			z.ready++
		} else {
			z.notReady++
		}
		zones[zoneOf(x)] = z
	}
	name := zoneOf(n)
	every := c.settings.interval(name, zones)
	if every == 0 {
		return false, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait := c.evicted[name].Add(every).Sub(now); wait > 0 {
		return false, wait
	}
	c.evicted[name] = now
	c.env.Counts.NodeEvicted(name)
	return true, 0
}

func (c *Controller) writeTaints(ctx context.Context, n *corev1.Node, taints []corev1.Taint) error {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return err
	}
	got, err := client.Nodes.In(c.env.Client, "").Patch(ctx, n.Name, types.MergePatchType, data)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("tainting: %w", err)
	}
	c.writes.Wrote(n.Name, got)
	return nil
}

// markPods takes the pods of a node that has ceased to be ready out of their
// Services, once: the kubelet, if it lives, has the last word.
func (c *Controller) markPods(ctx context.Context, n *corev1.Node) error {
	ready := condition(n, corev1.NodeReady)
	c.mu.Lock()
	done := c.marked[n.Name]
	if ready == nil || ready.Status == corev1.ConditionTrue {
		delete(c.marked, n.Name)
		done = true
	}
	c.mu.Unlock()
	if done {
		return nil
	}
	c.env.Events.Eventf(n, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	ps := c.pods.ByIndex(controllers.NodeIndex, n.Name)
	err := controllers.Each(len(ps), func(i int) error {
		if !pods.Ready(ps[i]) || pods.Finished(ps[i]) {
			return nil
		}
		p := ps[i].DeepCopy()
		cond := *pods.Condition(p, corev1.PodReady)
		cond.Status, cond.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(c.env.Clock.Now())
		pods.SetCondition(p, cond)
		if _, err := client.Pods.In(c.env.Client, p.Namespace).UpdateStatus(ctx, p); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("marking pod %s/%s not ready: %w", ps[i].Namespace, ps[i].Name, err)
		}
		c.env.Events.Event(ps[i], corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.marked[n.Name] = true
	c.mu.Unlock()
	return nil
}
