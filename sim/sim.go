// Package sim plays nodes: names, sizes and a pace go in, and for each node
// the API requests come out that a kubelet would make - registration, leases,
// pods through their states - as system:node:NAME, without a container.
package sim

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
)

// The kubelet's own times.
const (
	renewEvery    = 10 * time.Second
	leaseSeconds  = 40
	statusEvery   = 5 * time.Minute
	leasesOfNodes = "kube-node-lease"
)

// Config is a hollow node.
type Config struct {
	Name string
	// Index is the node's number, from 0; pods of a node without a range get
	// addresses that follow from it.
	Index  int
	Labels map[string]string
	Taints []corev1.Taint
	// Capacity is what the node offers, all of it allocatable.
	Capacity corev1.ResourceList
	// Version is what the node calls its kubelet.
	Version string
	Pace    Pace

	// Door is the API as the node's own user.
	Door  client.Interface
	Clock clock.Clock // nil is the real one
	Log   *slog.Logger
}

// Node is a hollow node.
type Node struct {
	cfg  Config
	pods client.Informer[*corev1.Pod]
	all  *client.Informers
	loop *client.Loop

	mu    sync.Mutex
	cidr  netip.Prefix
	used  map[string]netip.Addr // by pod UID
	taken map[netip.Addr]bool
	next  netip.Addr
	asked time.Time // for the range
}

// New makes a node that the API does not know yet.
func New(cfg Config) (*Node, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	n := &Node{cfg: cfg, all: client.NewInformers(cfg.Door), used: map[string]netip.Addr{}, taken: map[netip.Addr]bool{}}
	n.pods = client.ScopedInformerFor(n.all, client.Pods, client.Scope{Field: fields.OneTermEqualSelector("spec.nodeName", cfg.Name)})
	n.loop = client.NewLoop("hollow", cfg.Log, n.reconcile)
	_, err := n.pods.OnChange(func(p, old *corev1.Pod) {
		if p == nil {
			n.release(string(old.UID))
			return
		}
		n.loop.AddObject(p)
	})
	return n, err
}

// Run plays the node, once it is registered, until ctx ends.
func (n *Node) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { n.renew(ctx) })
	n.all.Start(ctx)
	if n.all.WaitForSync(ctx) {
		n.loop.Run(ctx, 2)
	}
	wg.Wait()
}

// Register makes the Node, or takes the one that is there, and says what it is
// like.
func (n *Node) Register(ctx context.Context) error {
	nodes := client.Nodes.In(n.cfg.Door, "")
	labels := map[string]string{
		"kubernetes.io/hostname": n.cfg.Name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
	}
	for k, v := range n.cfg.Labels {
		labels[k] = v
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: labels}, Spec: corev1.NodeSpec{Taints: n.cfg.Taints}}
	n.report(&node.Status)
	_, err := nodes.Create(ctx, node)
	if apierrors.IsAlreadyExists(err) {
		err = n.beat(ctx)
	}
	if err != nil {
		return err
	}
	got, err := nodes.Get(ctx, n.cfg.Name)
	if err != nil {
		return err
	}
	n.adopt(got)
	return nil
}

// report is the node's status. It has no address, so that no real node makes
// a route to it.
func (n *Node) report(st *corev1.NodeStatus) {
	st.Capacity, st.Allocatable = n.cfg.Capacity, n.cfg.Capacity
	st.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.cfg.Name}}
	st.NodeInfo = corev1.NodeSystemInfo{
		KubeletVersion: n.cfg.Version, OperatingSystem: "linux", Architecture: "amd64", OSImage: "hollow",
		ContainerRuntimeVersion: "hollow://1", KernelVersion: "hollow",
	}
	now := metav1.NewTime(n.cfg.Clock.Now())
	st.Conditions = nil
	for _, c := range []struct {
		t               corev1.NodeConditionType
		ok              corev1.ConditionStatus
		reason, message string
	}{
		{corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		{corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		{corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"},
		{corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"},
	} {
		st.Conditions = append(st.Conditions, corev1.NodeCondition{Type: c.t, Status: c.ok, Reason: c.reason, Message: c.message, LastHeartbeatTime: now, LastTransitionTime: now})
	}
}

// beat reports the node's status.
func (n *Node) beat(ctx context.Context) error {
	var st corev1.NodeStatus
	n.report(&st)
	data, err := json.Marshal(map[string]any{"status": &st})
	if err != nil {
		return err
	}
	got, err := client.Nodes.In(n.cfg.Door, "").Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, data, client.Sub("status"))
	if err == nil {
		n.adopt(got)
	}
	return err
}

// renew keeps the node's lease and, now and then, its status fresh.
func (n *Node) renew(ctx context.Context) {
	beat := n.cfg.Clock.Now()
	wait := time.Duration(0)
	for {
		timer := n.cfg.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		if err := n.lease(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Warn("the lease could not be renewed", "node", n.cfg.Name, "error", err)
		}
		if now := n.cfg.Clock.Now(); now.Sub(beat) >= statusEvery {
			if err := n.beat(ctx); err != nil && ctx.Err() == nil {
				n.cfg.Log.Warn("the status could not be reported", "node", n.cfg.Name, "error", err)
			}
			beat = now
		}
		wait = time.Duration(float64(renewEvery) * (0.96 + 0.08*rand.Float64())) // not all nodes at once
	}
}

func (n *Node) lease(ctx context.Context) error {
	leases := client.Leases.In(n.cfg.Door, leasesOfNodes)
	now := metav1.NewMicroTime(n.cfg.Clock.Now())
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": now}})
	if err != nil {
		return err
	}
	_, err = leases.Patch(ctx, n.cfg.Name, types.MergePatchType, data)
	if !apierrors.IsNotFound(err) {
		return err
	}
	seconds := int32(leaseSeconds)
	_, err = leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: leasesOfNodes, Name: n.cfg.Name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.cfg.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	})
	return err
}

// reconcile plays a pod one step further.
func (n *Node) reconcile(ctx context.Context, key string) (time.Duration, error) {
	p, ok := n.pods.GetKey(key)
	if !ok {
		return 0, nil
	}
	if err := n.learn(ctx); err != nil {
		return 0, err
	}
	step := Next(p, n.cfg.Pace, n.address(string(p.UID)), n.cfg.Clock.Now())
	pods := client.Pods.In(n.cfg.Door, p.Namespace)
	var err error
	switch {
	case step.After > 0:
		return step.After, nil
	case step.Gone:
		zero := int64(0)
		err = pods.Delete(ctx, p.Name, client.Options{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	case step.Status != nil:
		var data []byte
		if data, err = change(p, step.Status); err == nil {
			_, err = pods.Patch(ctx, p.Name, types.StrategicMergePatchType, data, client.Sub("status"))
		}
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return 0, nil // it is gone, or another by now: the watch says so
	}
	return 0, err
}

// change is the patch that gives p a status, as kubelets send it.
func change(p *corev1.Pod, st *corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: ""}, Status: p.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID}, Status: *st})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
}
