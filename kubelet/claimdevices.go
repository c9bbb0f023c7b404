package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/coxswain/cox/kubelet/dra"
	"github.com/coxswain/cox/kubelet/plugins"
	"github.com/coxswain/cox/kubelet/podresources"
)

// newClaims makes what has drivers prepare the devices of resource claims.
func (k *Kubelet) newClaims() error {
	m, err := dra.New(dra.Config{Client: k.cfg.Client, NodeName: k.cfg.NodeName, Dir: k.cfg.RootDir, Log: k.log, Clock: k.cfg.Clock, Changed: k.healthChanged})
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	k.claims = m
	return nil
}

// runPlugins serves those on the node who bring or watch devices, until ctx
// ends.
func (k *Kubelet) runPlugins(ctx context.Context) {
	run := func(what string, f func() error) {
		k.ops.Go(func() {
			k.guard(what, func() {
				if err := f(); err != nil && ctx.Err() == nil {
					k.log.Error("a service of the kubelet ended", "service", what, "error", err)
				}
			})
		})
	}
	run("device plugins", func() error { return k.devices.Run(ctx) })
	run("plugin registration", func() error {
		w := plugins.New(plugins.Config{
			Dir: filepath.Join(k.cfg.PluginDir, "plugins_registry"), Handlers: map[string]plugins.Handler{registerapi.DRAPlugin: k.claims, registerapi.CSIPlugin: k.csi},
			Log: k.log, Clock: k.cfg.Clock,
		})
		return w.Run(ctx)
	})
	run("pod resources", func() error {
		s := &podresources.Server{Pods: k.PodList, Exclusive: k.exclusive, Devices: k.devices, Claims: k.claims}
		return s.Run(ctx, filepath.Join(k.cfg.PluginDir, "pod-resources", "kubelet.sock"))
	})
}

// prepareClaims has a pod's claims prepared; its error is told in an event.
func (k *Kubelet) prepareClaims(ctx context.Context, pod *corev1.Pod) error {
	if !dra.HasClaims(pod) {
		return nil
	}
	if err := k.claims.Prepare(ctx, pod); err != nil {
		if ctx.Err() == nil {
			k.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: %v", err)
		}
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

// dropClaims has what pods used unprepared that are no more.
func (k *Kubelet) dropClaims(known map[types.UID]bool) {
	for _, uid := range k.claims.Pods() {
		if !known[uid] {
			k.ops.Go(func() { k.dropClaimsOf(uid) })
		}
	}
}

// dropClaimsOf has what a pod used unprepared. Drivers may not have registered
// yet: they get the time in which they usually do.
func (k *Kubelet) dropClaimsOf(uid types.UID) {
	for pause := time.Second; k.ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		err := k.claims.Unprepare(k.ctx, uid)
		if err == nil {
			return
		}
		k.log.Warn("cannot unprepare the claims of a pod that is gone, will retry", "uid", uid, "error", err)
		t := k.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-k.ctx.Done():
		}
		t.Stop()
	}
}

// claimConfig adds the devices of its claims to a container's configuration.
func (k *Kubelet) claimConfig(pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) {
	if !dra.HasClaims(pod) {
		return
	}
	for _, name := range k.claims.CDI(pod, c) {
		cfg.CDIDevices = append(cfg.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
}
