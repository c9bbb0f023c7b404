package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/kubelet/cgroups"
)

// Carrying resizes out: who asks, what the node grants, what is told to the
// runtime, and what must be known after a restart.

// asksResize says that the pod asks for other resources than it was granted.
func (w *worker) asksResize() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.state
	if w.static || s.deleting() || s.Rejected != nil || s.Ended != nil || s.Released {
		return false
	}
	if withResources(s.Asked, resourcesOf(s.Pod)) == s.Asked {
		s.Resize.Pending = nil
		return false
	}
	return true
}

// resizePods grants what pods ask for and the node has, the most important
// pods first.
func (k *Kubelet) resizePods() {
	k.mu.Lock()
	var asking []*worker
	for _, w := range k.workers {
		if w.asksResize() {
			asking = append(asking, w)
		}
	}
	sort.Slice(asking, func(i, j int) bool { return resizeBefore(asking[i].asked(), asking[j].asked()) })
	again := true
	for again {
		again = false
		for i, w := range asking {
			if w == nil {
				continue
			}
			verdict := k.resizeAlone(w.asked())
			if verdict == nil {
				verdict = resizeVerdict(w.asked(), k.node.current(), k.activePodsBut(w.uid))
			}
			if verdict == nil {
				// What it gave up may be what others wait for.
				asking[i], again = nil, true
			}
			w.decideResize(verdict)
			defer w.sync()
		}
	}
	waits := slices.ContainsFunc(asking, func(w *worker) bool { return w != nil })
	k.resizeWaits.Store(waits)
	k.updateShares()
	k.mu.Unlock()
}

// retryResizes is called when pods have given up resources.
func (k *Kubelet) retryResizes() {
	if k.resizeWaits.Load() {
		k.resizePods()
	}
}

func (w *worker) asked() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Asked
}

// decideResize grants what the pod asks for, or says why not.
func (w *worker) decideResize(no *reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.state
	r := &s.Resize
	if no != nil {
		if r.Pending == nil || *r.Pending != *no {
			w.k.recorder.Eventf(s.Asked, corev1.EventTypeWarning, "Resize"+no.Reason, "Pod resize %s: %s", no.Reason, resizeSummary(s.Asked, no.Message))
		}
		r.Pending = no
		return
	}
	if r.Cgroup == nil {
		had := podResources(s.Pod, s.Rules)
		r.Cgroup = &had
	}
	s.Pod = s.Asked
	r.Pending, r.Failed, r.Retry, r.Gap, r.Generation = nil, "", time.Time{}, 0, s.Asked.Generation
	s.VolumesStale = true // the downward API shows resources
	w.saveGrant()
	w.k.recorder.Eventf(s.Asked, corev1.EventTypeNormal, "ResizeStarted", "Pod resize started: %s", resizeSummary(s.Asked, ""))
}

// resizeSummary is what the events tell of a resize.
func resizeSummary(pod *corev1.Pod, failure string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	var sum struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sum.InitContainers = append(sum.InitContainers, container{c.Name, c.Resources})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		sum.Containers = append(sum.Containers, container{c.Name, c.Resources})
	}
	sum.Generation, sum.Error = pod.Generation, failure
	b, _ := json.Marshal(sum)
	return string(b)
}

// resize carries a grant out. Call with the lock held.
func (w *worker) resize(a *resizeAction) {
	s := &w.state
	s.Resizing = true
	pod, from, want := s.Pod, podResources(s.Pod, s.Rules), podResources(s.Pod, s.Rules)
	if s.Resize.Cgroup != nil {
		from = *s.Resize.Cgroup
	}
	now, done := from, map[string]corev1.ResourceRequirements{}
	var err error
	w.run("resize", true, func(ctx context.Context) {
		// The pod's group is never smaller than what is in it.
		class, group := podCgroup(pod)
		now = wider(from, want)
		if err = w.k.cgroups.EnsurePod(class, group, now); err != nil {
			return
		}
		for id, c := range a.Containers {
			if err = w.k.resizeContainer(ctx, pod, id, c); err != nil {
				return
			}
			done[id] = c.Resources
		}
		if a.Final {
			if err = w.k.cgroups.EnsurePod(class, group, want); err == nil {
				now = want
			}
		}
	}, func() {
		s.Resizing = false
		for id, r := range done {
			s.Actual[id] = r
		}
		s.Resize.Cgroup = &now
		if len(done) > 0 {
			w.saveGrant()
		}
		if err == nil {
			s.Resize.Failed, s.Resize.Gap, s.Resize.Retry = "", 0, time.Time{}
			return
		}
		if w.ctx.Err() != nil || !s.EndingSince.IsZero() {
			return
		}
		if s.Resize.Failed != err.Error() {
			w.k.recorder.Eventf(pod, corev1.EventTypeWarning, "ResizeError", "Pod resize error: %s", resizeSummary(pod, err.Error()))
		}
		s.Resize.Failed = err.Error()
		s.Resize.Gap = doubled(s.Resize.Gap, retryInitial, retryMax)
		s.Resize.Retry = w.k.cfg.Clock.Now().Add(s.Resize.Gap)
	})
}

func (k *Kubelet) resizeContainer(ctx context.Context, pod *corev1.Pod, id string, c *corev1.Container) error {
	r := k.resources(pod, c)
	if r.MemoryLimitInBytes > 0 {
		// Cgroups v2 would kill the container rather than refuse.
		st, err := k.cfg.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if used := int64(st.GetStats().GetMemory().GetWorkingSetBytes().GetValue()); err == nil && used > r.MemoryLimitInBytes {
			return fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Name, r.MemoryLimitInBytes, used)
		}
	}
	if _, err := k.cfg.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r}); err != nil {
		return fmt.Errorf("failed to update resources of container %q: %w", c.Name, err)
	}
	return nil
}

// finishResize tells of a resize that is done, in the course of planning.
func (w *worker) finishResize(p *plan) {
	s := &w.state
	if s.Resize.Generation == 0 || p.Resizing || p.Ending || s.Resizing {
		return
	}
	w.k.recorder.Eventf(s.Asked, corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed: %s", resizeSummary(s.Pod, ""))
	s.Resize.Generation, s.Resize.Cgroup = 0, nil
}

// grant is what must outlive a restart of the kubelet: it is kept in the
// pod's folder once the pod was resized.
type grant struct {
	Generation int64                                  `json:"generation"`
	Granted    map[string]corev1.ResourceRequirements `json:"granted"`
	Actual     map[string]corev1.ResourceRequirements `json:"actual"` // by container id
}

func (w *worker) grantFile() string {
	return filepath.Join(w.k.volumes.PodDir(w.uid), "resources.json")
}

// saveGrant writes the grant. Call with the lock held.
func (w *worker) saveGrant() {
	s := &w.state
	g := grant{Generation: s.Resize.Generation, Granted: resourcesOf(s.Pod), Actual: s.Actual}
	b, err := json.Marshal(g)
	if err == nil {
		err = atomicfile.Write(w.grantFile(), b, 0o600)
	}
	if err != nil {
		w.k.log.Warn("cannot keep what a pod was granted", "pod", podTitle(s.Pod), "error", err)
	}
}

// recallGrant takes up what a pod had been granted before the kubelet
// restarted: from its file, else what its containers were launched with.
func (w *worker) recallGrant(f *foundPod) {
	s := &w.state
	granted := map[string]corev1.ResourceRequirements{}
	created := map[string]int64{}
	for _, c := range f.containers {
		if c.Launched != nil && c.CreatedAt >= created[c.name()] {
			granted[c.name()], created[c.name()] = *c.Launched, c.CreatedAt
		}
	}
	if b, err := os.ReadFile(w.grantFile()); err == nil {
		g := grant{}
		if err := json.Unmarshal(b, &g); err != nil {
			w.k.log.Warn("what a pod was granted cannot be read", "pod", podTitle(s.Pod), "error", err)
		} else {
			for name, r := range g.Granted {
				granted[name] = r
			}
			if g.Actual != nil {
				s.Actual = g.Actual
			}
			s.Resize.Generation, s.Resize.Cgroup = g.Generation, &cgroups.Resources{}
		}
	}
	s.Pod = withResources(s.Asked, granted)
}
