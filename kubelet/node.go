package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/client"
)

// Periods of the node's signs of life (API documentation of Lease and
// NodeStatus).
const (
	examinePeriod    = time.Minute // of a runtime that is well
	maxNamesPerImage = 5
)

// nodeManager registers the node, keeps its lease and its status.
type nodeManager struct {
	k            *Kubelet
	nudged       chan struct{}
	staticListed sync.Map // sources of static pods that were read

	mu      sync.Mutex
	node    *corev1.Node // as the API last showed it
	gone    bool         // it showed that there is none
	machine machine
	rro     bool // the runtime can mount recursively read-only
	// users are the runtime's handlers that can give a pod users of its own.
	users map[string]bool

	// Of the one goroutine that runs.
	images   []corev1.ContainerImage
	imagesOK atomic.Bool
	reported time.Time
	examined time.Time // when the runtime last told its full status
	ready    bool
	leased   *coordinationv1.Lease
	watched  *objectCache[*corev1.Node] // once the node is registered
	doubted  bool                       // node may not be what the API has
	features *corev1.NodeFeatures
	handlers []corev1.NodeRuntimeHandler
}

func newNodeManager(k *Kubelet) *nodeManager {
	return &nodeManager{k: k, nudged: make(chan struct{}, 1), machine: readMachine()}
}

// current returns the node as the API last showed it, nil before its
// registration.
func (n *nodeManager) current() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

// nudgeNode has the node's status looked at now.
func (k *Kubelet) nudgeNode() {
	select {
	case k.node.nudged <- struct{}{}:
	default:
	}
}

// imagesChanged is called when an image was pulled: the node's list of images
// is read again with its next status.
func (k *Kubelet) imagesChanged() { k.node.imagesOK.Store(false) }

// run registers the node and keeps it alive until ctx ends. Until the node is
// ready it looks often, since no runtime tells when it becomes so; then every
// 10 s with the lease.
func (n *nodeManager) run(ctx context.Context) {
	pause := 20 * time.Millisecond
	kept := time.Time{}
	for ctx.Err() == nil {
		// Without the API a node must look after itself all the more.
		if now := n.k.cfg.Clock.Now(); n.ready && now.Sub(kept) >= upkeepPeriod-time.Second {
			kept = now
			n.k.upkeep(ctx)
		}
		err := n.step(ctx)
		wait := n.renewal()
		switch {
		case apierrors.IsConflict(err):
			// Someone else wrote the node since it was read: read it again.
			wait = 0
			n.doubted = true
		case err != nil:
			if ctx.Err() == nil {
				n.k.log.Warn("cannot report the node, will retry", "error", err)
			}
			wait, pause = pause, min(2*pause, n.renewal())
			n.doubted = true
		case !n.ready:
			wait, pause = pause, min(pause*3/2, time.Second)
		default:
			pause = 20 * time.Millisecond
		}
		t := n.k.cfg.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C():
		case <-n.nudged:
		}
		t.Stop()
	}
}

// step brings node, lease and status up to date.
func (n *nodeManager) step(ctx context.Context) error {
	version, problem := n.askRuntime(ctx)
	if why := n.k.shutdownProblem(); why != "" {
		problem = why
	}
	if n.due() {
		n.imagesOK.Store(false) // others import images too
	}
	if problem == "" && !n.imagesOK.Swap(true) {
		if err := n.listImages(ctx); err != nil {
			n.imagesOK.Store(false)
		}
	}
	node, err := n.register(ctx)
	if err != nil {
		return err
	}
	if err := n.report(ctx, node, version, problem); err != nil {
		return err
	}
	if err := n.renew(ctx, node); err != nil {
		return err
	}
	if n.ready = problem == ""; n.ready {
		select {
		case <-n.k.ready:
		default:
			n.k.startup.first(&n.k.startup.well, n.k.cfg.Clock.Now())
			close(n.k.ready)
		}
	}
	return nil
}

// askRuntime asks the runtime how it is and returns what keeps the node from
// being ready, "" if nothing. A runtime that was well is asked for no more
// than its version most of the time: its full status runs the CNI plugin.
func (n *nodeManager) askRuntime(ctx context.Context) (*runtimeapi.VersionResponse, string) {
	version, err := n.k.cfg.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nil, runtimeProblem(nil, err)
	}
	now := n.k.cfg.Clock.Now()
	if n.ready && now.Sub(n.examined) < examinePeriod {
		return version, ""
	}
	status, err := n.k.cfg.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err == nil {
		n.takeFeatures(status)
		n.examined = now
	}
	return version, runtimeProblem(status, err)
}

// runtimeProblem says what keeps the node from being ready, "" if nothing.
func runtimeProblem(res *runtimeapi.StatusResponse, err error) string {
	if err != nil {
		return fmt.Sprintf("[container runtime is down: %v]", err)
	}
	conds := map[string]*runtimeapi.RuntimeCondition{}
	for _, c := range res.GetStatus().GetConditions() {
		conds[c.Type] = c
	}
	for _, want := range []struct{ condition, what string }{
		{runtimeapi.RuntimeReady, "container runtime not ready"}, {runtimeapi.NetworkReady, "container runtime network not ready"},
	} {
		c := conds[want.condition]
		if c == nil {
			return want.what + ": " + want.condition + " condition is not set"
		}
		if !c.Status {
			return fmt.Sprintf("%s: %s=false reason:%s message:%s", want.what, c.Type, c.Reason, c.Message)
		}
	}
	return ""
}

func (n *nodeManager) takeFeatures(res *runtimeapi.StatusResponse) {
	n.handlers = nil
	rro, users := false, map[string]bool{}
	for _, h := range res.GetRuntimeHandlers() {
		f := h.GetFeatures()
		handler := corev1.NodeRuntimeHandler{Name: h.Name}
		if f != nil { // which runtimes need not say
			handler.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces}
		}
		n.handlers = append(n.handlers, handler)
		users[h.Name] = f.GetUserNamespaces()
		if h.Name == "" {
			rro = f.GetRecursiveReadOnlyMounts()
		}
	}
	sort.Slice(n.handlers, func(i, j int) bool { return n.handlers[i].Name < n.handlers[j].Name })
	if f := res.GetFeatures(); f != nil {
		n.features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
	n.mu.Lock()
	n.rro, n.users = rro, users
	n.mu.Unlock()
}

func (k *Kubelet) recursiveReadOnly() bool {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	return k.node.rro
}

// ownUsers says that pods of a runtime handler can have users of their own.
func (n *nodeManager) ownUsers(handler string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.users[handler]
}

func (n *nodeManager) listImages(ctx context.Context) error {
	res, err := n.k.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	n.images = nil
	for _, i := range res.Images {
		names := slices.Concat(i.RepoDigests, i.RepoTags)
		if len(names) > maxNamesPerImage {
			names = names[:maxNamesPerImage]
		}
		n.images = append(n.images, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
	}
	sort.SliceStable(n.images, func(a, b int) bool { return n.images[a].SizeBytes > n.images[b].SizeBytes })
	if most := n.k.cfg.StatusImages; most >= 0 && len(n.images) > most {
		n.images = n.images[:most]
	}
	return nil
}

// register returns the node as the API has it, and makes it if need be; labels
// that the kubelet owns are put right.
func (n *nodeManager) register(ctx context.Context) (*corev1.Node, error) {
	n.k.startup.first(&n.k.startup.asked, n.k.cfg.Clock.Now())
	nodes := client.Nodes.In(n.k.cfg.Client, "")
	node, err := n.known(), error(nil)
	if node == nil {
		node, err = nodes.Get(ctx, n.k.cfg.NodeName)
	}
	if apierrors.IsNotFound(err) && !n.k.cfg.Unregistered {
		fresh := n.k.newNode(n.machine)
		setNodeStatus(fresh, n.facts(nil, "container runtime status check may not have completed yet"))
		node, err = nodes.Create(ctx, fresh)
		if apierrors.IsAlreadyExists(err) {
			node, err = nodes.Get(ctx, n.k.cfg.NodeName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register the node: %w", err)
	}
	want := node.DeepCopy()
	if n.k.reconcileNode(want, n.machine) {
		if node, err = nodes.Update(ctx, want); err != nil {
			return nil, fmt.Errorf("update the node: %w", err)
		}
	}
	if n.current() == nil {
		n.k.recorder.Event(nodeRef(n.k.cfg.NodeName), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	}
	n.k.startup.first(&n.k.startup.registered, n.k.cfg.Clock.Now())
	if n.doubted {
		n.forget() // what was read counts, also where the API's data was taken back to an earlier time
	}
	n.remember(node)
	n.doubted = false
	if n.watched == nil {
		n.watched = newObjectCache(n.k.ctx, n.k.cfg.Client, client.Nodes, n.k.log, func(string, string) { n.saw() })
		n.watched.add(objectKey{Name: n.k.cfg.NodeName})
	}
	return node, nil
}

// known returns the node if the watch can be trusted to have told what it is,
// else nil. Whatever went wrong since, and once in a while so that nothing
// stays wrong for ever, it is read.
func (n *nodeManager) known() *corev1.Node {
	if n.watched == nil || n.doubted || !n.ready || n.due() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return nil
	}
	return n.node
}

// saw takes in what the watch of the node told, unless more is known by now:
// our own writes return before the watch tells of them.
func (n *nodeManager) saw() {
	node, exists := n.watched.peek(objectKey{Name: n.k.cfg.NodeName})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone = !exists; exists {
		n.node = newer(node, n.node)
	}
}

// read looks at the node anew. Where that fails what is known stays.
func (n *nodeManager) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	node, err := client.Nodes.In(n.k.cfg.Client, "").Get(ctx, n.k.cfg.NodeName)
	if err != nil {
		n.k.log.Warn("read the node", "err", err)
		return
	}
	n.remember(node)
}

// remember takes in the node as a request returned it, unless the watch has
// told of a later version.
func (n *nodeManager) remember(node *corev1.Node) {
	n.mu.Lock()
	n.node, n.gone = newer(node, n.node), false
	n.mu.Unlock()
}

func (n *nodeManager) forget() {
	n.mu.Lock()
	n.node = nil
	n.mu.Unlock()
}

// facts gathers what the node's status is made of.
func (n *nodeManager) facts(version *runtimeapi.VersionResponse, problem string) *statusFacts {
	f := &statusFacts{
		cfg: &n.k.cfg, machine: n.machine, now: metav1.NewTime(n.k.cfg.Clock.Now().Truncate(time.Second)),
		problem: problem, images: n.images, pressure: n.k.pressure(),
		features: n.features, handlers: n.handlers, disk: diskSize(n.k.cfg.RootDir),
	}
	f.devices, f.healthy, f.gone = n.k.devices.Capacity()
	f.inUse = n.k.csi.InUse()
	if version != nil {
		f.runtime = version.RuntimeName + "://" + version.RuntimeVersion
	}
	return f
}

// report writes the node's status when it changed, and every 5 minutes.
func (n *nodeManager) report(ctx context.Context, node *corev1.Node, version *runtimeapi.VersionResponse, problem string) error {
	want := node.DeepCopy()
	f := n.facts(version, problem)
	if f.runtime == "" {
		f.runtime = node.Status.NodeInfo.ContainerRuntimeVersion
	}
	setNodeStatus(want, f)
	if !n.due() && sameNodeStatus(&node.Status, &want.Status) {
		n.k.csi.Reported(f.inUse)
		return nil
	}
	for i := range want.Status.Conditions {
		if slices.Contains(ownNodeConditions, want.Status.Conditions[i].Type) {
			want.Status.Conditions[i].LastHeartbeatTime = f.now
		}
	}
	out, err := client.Nodes.In(n.k.cfg.Client, "").UpdateStatus(ctx, want)
	if err != nil {
		return fmt.Errorf("update the node's status: %w", err)
	}
	n.k.csi.Reported(f.inUse)
	n.tell(node, out)
	n.reported = n.k.cfg.Clock.Now()
	n.remember(out)
	return nil
}

// due says that the status is reported whether it changed or not.
func (n *nodeManager) due() bool {
	return n.reported.IsZero() || n.k.cfg.Clock.Since(n.reported) >= n.k.cfg.StatusPeriod
}

// sameNodeStatus compares two statuses but for their heartbeats.
func sameNodeStatus(a, b *corev1.NodeStatus) bool {
	ca, cb := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{ca, cb} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(ca, cb)
}

// tell records events about conditions that changed.
func (n *nodeManager) tell(old, now *corev1.Node) {
	for _, c := range now.Status.Conditions {
		had := findNodeCondition(old.Status.Conditions, c.Type)
		if had != nil && had.Status == c.Status && !n.reported.IsZero() {
			continue
		}
		if reason, ok := conditionEvents[c.Type][c.Status]; ok {
			n.k.recorder.Eventf(nodeRef(now.Name), corev1.EventTypeNormal, reason, "Node %s status is now: %s", now.Name, reason)
		}
	}
}

// nodeRef names the node in events; by custom its uid there is its name.
func nodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: types.UID(name)}
}

// renewal is how often the node's lease is renewed.
func (n *nodeManager) renewal() time.Duration {
	return time.Duration(n.k.cfg.LeaseSeconds) * time.Second / 4
}

// renew keeps the node's lease.
func (n *nodeManager) renew(ctx context.Context, node *corev1.Node) error {
	leases := client.Leases.In(n.k.cfg.Client, corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(n.k.cfg.Clock.Now())
	if n.leased != nil && now.Sub(n.leased.Spec.RenewTime.Time) < n.renewal()*9/10 {
		return nil // only nudged
	}
	seconds := n.k.cfg.LeaseSeconds
	lease := n.leased
	if lease == nil {
		got, err := leases.Get(ctx, n.k.cfg.NodeName)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read the node's lease: %w", err)
		}
		if err == nil {
			lease = got
		}
	}
	fresh := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.k.cfg.NodeName, Namespace: corev1.NamespaceNodeLease}}
	if lease != nil {
		fresh = lease.DeepCopy()
	}
	fresh.Spec.HolderIdentity, fresh.Spec.LeaseDurationSeconds, fresh.Spec.RenewTime = &n.k.cfg.NodeName, &seconds, &now
	if len(fresh.OwnerReferences) == 0 {
		fresh.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	var err error
	if lease == nil {
		n.leased, err = leases.Create(ctx, fresh)
	} else {
		n.leased, err = leases.Update(ctx, fresh)
	}
	if err != nil {
		n.leased = nil // read it again
		return fmt.Errorf("renew the node's lease: %w", err)
	}
	return nil
}

// newNode makes the object that registers the node.
func (k *Kubelet) newNode(m machine) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.cfg.NodeName}}
	node.Labels = maps.Clone(k.cfg.Labels)
	node.Annotations = maps.Clone(k.cfg.Annotations)
	node.Spec.ProviderID = k.cfg.ProviderID
	node.Spec.Taints = slices.Clone(k.cfg.Taints)
	k.reconcileNode(node, m)
	return node
}

// reconcileNode puts the labels right that are the kubelet's; true when
// something changed. Labels that others set are kept.
func (k *Kubelet) reconcileNode(node *corev1.Node, m machine) bool {
	want := maps.Clone(k.cfg.Labels)
	if want == nil {
		want = map[string]string{}
	}
	for name, v := range map[string]string{
		corev1.LabelHostname: k.cfg.Hostname, corev1.LabelOSStable: m.OS, corev1.LabelArchStable: m.Arch,
		"beta.kubernetes.io/os": m.OS, "beta.kubernetes.io/arch": m.Arch,
	} {
		want[name] = v
	}
	changed := false
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	for name, v := range want {
		if node.Labels[name] != v {
			node.Labels[name], changed = v, true
		}
	}
	const managed = "volumes.kubernetes.io/controller-managed-attach-detach"
	if node.Annotations[managed] == "" {
		if node.Annotations == nil {
			node.Annotations = map[string]string{}
		}
		node.Annotations[managed], changed = "true", true
	}
	if node.Spec.ProviderID == "" && k.cfg.ProviderID != "" {
		node.Spec.ProviderID, changed = k.cfg.ProviderID, true
	}
	return changed
}
