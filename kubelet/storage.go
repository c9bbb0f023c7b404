package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/kubelet/volumes"
)

// storageUse is what a pod has written to the node's disk, in bytes.
type storageUse struct {
	emptyDirs  map[string]int64 // by volume; those in memory are not counted
	containers map[string]int64 // writable layer and logs
	total      int64
}

// limitsStorage says that something bounds what the pod may write.
func limitsStorage(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		if q, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]; ok && q.Sign() > 0 {
			return true
		}
	}
	return false
}

// storageExceeded says which limit a pod has broken, "" for none.
func storageExceeded(pod *corev1.Pod, u *storageUse) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if u.emptyDirs[v.Name] > v.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	if q, ok := limits[corev1.ResourceEphemeralStorage]; ok && q.Sign() > 0 && everyContainerLimits(pod) && u.total > q.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if q, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]; ok && q.Sign() > 0 && u.containers[c.Name] > q.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
	}
	return ""
}

func everyContainerLimits(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]; !ok {
			return false
		}
	}
	return true
}

// enforceStorage evicts pods that have written more than they may. Only pods
// with a limit are measured.
func (k *Kubelet) enforceStorage(ctx context.Context) {
	if k.cfg.Containers.NoStorageLimits {
		return
	}
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		pod, over := w.state.Pod, !w.state.EndingSince.IsZero()
		w.mu.Unlock()
		if over || !limitsStorage(pod) {
			continue
		}
		if message := storageExceeded(pod, k.measure(ctx, pod)); message != "" {
			w.evict(message, minEvictionGrace, true)
		}
	}
}

// measure finds what a pod has written.
func (k *Kubelet) measure(ctx context.Context, pod *corev1.Pod) *storageUse {
	u := &storageUse{emptyDirs: map[string]int64{}, containers: map[string]int64{}}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil {
			continue
		}
		if dir, err := k.volumes.Path(pod, v.Name); err == nil {
			u.emptyDirs[v.Name], _ = volumes.Usage(dir)
			if v.EmptyDir.Medium == corev1.StorageMediumDefault {
				u.total += u.emptyDirs[v.Name]
			}
		}
	}
	logs, _ := volumes.Usage(k.podLogDir(pod))
	u.total += logs
	res, err := k.cfg.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{labelUID: string(pod.UID)}},
	})
	if err != nil {
		k.log.Warn("cannot read what a pod's containers have written", "pod", podTitle(pod), "error", err)
	}
	written := readLayers()
	for _, st := range res.GetStats() {
		n, _ := written.usage(st)
		u.containers[st.GetAttributes().GetLabels()[labelContainer]] += n
		u.total += n
	}
	for i := range pod.Spec.Containers {
		name := pod.Spec.Containers[i].Name
		n, _ := volumes.Usage(k.podLogDir(pod) + "/" + name)
		u.containers[name] += n
	}
	return u
}

// localUse is what a pod has in emptyDirs on disk and in logs: bytes and
// inodes.
func (k *Kubelet) localUse(pod *corev1.Pod) (bytes, inodes int64) {
	bytes, inodes = volumes.Usage(k.podLogDir(pod))
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
			continue
		}
		if dir, err := k.volumes.Path(pod, v.Name); err == nil {
			b, n := volumes.Usage(dir)
			bytes, inodes = bytes+b, inodes+n
		}
	}
	return bytes, inodes
}

// writableLayers finds the folders in which the kernel keeps what running
// containers have written to their root file systems, by container id: a
// runtime's own numbers can be hours old. Only overlay mounts tell.
func writableLayers(mounts []mountinfo.Mount) map[string]string {
	out := map[string]string{}
	for _, m := range mounts {
		// <state>/<container>/rootfs
		dir, base := filepath.Split(m.Point)
		if m.Type != "overlay" || base != "rootfs" {
			continue
		}
		for _, o := range m.Options {
			if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
				out[filepath.Base(dir)] = upper
			}
		}
	}
	return out
}

// layers measures what containers have written to their root file systems:
// bytes and inodes, by container id.
type layers struct{ dirs map[string]string }

func readLayers() layers {
	mounts, _ := mountinfo.Read()
	return layers{writableLayers(mounts)}
}

func (l layers) usage(st *runtimeapi.ContainerStats) (bytes, inodes int64) {
	if dir := l.dirs[st.GetAttributes().GetId()]; dir != "" {
		return volumes.Usage(dir)
	}
	return int64(st.GetWritableLayer().GetUsedBytes().GetValue()), int64(st.GetWritableLayer().GetInodesUsed().GetValue())
}
