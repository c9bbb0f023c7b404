package kubelet

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/kubelet/probes"
)

// worker brings one pod to where it should be. Whatever happens to the pod
// (its source, the runtime, a probe, a timer, the end of an operation) is put
// into its state, and then sync plans anew: the plan's operations run in
// goroutines of their own, so that a slow pull or a long grace period never
// keeps the pod from reacting. An idle pod has no goroutine.
type worker struct {
	k   *Kubelet
	uid types.UID
	ctx context.Context // ends with the kubelet or the pod

	mu         sync.Mutex // guards all below; may be held while taking the probes' and the status manager's locks
	state      podState
	static     bool // comes from the folder, not from the API
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	containers map[string]*instance
	cancels    map[string]context.CancelFunc // of operations, by key
	kills      map[string]context.CancelFunc // of containers being stopped, by id
	waiting    map[string]reason             // as of the last plan
	timer      clock.Timer
	configs    map[objectKey]bool // referenced objects under watch
	secrets    map[objectKey]bool
	sandboxGap time.Duration
	volumesGap time.Duration
	endGap     time.Duration   // of release and remove
	held       *hold           // which of them waits, nil for none
	stopped    []chan struct{} // closed once no container runs
	starting   starting
	steps      int
	done       bool
	cancel     context.CancelFunc
}

func (k *Kubelet) newWorker(pod *corev1.Pod, static bool) *worker {
	w := &worker{
		k: k, uid: pod.UID, static: static,
		sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*instance{},
		cancels: map[string]context.CancelFunc{}, kills: map[string]context.CancelFunc{}, waiting: map[string]reason{},
	}
	w.ctx, w.cancel = context.WithCancel(k.ctx)
	w.state = podState{
		Rules: &k.cfg.Containers,
		Asked: pod, Pod: pod, Actual: map[string]corev1.ResourceRequirements{}, Memory: map[string]*memory{}, Probes: map[string]probes.Result{},
		Starting: map[string]bool{}, Killing: map[string]time.Time{}, Dropping: map[string]bool{},
		Restarting: restartingOf(pod),
	}
	return w
}

// update takes a new version of the pod from its source; the caller syncs. What
// resources it asks for anew is not granted by that.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.state.Asked
	if newer(pod, old) != pod {
		return // it is told of in two ways, and the other was faster
	}
	w.state.Asked = pod
	w.state.Pod = withResources(pod, resourcesOf(w.state.Pod))
	// An ephemeral container may be the first that uses a volume.
	if len(old.Spec.EphemeralContainers) != len(pod.Spec.EphemeralContainers) || !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations) {
		w.state.VolumesStale = true
	}
	w.watchReferences()
}

// gone is called when the pod has left its source.
func (w *worker) gone() {
	w.mu.Lock()
	w.state.Gone = true
	w.mu.Unlock()
	w.sync()
}

// watchReferences keeps the objects that the pod names under watch. Call with
// the lock held.
func (w *worker) watchReferences() {
	configs, secrets := references(w.state.Pod)
	if w.done {
		configs, secrets = nil, nil
	}
	follow(w.k.configMaps.add, w.k.configMaps.release, w.configs, configs)
	follow(w.k.secrets.add, w.k.secrets.release, w.secrets, secrets)
	w.configs, w.secrets = configs, secrets
}

func follow(add, release func(objectKey), old, now map[objectKey]bool) {
	for key := range now {
		if !old[key] {
			add(key)
		}
	}
	for key := range old {
		if !now[key] {
			release(key)
		}
	}
}

// objectChanged is called when a ConfigMap or Secret that the pod may refer to
// has changed.
func (w *worker) objectChanged(config bool, key objectKey) {
	w.mu.Lock()
	refs := w.secrets
	if config {
		refs = w.configs
	}
	hit := refs[key]
	if hit {
		w.state.VolumesStale = true
		w.state.VolumesRetry = time.Time{}
		for _, m := range w.state.Memory {
			if m.Waiting.Reason == createContainerConfigError {
				m.RetryAt = time.Time{}
			}
		}
	}
	w.mu.Unlock()
	if hit {
		w.sync()
	}
}

// bundlesChanged has the volumes of a pod that shows trust bundles read again.
func (w *worker) bundlesChanged() {
	w.mu.Lock()
	hit := w.state.Pod != nil && slices.ContainsFunc(w.state.Pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
	if hit {
		w.state.VolumesStale, w.state.VolumesRetry = true, time.Time{}
	}
	w.mu.Unlock()
	if hit {
		w.sync()
	}
}

// sync plans and sets the plan's operations going. It never blocks. A panic
// costs this round only.
func (w *worker) sync() { w.k.guard("plan", w.step) }

func (w *worker) step() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || w.ctx.Err() != nil {
		return
	}
	begun := w.k.cfg.Clock.Now()
	s := w.snapshot()
	p := makePlan(s)
	if p.Ending && s.EndingSince.IsZero() {
		w.beginEnd(s)
		p = makePlan(s)
	}
	if p.End != nil && s.Ended == nil && s.Rejected == nil {
		s.Ended = p.End
		w.k.recorder.Event(s.Pod, corev1.EventTypeNormal, p.End.Reason, p.End.Message)
	}
	w.takeRestart(&p)
	if p.Restarted {
		p = makePlan(s)
	}
	w.announce(&p)
	w.finishResize(&p)
	w.apply(&p)
	w.publish(&p)
	w.counted(begun)
	w.tellStopped()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if !p.Wake.IsZero() {
		w.timer = w.k.cfg.Clock.AfterFunc(max(p.Wake.Sub(w.k.cfg.Clock.Now()), 0), w.sync)
	}
}

// counted enters one round that began at a time.
func (w *worker) counted(begun time.Time) {
	what := "sync"
	switch {
	case w.steps == 0 && !w.starting.seen.IsZero():
		what = "create"
		w.k.counts.taken.Observe(begun.Sub(w.starting.seen).Seconds())
	case w.state.Released:
		what = "terminated"
	case !w.state.EndingSince.IsZero():
		what = "terminating"
	}
	w.steps++
	w.k.counts.synced.WithLabelValues(what).Observe(w.k.cfg.Clock.Since(begun).Seconds())
}

// snapshot brings the state up to now.
func (w *worker) snapshot() *podState {
	s := &w.state
	s.Now = w.k.cfg.Clock.Now()
	s.Sandboxes = slices.Collect(maps.Values(w.sandboxes))
	s.Containers = slices.Collect(maps.Values(w.containers))
	sortNewestFirst(s.Sandboxes, s.Containers)
	s.keepActual()
	clear(s.Probes)
	for _, c := range s.Containers {
		if c.running() {
			s.Probes[c.Id] = w.k.probes.Result(c.Id)
		}
	}
	return s
}

// beginEnd marks when a pod began to end: nothing new is started any more.
func (w *worker) beginEnd(s *podState) {
	s.EndingSince = s.Now
	for _, cancel := range w.cancels {
		cancel()
	}
	if c := findCondition(s.Pod.Status.Conditions, corev1.PodReady); s.deleting() && c != nil && c.Status == corev1.ConditionTrue {
		w.drain()
	}
}

// maxDrain bounds the wait for proxies: a machine under load may take seconds.
const maxDrain = 5 * time.Second

// drain waits until nothing new is sent to the pod, as far as the node can
// tell. Call with the lock held.
func (w *worker) drain() {
	s := &w.state
	if w.k.cfg.Drain == nil || s.grace() <= time.Second {
		return
	}
	s.Draining = true
	pod, most := s.Pod, min(maxDrain, s.grace()/2)
	w.run("drain", false, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		w.k.cfg.Drain(ctx, pod)
	}, func() { s.Draining = false })
}

// announce tells of back-offs that begin.
func (w *worker) announce(p *plan) {
	pod := w.state.Pod
	for name, why := range p.Waiting {
		if w.waiting[name].Reason == why.Reason {
			continue
		}
		c, kind := findContainer(&pod.Spec, name)
		switch {
		case c == nil:
		case why.Reason == imagePullBackOff:
			w.k.containerEvent(pod, kind, name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", w.memoryOf(name).Pull)
			w.k.containerEvent(pod, kind, name, corev1.EventTypeWarning, "Failed", "Error: %s", imagePullBackOff)
		case why.Reason == crashLoopBackOff:
			w.k.containerEvent(pod, kind, name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", name, podTitle(pod))
		}
	}
	w.waiting = p.Waiting
}

// publish hands the pod's status on.
func (w *worker) publish(p *plan) {
	s := &w.state
	old := s.Pod.Status.Phase
	if (old == corev1.PodFailed || old == corev1.PodSucceeded) && len(s.Containers) == 0 {
		return // the API's word is the last
	}
	if s.Gone {
		return
	}
	s.Devices = w.k.deviceHealth(s.Pod)
	st := makeStatus(s, p, w.k.facts)
	w.k.counts.ran(&w.starting, s.Pod, st, s.Now)
	w.k.status.set(s.Pod, st, w.static)
	if w.static && !equality.Semantic.DeepEqual(&s.Pod.Status, st) {
		// Nobody else keeps a static pod's status.
		pod := *s.Pod
		pod.Status = *st
		s.Pod = &pod
	}
}

// run starts an operation unless one with the same key is under way. op gets
// a context that ends when the pod does; finish runs with the lock held.
func (w *worker) run(key string, cancellable bool, op func(ctx context.Context), finish func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	if cancellable {
		w.cancels[key] = cancel
	}
	w.k.ops.Go(func() {
		defer cancel()
		w.k.guard(key, func() { op(ctx) })
		w.mu.Lock()
		delete(w.cancels, key)
		finish()
		w.mu.Unlock()
		w.sync()
	})
}

// memoryOf returns what is remembered of a container, making it at first use.
// Call with the lock held.
func (w *worker) memoryOf(name string) *memory {
	m := w.state.Memory[name]
	if m == nil {
		m = &memory{}
		w.state.Memory[name] = m
	}
	return m
}

// runningID returns the id of a running container, "" if there is none.
func (w *worker) runningID(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.containers {
		if c.name() == name && c.running() {
			return c.Id
		}
	}
	return ""
}

// finish forgets the worker once its pod has left the node.
func (w *worker) finish() {
	w.done = true
	w.tellStopped()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.watchReferences()
	w.cancel()
	uid := w.uid
	w.k.ops.Go(func() { w.k.forget(uid) })
}
