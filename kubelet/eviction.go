package kubelet

import (
	"context"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

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
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", s.resource, s.quantity(s.Limit), s.quantity(s.Available))
	for i := range u.pod.Spec.Containers {
		c := &u.pod.Spec.Containers[i]
		q := c.Resources.Requests[s.resource]
		if used := u.by[c.Name]; used > q.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, kibi(s, used), q.String(), s.resource)
		}
	}
	return b.String()
}

// kibi rounds bytes up to what a person reads.
func kibi(s signal, n int64) string {
	if s.resource == resourceInodes || s.resource == resourcePIDs {
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
	passed, due := k.shortOf(imageFS, now)
	if onlyDisk(due) {
		k.purgeEnded()
		k.freeImages(ctx, now, math.MaxInt64)
		passed, due = k.shortOf(imageFS, now)
	}
	k.shortMu.Lock()
	for _, s := range passed {
		k.short[s.condition] = now
	}
	k.shortMu.Unlock()
	if k.pressure() != before {
		k.nudgeNode()
	}
	if len(due) > 0 {
		k.evictOne(ctx, due[0])
	}
}

// shortOf says which thresholds the node has passed, and which are due.
func (k *Kubelet) shortOf(imageFS string, now time.Time) (passed, due []signal) {
	return k.cfg.Eviction.shortages(k.measureNode(imageFS), k.passed, now)
}

// onlyDisk says that the node is short of disk space and not of memory, which
// removing images does not free.
func onlyDisk(due []signal) bool {
	return len(due) > 0 && due[0].condition == corev1.NodeDiskPressure
}

// evictionWait is how long an ending pod gets before another is evicted.
const evictionWait = 30 * time.Second

// evictOne ends the pod that comes first, unless one is still on its way out.
func (k *Kubelet) evictOne(ctx context.Context, s signal) {
	k.recorder.Eventf(nodeRef(k.cfg.NodeName), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", s.resource)
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
	uses := k.uses(ctx, s.resource, workers)
	if len(uses) == 0 {
		k.log.Warn("the node is short of a resource, and has no pod that it may evict", "resource", s.resource, "available", s.Available)
		return
	}
	evictFirst(uses, s.resource)
	w := workers[uses[0].pod.UID]
	k.log.Warn("evict a pod", "pod", podTitle(uses[0].pod), "resource", s.resource, "available", s.Available)
	grace := minEvictionGrace
	if s.threshold.Grace > 0 {
		grace = max(grace, k.cfg.Eviction.MaxPodGrace)
	}
	k.counts.evictions.WithLabelValues(s.threshold.Signal).Inc()
	w.evict(evictionMessage(s, &uses[0]), grace, false)
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
		case resourcePIDs:
			if n, err := k.cgroups.Processes(podCgroup(u.pod)); err == nil {
				add(u, "", n)
			}
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

// minEvictionGrace is what the pods of hard evictions get to end.
const minEvictionGrace = time.Second

// evict ends a pod for the node's sake, or (overran) for passing a limit of its
// own, within grace if its own grace period is not shorter.
func (w *worker) evict(message string, grace time.Duration, overran bool) {
	w.mu.Lock()
	s := &w.state
	if s.Ended != nil || s.Rejected != nil || s.deleting() || w.done {
		w.mu.Unlock()
		return
	}
	s.Ended, s.EndGrace, s.Overran = &reason{evicted, message}, grace, overran
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
