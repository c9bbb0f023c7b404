package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Periods of what nothing tells of. They ride on the node's signs of life, so
// that an idle node wakes up no more often for them.
const (
	upkeepPeriod = 10 * time.Second
	relistPeriod = 60 * time.Second
)

// upkeep looks after what no event tells of: logs that grew, a disk that
// fills, memory that runs short, events that were lost. Only one runs at a
// time; what takes long does not keep the node's lease from being renewed.
func (k *Kubelet) upkeep(ctx context.Context) {
	if !k.keeping.CompareAndSwap(false, true) {
		return
	}
	k.ops.Go(func() {
		defer k.keeping.Store(false)
		k.guard("upkeep", func() {
			now := k.cfg.Clock.Now()
			k.rotateLogs(ctx)
			k.relieve(ctx, now)
			k.enforceStorage(ctx)
			if since := now.Sub(k.relisted); since >= relistPeriod {
				if !k.relisted.IsZero() {
					k.counts.relistGap.Observe(since.Seconds())
				}
				k.relisted = now
				k.compare(ctx)
				k.retryResizes()
			}
			if k.cfg.Upkept != nil {
				k.cfg.Upkept()
			}
		})
	})
}

// compare holds the states of the containers that the kubelet knows against
// the runtime's, in two calls: an event may have been lost.
func (k *Kubelet) compare(ctx context.Context) {
	workers := k.allWorkers()
	if len(workers) == 0 {
		return
	}
	begun := k.cfg.Clock.Now()
	sbs, err := k.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return // the event stream tells when it is back
	}
	cs, err := k.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return
	}
	listed := k.cfg.Clock.Now()
	k.counts.heard(listed)
	k.counts.relisted.Observe(listed.Sub(begun).Seconds())
	type states struct {
		sandboxes  map[string]runtimeapi.PodSandboxState
		containers map[string]runtimeapi.ContainerState
	}
	by := map[types.UID]*states{}
	at := func(labels map[string]string) *states {
		uid := types.UID(labels[labelUID])
		if by[uid] == nil {
			by[uid] = &states{map[string]runtimeapi.PodSandboxState{}, map[string]runtimeapi.ContainerState{}}
		}
		return by[uid]
	}
	for _, s := range sbs.Items {
		at(s.Labels).sandboxes[s.Id] = s.State
	}
	for _, c := range cs.Containers {
		at(c.Labels).containers[c.Id] = c.State
	}
	for _, w := range workers {
		has := by[w.uid]
		if has == nil {
			has = &states{}
		}
		if w.knows(has.sandboxes, has.containers) {
			continue
		}
		k.log.Info("the runtime has another state of a pod than its events told", "uid", w.uid)
		w.relist(ctx)
		w.sync()
	}
}

// knows says that the worker knows of just these sandboxes and containers.
// While it works on them itself nothing can be said.
func (w *worker) knows(sandboxes map[string]runtimeapi.PodSandboxState, containers map[string]runtimeapi.ContainerState) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.state
	if s.Sandboxing || s.Releasing || s.Removing || len(s.Starting)+len(s.Killing)+len(s.Dropping) > 0 || w.done {
		return true
	}
	if len(sandboxes) != len(w.sandboxes) || len(containers) != len(w.containers) {
		return false
	}
	for id, sb := range w.sandboxes {
		if st, ok := sandboxes[id]; !ok || st != sb.State {
			return false
		}
	}
	for id, c := range w.containers {
		if st, ok := containers[id]; !ok || st != c.State {
			return false
		}
	}
	return true
}

func (k *Kubelet) allWorkers() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*worker, 0, len(k.workers))
	for _, w := range k.workers {
		out = append(out, w)
	}
	return out
}

// containerLink is where collectors of logs look for a container's log:
// <pod>_<namespace>_<container>-<id>.log.
func (k *Kubelet) containerLink(pod, namespace, container, id string) string {
	return filepath.Join(k.cfg.ContainerLogDir, pod+"_"+namespace+"_"+container+"-"+id+".log")
}

// linkLog points the collectors to a container's log.
func (k *Kubelet) linkLog(link, log string) {
	if k.cfg.ContainerLogDir == "" {
		return
	}
	if err := os.Symlink(log, link); err != nil && !os.IsExist(err) {
		k.log.Warn("cannot link a container's log", "link", link, "error", err)
	}
}

// unlinkLogs removes links whose logs are gone.
func (k *Kubelet) unlinkLogs() {
	if k.cfg.ContainerLogDir == "" {
		return
	}
	links, err := os.ReadDir(k.cfg.ContainerLogDir)
	if err != nil {
		return
	}
	for _, l := range links {
		path := filepath.Join(k.cfg.ContainerLogDir, l.Name())
		if _, err := os.Stat(path); os.IsNotExist(err) && l.Type()&os.ModeSymlink != 0 {
			os.Remove(path)
		}
	}
}
