package kubelet

import (
	"context"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Thresholds are the limits of hard eviction: a node that has less left evicts
// pods (documentation "Node-pressure Eviction"). Shares are of the whole file
// system, from 0 to 1.
type Thresholds struct {
	NodeFS, NodeInodes   float64 // default 0.10 and 0.05
	ImageFS, ImageInodes float64 // default 0.15 and 0.05
	PIDs                 int64   // process ids; 0, the default, for no limit
	// Transition is how long a condition stays after the pressure has gone;
	// default 5 minutes.
	Transition time.Duration
}

func (t *Thresholds) setDefaults() {
	setDefault(&t.NodeFS, 0.10)
	setDefault(&t.NodeInodes, 0.05)
	setDefault(&t.ImageFS, 0.15)
	setDefault(&t.ImageInodes, 0.05)
	setDefault(&t.Transition, 5*time.Minute)
}

// signal is something that a node can run short of.
type signal struct {
	// Name is the resource as messages name it; Condition is what the node
	// shows while it is short.
	Name      corev1.ResourceName
	Condition corev1.NodeConditionType
	// Available and Limit are in bytes or counts; the node is short when the
	// first is below the second.
	Available, Limit int64
}

const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePIDs   corev1.ResourceName = "pids"
)

func (s signal) short() bool { return s.Available < s.Limit }

func (s signal) quantity(n int64) string {
	if s.Name == resourceInodes || s.Name == resourcePIDs {
		return resource.NewQuantity(n, resource.DecimalSI).String()
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

// readSignals measures the node. imageFS is a folder on the runtime's file
// system, "" if unknown.
func (k *Kubelet) readSignals(imageFS string) []signal {
	t := &k.cfg.Eviction
	var out []signal
	if avail, ok := memInfo()["MemAvailable"]; ok {
		out = append(out, signal{corev1.ResourceMemory, corev1.NodeMemoryPressure, avail, k.cfg.EvictionMemory})
	}
	out = append(out, diskSignals(k.cfg.RootDir, t.NodeFS, t.NodeInodes)...)
	if imageFS != "" {
		out = append(out, diskSignals(imageFS, t.ImageFS, t.ImageInodes)...)
	}
	if t.PIDs > 0 {
		if left, ok := pidsLeft(); ok {
			out = append(out, signal{resourcePIDs, corev1.NodePIDPressure, left, t.PIDs})
		}
	}
	return out
}

func diskSignals(path string, bytes, inodes float64) []signal {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil || st.Blocks == 0 {
		return nil
	}
	share := func(n uint64, f float64) int64 { return int64(math.Ceil(float64(n) * f)) }
	size := uint64(st.Bsize)
	out := []signal{{corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure, int64(st.Bavail * size), share(st.Blocks*size, bytes)}}
	if st.Files > 0 {
		out = append(out, signal{resourceInodes, corev1.NodeDiskPressure, int64(st.Ffree), share(st.Files, inodes)})
	}
	return out
}

// pidsLeft is how many processes the kernel still allows.
func pidsLeft() (int64, bool) {
	most, err := parseInt(firstLine("/proc/sys/kernel/pid_max"))
	if err != nil {
		return 0, false
	}
	// "0.00 0.01 0.05 2/345 6789": running and all tasks.
	w := strings.Fields(firstLine("/proc/loadavg"))
	if len(w) < 4 {
		return 0, false
	}
	_, all, _ := strings.Cut(w[3], "/")
	n, err := parseInt(all)
	return most - n, err == nil
}

// use is what a pod uses of the resource that is short.
type use struct {
	pod   *corev1.Pod
	total int64
	by    map[string]int64 // by container
}

// request is what the pod was promised; nothing is promised of inodes and
// process ids.
func (u *use) request(name corev1.ResourceName) int64 {
	r := resourcehelper.PodRequests(u.pod, resourcehelper.PodResourcesOptions{})
	q := r[name]
	return q.Value()
}

// evictFirst orders pods: those that use more than they asked for come first,
// then those of lower priority, then those that use most beyond it.
func evictFirst(uses []use, name corev1.ResourceName) {
	sort.SliceStable(uses, func(i, j int) bool {
		a, b := &uses[i], &uses[j]
		overA, overB := a.total-a.request(name), b.total-b.request(name)
		if (overA > 0) != (overB > 0) {
			return overA > 0
		}
		if pa, pb := podPriority(a.pod), podPriority(b.pod); pa != pb {
			return pa < pb
		}
		return overA > overB
	})
}

// evictable says that a pod may be evicted: static and critical ones may not.
func evictable(pod *corev1.Pod, static bool) bool {
	const systemCritical = 2_000_000_000
	return !static && podPriority(pod) < systemCritical
}

// evictionMessage is the pod's status and event.
func evictionMessage(s signal, u *use) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", s.Name, s.quantity(s.Limit), s.quantity(s.Available))
	for i := range u.pod.Spec.Containers {
		c := &u.pod.Spec.Containers[i]
		q := c.Resources.Requests[s.Name]
		if used := u.by[c.Name]; used > q.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, kibi(s, used), q.String(), s.Name)
		}
	}
	return b.String()
}

// kibi rounds bytes up to what a person reads.
func kibi(s signal, n int64) string {
	if s.Name == resourceInodes || s.Name == resourcePIDs {
		return s.quantity(n)
	}
	return fmt.Sprintf("%dKi", (n+1023)/1024)
}

// pressures remembers when the node was last short of something.
type pressures map[corev1.NodeConditionType]time.Time

// under lists the conditions that hold at now.
func (p pressures) under(now time.Time, transition time.Duration) pressure {
	held := func(t corev1.NodeConditionType) bool {
		at, ok := p[t]
		return ok && now.Sub(at) < transition
	}
	return pressure{memory: held(corev1.NodeMemoryPressure), disk: held(corev1.NodeDiskPressure), pids: held(corev1.NodePIDPressure)}
}

// pressure says what the node is short of, or was a while ago.
func (k *Kubelet) pressure() pressure {
	k.shortMu.Lock()
	defer k.shortMu.Unlock()
	return k.short.under(k.cfg.Clock.Now(), k.cfg.Eviction.Transition)
}

// relieve frees what the node is short of: dead containers and unused images
// first, then one pod. The next round sees whether it was enough.
func (k *Kubelet) relieve(ctx context.Context, now time.Time) {
	imageFS := k.imageFS(ctx)
	k.collectImages(ctx, now, imageFS)
	before := k.pressure()
	var worst *signal
	signals := k.readSignals(imageFS)
	if shortOf(signals, corev1.NodeDiskPressure) && !shortOf(signals, corev1.NodeMemoryPressure) {
		k.purgeEnded()
		k.freeImages(ctx, now, math.MaxInt64)
		signals = k.readSignals(imageFS)
	}
	k.shortMu.Lock()
	for i := range signals {
		if s := &signals[i]; s.short() {
			k.short[s.Condition] = now
			if worst == nil {
				worst = s // memory stands first
			}
		}
	}
	k.shortMu.Unlock()
	if k.pressure() != before {
		k.nudgeNode()
	}
	if worst != nil {
		k.evictOne(ctx, *worst)
	}
}

func shortOf(signals []signal, condition corev1.NodeConditionType) bool {
	for _, s := range signals {
		if s.Condition == condition && s.short() {
			return true
		}
	}
	return false
}

// evictionWait is how long an ending pod gets before another is evicted.
const evictionWait = 30 * time.Second

// evictOne ends the pod that comes first, unless one is still on its way out.
func (k *Kubelet) evictOne(ctx context.Context, s signal) {
	k.recorder.Eventf(nodeRef(k.cfg.NodeName), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", s.Name)
	workers := map[types.UID]*worker{}
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		pod, since, over := w.state.Pod, w.state.EndingSince, w.state.Released || w.state.Rejected != nil
		w.mu.Unlock()
		if !since.IsZero() && !over && k.cfg.Clock.Since(since) < evictionWait {
			return
		}
		if !over && since.IsZero() && evictable(pod, w.static) {
			workers[w.uid] = w
		}
	}
	uses := k.uses(ctx, s.Name, workers)
	if len(uses) == 0 {
		k.log.Warn("the node is short of a resource, and has no pod that it may evict", "resource", s.Name, "available", s.Available)
		return
	}
	evictFirst(uses, s.Name)
	w := workers[uses[0].pod.UID]
	k.log.Warn("evict a pod", "pod", podTitle(uses[0].pod), "resource", s.Name, "available", s.Available)
	w.evict(evictionMessage(s, &uses[0]))
}

// uses measures what pods use of a resource.
func (k *Kubelet) uses(ctx context.Context, name corev1.ResourceName, workers map[types.UID]*worker) []use {
	by := map[types.UID]*use{}
	for uid, w := range workers {
		w.mu.Lock()
		by[uid] = &use{pod: w.state.Pod, by: map[string]int64{}}
		w.mu.Unlock()
	}
	add := func(u *use, container string, n int64) {
		u.total += n
		if container != "" {
			u.by[container] += n
		}
	}
	res, err := k.cfg.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		k.log.Warn("cannot read what containers use", "error", err)
	}
	written := readLayers()
	for _, st := range res.GetStats() {
		l := st.GetAttributes().GetLabels()
		u := by[types.UID(l[labelUID])]
		if u == nil {
			continue
		}
		switch name {
		case corev1.ResourceMemory:
			add(u, l[labelContainer], int64(st.GetMemory().GetWorkingSetBytes().GetValue()))
		case corev1.ResourceEphemeralStorage:
			n, _ := written.usage(st)
			add(u, l[labelContainer], n)
		case resourceInodes:
			_, n := written.usage(st)
			add(u, l[labelContainer], n)
		}
	}
	var out []use
	for _, u := range by {
		switch name {
		case corev1.ResourceEphemeralStorage, resourceInodes:
			bytes, inodes := k.localUse(u.pod)
			n := bytes
			if name == resourceInodes {
				n = inodes
			}
			add(u, "", n)
		}
		out = append(out, *u)
	}
	return out
}

// evict ends a pod for the node's sake, at once.
func (w *worker) evict(message string) {
	w.mu.Lock()
	s := &w.state
	if s.Ended != nil || s.Rejected != nil || s.deleting() || w.done {
		w.mu.Unlock()
		return
	}
	s.Ended, s.EndGrace = &reason{evicted, message}, time.Second
	pod := s.Pod
	w.mu.Unlock()
	w.k.recorder.Event(pod, corev1.EventTypeWarning, evicted, message)
	w.sync()
}

// evicted is the reason of pods that the node ended or refused for lack of
// resources.
const evicted = "Evicted"

// admitUnderPressure refuses pods that a node short of something cannot take.
func admitUnderPressure(pod *corev1.Pod, p pressure, static bool) *reason {
	if !evictable(pod, static) {
		return nil
	}
	var held []corev1.NodeConditionType
	tolerates := false
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		tolerates = tolerates || (t.Key == corev1.TaintNodeMemoryPressure || t.Key == "" && t.Operator == corev1.TolerationOpExists) &&
			(t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule)
	}
	if p.memory && qosClass(pod) == corev1.PodQOSBestEffort && !tolerates {
		held = append(held, corev1.NodeMemoryPressure)
	}
	if p.disk {
		held = append(held, corev1.NodeDiskPressure)
	}
	if p.pids {
		held = append(held, corev1.NodePIDPressure)
	}
	if len(held) == 0 {
		return nil
	}
	return &reason{evicted, fmt.Sprintf("The node had condition: %v. ", held)}
}

// purgeEnded removes the containers of pods that have ended; what their API
// objects say stays.
func (k *Kubelet) purgeEnded() {
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		w.state.Purge = w.state.Released && len(w.containers) > 0
		purge := w.state.Purge
		w.mu.Unlock()
		if purge {
			w.sync()
		}
	}
}

// imageFS is where the runtime keeps its images, "" while it does not tell.
func (k *Kubelet) imageFS(ctx context.Context) string {
	if k.imageDir == "" {
		res, err := k.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
		if err != nil || len(res.GetImageFilesystems()) == 0 {
			return ""
		}
		dir := res.ImageFilesystems[0].GetFsId().GetMountpoint()
		if _, err := os.Stat(dir); err == nil {
			k.imageDir = dir
		}
	}
	return k.imageDir
}
