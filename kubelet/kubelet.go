// Package kubelet runs the pods of one node: pods flow in from the API and
// from a folder, what they should become is planned as a value (plan.go), the
// container runtime is told through CRI, and statuses flow back as API writes.
package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/cgroups"
	registries "github.com/coxswain/cox/kubelet/credentials"
	"github.com/coxswain/cox/kubelet/csi"
	"github.com/coxswain/cox/kubelet/devices"
	"github.com/coxswain/cox/kubelet/dra"
	"github.com/coxswain/cox/kubelet/exclusive"
	"github.com/coxswain/cox/kubelet/podcerts"
	"github.com/coxswain/cox/kubelet/probes"
	"github.com/coxswain/cox/kubelet/pulled"
	"github.com/coxswain/cox/kubelet/volumes"
)

// Kubelet runs the pods of one node. Its exported methods are safe for
// concurrent use.
type Kubelet struct {
	cfg      Config
	log      *slog.Logger
	ctx      context.Context
	recorder client.Recorder
	cgroups  *cgroups.Manager
	volumes  *volumes.Manager
	probes   *probes.Manager
	status   *statusManager
	tokens   *tokenCache
	// bundles and certificates are what pods trust, and show.
	bundles      *podcerts.Bundles
	certificates *podcerts.Certificates
	node         *nodeManager
	hooks        *http.Client
	counts       *counts
	gauges       gauges
	startup      startup
	oom          oomLimits
	facts        nodeFacts
	ready        chan struct{}
	ops          sync.WaitGroup

	informers  *client.Informers
	pods       client.Informer[*corev1.Pod]
	services   client.Informer[*corev1.Service]
	configMaps *objectCache[*corev1.ConfigMap]
	secrets    *objectCache[*corev1.Secret]

	images      *imageUses
	shortMu     sync.Mutex
	short       pressures   // guarded by shortMu
	keeping     atomic.Bool // upkeep is under way; it alone uses the next five
	relisted    time.Time
	passed      map[int]watched // thresholds of eviction, by index
	imageDir    string
	imagesFreed time.Time
	imagesAged  time.Time

	users *userRanges

	devices   *devices.Manager
	exclusive *exclusive.Manager
	claims    *dra.Manager
	csi       *csi.Manager
	providers *registries.Manager // nil without plugins
	pulls     chan struct{}       // holds a value per pull under way; nil without bound
	turns     *turns              // at the runtime
	pulled    *pulled.Records
	goingDown atomic.Bool   // the machine shuts down
	sharing   sync.Mutex    // held while containers are told which CPUs they share
	shared    cpuset.CPUSet // what they were told

	resizeWaits atomic.Bool // a pod waits for resources that others have

	mu       sync.Mutex // guards below; taken before a worker's lock, never after
	workers  map[types.UID]*worker
	found    map[types.UID]*foundPod // at start, until their pods are known
	apiReady bool                    // the API's pods are known
	shares   int64                   // CPU shares of the burstable class as set
}

// New checks the configuration and makes a kubelet; Run does the rest.
func New(cfg Config) (*Kubelet, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	cg, err := cgroups.Detect(cfg.CgroupRoot)
	if err != nil {
		return nil, err
	}
	k := &Kubelet{
		cfg: cfg, log: cfg.Log, cgroups: cg, counts: newCounts(), gauges: newGauges(),
		volumes: volumes.NewManager(filepath.Join(cfg.RootDir, "pods")),
		oom:     detectOOMLimits(), ready: make(chan struct{}), hooks: probes.InsecureClient(),
		facts:  nodeFacts{IPs: cfg.NodeIPs, Runtime: cfg.RuntimeName},
		images: &imageUses{seen: map[string]time.Time{}, used: map[string]time.Time{}}, short: pressures{},
		passed: map[int]watched{}, turns: newTurns(cfg.Clock), workers: map[types.UID]*worker{}, found: map[types.UID]*foundPod{},
	}
	k.volumes.Did = func(pod *corev1.Pod, v *corev1.Volume, operation string, took time.Duration, err error) {
		k.counts.volume(pluginName(pod, v), operation, took, err)
	}
	k.users = &userRanges{dir: k.volumes.PodDir, size: cfg.Containers.UserIDs, most: uint32(max(cfg.MaxPods, 110)), first: map[types.UID]uint32{}}
	if err := k.newExclusive(); err != nil {
		return nil, err
	}
	if err := k.newClaims(); err != nil {
		return nil, err
	}
	if err := k.newPulls(); err != nil {
		return nil, err
	}
	k.newCSI()
	k.probes = probes.NewManager(probes.Config{
		Checker: &probes.Checks{Exec: k.execSync, Version: minorVersion(cfg.Version)}, Clock: cfg.Clock, Log: k.log,
		Changed: k.probeChanged, Unhealthy: k.unhealthy, Warned: k.probeWarned,
	})
	return k, nil
}

// Ready is closed once the node is registered and its Ready condition was
// posted as True for the first time.
func (k *Kubelet) Ready() <-chan struct{} { return k.ready }

// Run runs the kubelet until ctx ends; containers go on running then. It
// returns an error when the node cannot work at all.
func (k *Kubelet) Run(ctx context.Context) error {
	k.ctx = ctx
	k.startup.begin(k.cfg.Clock.Now())
	for _, d := range []string{filepath.Join(k.cfg.RootDir, "pods"), k.cfg.LogDir, k.cfg.ContainerLogDir} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o750); err != nil {
			return fmt.Errorf("make the kubelet's folders: %w", err)
		}
	}
	// CSI drivers mount below these folders from within their containers.
	for _, d := range unique([]string{k.cfg.RootDir, k.cfg.PluginDir}) {
		if err := volumes.Share(d); err != nil {
			k.log.Warn("mounts will not propagate out of containers", "folder", d, "error", err)
		}
	}
	uids, err := k.volumes.Pods()
	if err != nil {
		return fmt.Errorf("list the pods' folders: %w", err)
	}
	k.users.recall(uids)
	if err := k.cgroups.EnsureTree(k.treeResources()); err != nil {
		return err
	}
	if err := k.boundReserved(); err != nil {
		return err
	}
	k.recorder = client.NewRecorder(ctx, k.cfg.Client, "kubelet", k.cfg.NodeName)
	k.configMaps = newObjectCache(ctx, k.cfg.Client, client.ConfigMaps, k.log, func(ns, name string) { k.objectChanged(true, ns, name) })
	k.secrets = newObjectCache(ctx, k.cfg.Client, client.Secrets, k.log, func(ns, name string) { k.objectChanged(false, ns, name) })
	k.tokens = newTokenCache(k.cfg.Client, k.cfg.Clock)
	k.bundles = podcerts.NewBundles(ctx, k.cfg.Client, k.bundlesChanged)
	k.certificates = podcerts.NewCertificates(k.cfg.Client, k.cfg.NodeName, k.cfg.Clock)
	k.status = newStatusManager(k.cfg.Client, k.log, k.apiPod, k.counts.told.Observe)
	k.informers = client.NewInformers(k.cfg.Client)
	k.pods = client.ScopedInformerFor(k.informers, client.Pods, client.Scope{Field: fields.OneTermEqualSelector("spec.nodeName", k.cfg.NodeName)})
	k.services = client.InformerFor(k.informers, client.Services)
	k.node = newNodeManager(k)

	var wg sync.WaitGroup
	wg.Go(func() { k.status.run(ctx) })
	wg.Go(func() { k.node.run(ctx) })
	wg.Go(func() { k.csi.Run(ctx) })
	k.runPlugins(ctx)
	wg.Go(func() { k.runShutdown(ctx) })
	k.informers.Start(ctx)

	listed := make(chan struct{})
	var once sync.Once
	wg.Go(func() {
		k.follow(ctx, func() {
			if k.reobserve(ctx) {
				once.Do(func() { close(listed) })
			}
		})
	})
	select {
	case <-listed:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		wg.Go(k.settlePulls)
	}
	if ctx.Err() == nil && k.cfg.StaticPodDir != "" {
		wg.Go(func() { k.runStatic(ctx) })
	}
	if ctx.Err() == nil && k.cfg.StaticPodURL != "" {
		wg.Go(func() { k.runStaticURL(ctx) })
	}
	if ctx.Err() == nil && k.informers.WaitForSync(ctx) {
		k.begin()
	}
	<-ctx.Done()
	k.ops.Wait()
	wg.Wait()
	return nil
}

// begin takes in the API's pods and clears away what belongs to none.
func (k *Kubelet) begin() {
	_, err := k.pods.OnChange(func(pod, old *corev1.Pod) {
		switch {
		case pod == nil:
			k.podGone(old)
		case old != nil && old.UID != pod.UID:
			k.podGone(old)
			k.podChanged(pod)
		default:
			k.podChanged(pod)
		}
	})
	if err != nil {
		k.log.Error("cannot follow the API's pods", "error", err)
		return
	}
	// The handler is told of the pods in its own time; whoever clears orphans
	// must know them all now.
	for _, pod := range k.pods.List("", nil) {
		k.podChanged(pod)
	}
	k.mu.Lock()
	k.apiReady = true
	k.mu.Unlock()
	k.clearOrphans()
}

// podChanged takes in a pod of the API.
func (k *Kubelet) podChanged(pod *corev1.Pod) {
	if _, mirror := pod.Annotations[annotationConfigMirror]; mirror {
		k.mirrorChanged(pod)
		return
	}
	if k.wouldReject(pod) {
		// Labels and resources of the node may have changed a moment ago, and
		// the scheduler, which watches it, has seen more than we have.
		k.node.read(k.ctx)
	}
	k.mu.Lock()
	w := k.workers[pod.UID]
	if w != nil {
		k.mu.Unlock()
		w.update(pod)
	} else {
		w = k.add(pod, false)
		k.mu.Unlock()
	}
	if w.asksResize() {
		k.resizePods()
	}
	w.sync()
}

// wouldReject says that a pod is new and that the node, as far as it is known
// here, does not take it.
func (k *Kubelet) wouldReject(pod *corev1.Pod) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.workers[pod.UID] != nil || k.found[pod.UID] != nil || ended(pod) {
		return false
	}
	return admit(pod, k.node.current(), k.claimants(), false) != nil
}

// ended says that nothing of a pod is to be started any more.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded || pod.DeletionTimestamp != nil
}

// add makes the worker of a new pod. Call with the lock held.
func (k *Kubelet) add(pod *corev1.Pod, static bool) *worker {
	w := k.newWorker(pod, static)
	f := k.found[pod.UID]
	delete(k.found, pod.UID)
	if f == nil && !ended(pod) {
		r := k.admitDuringShutdown()
		if r == nil {
			r = admit(pod, k.node.current(), k.claimants(), static)
		}
		if r == nil {
			r = admitSysctls(pod, k.cfg.Containers.UnsafeSysctls)
		}
		if r == nil {
			r = admitUnderPressure(pod, k.pressure(), static)
		}
		if r != nil {
			w.state.Rejected = r
			k.recorder.Event(pod, corev1.EventTypeWarning, r.Reason, r.Message)
		}
	}
	k.workers[pod.UID] = w
	if f == nil {
		k.counts.containers.Observe(float64(len(pod.Spec.Containers)))
		w.starting.seen = k.cfg.Clock.Now()
	}
	w.mu.Lock()
	w.watchReferences()
	w.mu.Unlock()
	if f != nil {
		w.recallGrant(f)
		w.adopt(f)
	} else if w.state.Rejected == nil && !ended(pod) && k.exclusive.Wants(pod) {
		w.mu.Lock()
		w.admitExclusive()
		w.mu.Unlock()
	}
	k.updateShares()
	return w
}

// activePods lists the pods that use the node's resources. Call with the lock
// held.
func (k *Kubelet) activePods() []*corev1.Pod {
	return k.podsOf(func(*worker) bool { return true })
}

func (k *Kubelet) activePodsBut(uid types.UID) []*corev1.Pod {
	return k.podsOf(func(w *worker) bool { return w.uid != uid })
}

// claimants lists the pods beside which a new one must fit: the active ones
// that their source still has. A pod deleted by force may take its time to
// end, but to the scheduler its place is free. Call with the lock held.
func (k *Kubelet) claimants() []*corev1.Pod {
	return k.podsOf(func(w *worker) bool { return !w.state.Gone })
}

// podsOf lists the active pods among those that take picks; take is called
// with the worker's lock held.
func (k *Kubelet) podsOf(take func(*worker) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range k.workers {
		w.mu.Lock()
		pod := w.state.Pod
		over := !take(w) || w.state.Rejected != nil || w.state.Released
		w.mu.Unlock()
		if !over && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			out = append(out, pod)
		}
	}
	return out
}

// updateShares gives the burstable class the shares that its pods ask for.
// Call with the lock held.
func (k *Kubelet) updateShares() {
	var milli int64
	for _, pod := range k.activePods() {
		if qosClass(pod) == corev1.PodQOSBurstable {
			milli += podMilliCPU(pod)
		}
	}
	shares := milliToShares(milli)
	if shares == k.shares {
		return
	}
	if err := k.cgroups.SetClass(cgroups.Burstable, shares); err != nil {
		k.log.Warn("cannot set the CPU shares of burstable pods", "error", err)
		return
	}
	k.shares = shares
}

func (k *Kubelet) podGone(pod *corev1.Pod) {
	if _, mirror := pod.Annotations[annotationConfigMirror]; mirror {
		k.mirrorGone(pod)
		return
	}
	if w := k.worker(pod.UID); w != nil {
		w.gone()
	}
}

func (k *Kubelet) worker(uid types.UID) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

func (k *Kubelet) forget(uid types.UID) {
	k.mu.Lock()
	delete(k.workers, uid)
	k.updateShares()
	k.mu.Unlock()
	k.retryResizes()
	k.status.forget(uid)
	k.tokens.forget(uid)
	k.certificates.Forget(uid)
	k.users.release(uid)
	k.staticForgotten(uid)
}

func (k *Kubelet) objectChanged(config bool, namespace, name string) {
	for _, w := range k.allWorkers() {
		w.objectChanged(config, objectKey{namespace, name})
	}
}

func (k *Kubelet) bundlesChanged() {
	for _, w := range k.allWorkers() {
		w.bundlesChanged()
	}
}

func (k *Kubelet) probeChanged(t *probes.Target) {
	if w := k.worker(t.Pod.UID); w != nil {
		w.sync()
	}
}

func (k *Kubelet) unhealthy(t *probes.Target, message string) {
	_, kind := findContainer(&t.Pod.Spec, t.Container.Name)
	k.containerEvent(t.Pod, kind, t.Container.Name, corev1.EventTypeWarning, "Unhealthy", "%s", message)
}

func (k *Kubelet) probeWarned(t *probes.Target, message string) {
	_, kind := findContainer(&t.Pod.Spec, t.Container.Name)
	k.containerEvent(t.Pod, kind, t.Container.Name, corev1.EventTypeWarning, "ProbeWarning", "%s", message)
}

// containerEvent records an event about one container of a pod.
func (k *Kubelet) containerEvent(pod *corev1.Pod, kind containerKind, name, typ, reason, format string, args ...any) {
	k.recorder.Eventf(&corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath(kind, name),
	}, typ, reason, format, args...)
}

// guard keeps a panic in one operation from ending the process.
func (k *Kubelet) guard(what string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("an operation panicked", "operation", what, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (k *Kubelet) servicesFor(namespace string) []*corev1.Service {
	out := k.services.List(namespace, nil)
	if namespace != metav1.NamespaceDefault {
		if s, ok := k.services.Get(metav1.NamespaceDefault, "kubernetes"); ok {
			out = append(out, s)
		}
	}
	return out
}
