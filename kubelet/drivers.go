package kubelet

import (
	"context"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/csi"
)

// newCSI makes what has CSI drivers put volumes in place.
func (k *Kubelet) newCSI() {
	k.csi = csi.New(csi.Config{
		Client: k.cfg.Client, NodeName: k.cfg.NodeName, PluginDir: k.cfg.PluginDir,
		PodsDir: filepath.Join(k.cfg.RootDir, "pods"), PodDir: k.volumes.PodDir,
		Token: k.driverToken, Changed: k.driverCame, InUseChanged: k.nudgeNode,
		Events: func() client.Recorder { return k.recorder }, Log: k.log, Clock: k.cfg.Clock,
	})
	k.volumes.CSI = k.csi
}

// driverToken makes a token of a pod's account for a CSI driver.
func (k *Kubelet) driverToken(ctx context.Context, pod *corev1.Pod, audience string, seconds *int64) (string, time.Time, error) {
	t, err := k.tokens.get(ctx, pod, &corev1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: seconds})
	return t.value, t.expires, err
}

// driverCame has pods try again that may have waited for a CSI driver, be it
// to start or to end.
func (k *Kubelet) driverCame() {
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		waits := !w.state.VolumesRetry.IsZero() && !w.state.VolumesMounted
		if waits {
			w.state.VolumesRetry = time.Time{}
		}
		w.mu.Unlock()
		if waits {
			w.sync()
		}
		w.tryAgain()
	}
}

// knows says that there is a pod of this uid, or what is left of one.
func (k *Kubelet) knows(uid types.UID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid] != nil || k.found[uid] != nil
}

// volumeDevices adds the block devices of a container's volumes to its
// configuration.
func (k *Kubelet) volumeDevices(pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) error {
	for _, d := range c.VolumeDevices {
		path, err := k.volumes.Device(pod, d.Name)
		if err != nil {
			return err
		}
		permissions := "mrw"
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.Name == d.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly {
				permissions = "r"
			}
		}
		cfg.Devices = append(cfg.Devices, &runtimeapi.Device{ContainerPath: d.DevicePath, HostPath: path, Permissions: permissions})
	}
	return nil
}

// VolumeStats are how full a pod's volumes of CSI drivers are, as far as these
// tell.
func (k *Kubelet) VolumeStats(ctx context.Context, pod *corev1.Pod) []stats.VolumeStats {
	if !k.csi.Holds(pod.UID) {
		return nil
	}
	var out []stats.VolumeStats
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		got, ok := k.csi.Stats(ctx, pod, v.Name)
		if !ok {
			continue
		}
		st := stats.VolumeStats{Name: v.Name, FsStats: stats.FsStats{Time: metav1.NewTime(got.Time)}}
		switch {
		case v.PersistentVolumeClaim != nil:
			st.PVCRef = &stats.PVCReference{Namespace: pod.Namespace, Name: v.PersistentVolumeClaim.ClaimName}
		case v.Ephemeral != nil:
			st.PVCRef = &stats.PVCReference{Namespace: pod.Namespace, Name: pod.Name + "-" + v.Name}
		}
		if got.HasBytes {
			st.CapacityBytes, st.AvailableBytes, st.UsedBytes = unsigned(got.Capacity), unsigned(got.Available), unsigned(got.Used)
		}
		if got.HasInodes {
			st.Inodes, st.InodesFree, st.InodesUsed = unsigned(got.Inodes), unsigned(got.InodesFree), unsigned(got.InodesUsed)
		}
		if got.HasHealth {
			st.VolumeHealthStats = &stats.VolumeHealthStats{Abnormal: got.Abnormal}
		}
		out = append(out, st)
	}
	return out
}

func unsigned(n int64) *uint64 {
	u := uint64(max(n, 0))
	return &u
}
