package kubelet

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the runtime and the node have against what the kubelet knows: at start,
// and whenever events may have been lost.

// clearOrphans stops pods that the runtime has and no source knows, and
// removes folders and cgroups that belong to none.
func (k *Kubelet) clearOrphans() {
	k.mu.Lock()
	var orphans []*worker
	if k.staticListed() {
		for uid, f := range k.found {
			k.counts.orphans.Inc()
			w := k.add(orphanPod(uid, f), false)
			w.state.Gone = true
			orphans = append(orphans, w)
		}
	}
	known := map[types.UID]bool{}
	for uid := range k.workers {
		known[uid] = true
	}
	for uid := range k.found {
		known[uid] = true
	}
	k.mu.Unlock()
	for _, w := range orphans {
		w.sync()
	}
	k.sweep(known)
	k.ops.Go(func() { k.csi.Sweep(k.ctx, k.knows) })
	k.exclusive.Keep(known)
	k.dropClaims(known)
	k.shareCPUs()
	k.unlinkLogs()
}

// sweep removes what pods that are no more have left on disk and in cgroups.
func (k *Kubelet) sweep(known map[types.UID]bool) {
	uids, err := k.volumes.Pods()
	if err != nil {
		k.log.Warn("cannot list the pods' folders", "error", err)
	}
	for _, uid := range uids {
		if !known[uid] && !k.csi.Holds(uid) {
			if err := k.volumes.Remove(k.ctx, uid); err != nil {
				k.log.Warn("cannot remove the folder of a pod that is gone", "uid", uid, "error", err)
			}
		}
	}
	groups, err := k.cgroups.Pods()
	if err != nil {
		k.log.Warn("cannot list the pods' cgroups", "error", err)
	}
	for class, names := range groups {
		for _, n := range names {
			if uid := types.UID(n[len("pod"):]); !known[uid] {
				if err := k.cgroups.RemovePod(class, n); err != nil {
					k.log.Warn("cannot remove the cgroup of a pod that is gone", "uid", uid, "error", err)
				}
			}
		}
	}
}

// orphanPod makes up as much of a pod as it takes to end it.
func orphanPod(uid types.UID, f *foundPod) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Name: f.name, Namespace: f.namespace}}
	var names []string
	for _, c := range f.containers {
		names = append(names, c.name())
	}
	for _, n := range unique(names) {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n})
	}
	for _, c := range f.containers {
		if g, err := parseInt(c.Annotations[annotationPodTerminationTime]); err == nil {
			pod.Spec.TerminationGracePeriodSeconds = &g
		}
	}
	return pod
}

// reobserve compares what the kubelet knows with what the runtime has: at
// start, and whenever events may have been lost.
func (k *Kubelet) reobserve(ctx context.Context) bool {
	all, err := k.list(ctx, nil)
	if err != nil {
		k.log.Warn("cannot list the runtime's containers", "error", err)
		return false
	}
	if k.facts.Runtime == "" {
		if v, err := k.cfg.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
			k.facts.Runtime = v.RuntimeName
		}
	}
	k.mu.Lock()
	var ws []*worker
	for uid, f := range all {
		if k.workers[uid] == nil {
			k.found[uid] = f
		}
	}
	for _, w := range k.workers {
		ws = append(ws, w)
	}
	k.mu.Unlock()
	for _, w := range ws {
		w.adopt(all[w.uid])
		w.sync()
	}
	k.nudgeNode()
	return true
}
