package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/devices"
	"github.com/coxswain/cox/kubelet/exclusive"
	"github.com/coxswain/cox/kubelet/numa"
)

// newExclusive makes what gives CPUs, memory and devices to single containers.
func (k *Kubelet) newExclusive() error {
	cfg := &k.cfg
	machine, err := numa.Read("/sys")
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	k.devices, err = devices.New(devices.Config{
		Dir: filepath.Join(cfg.PluginDir, "device-plugins"), Changed: k.devicesChanged, Log: k.log, Clock: cfg.Clock,
	})
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if err := os.MkdirAll(cfg.RootDir, 0o750); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	x := &cfg.Exclusive
	reserved, err := k.reservedMemory(machine)
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	most := 0
	for name, v := range x.TopologyOptions {
		if name != "max-allowable-numa-nodes" {
			return fmt.Errorf("kubelet: topologyManagerPolicyOptions: %q is not done", name)
		}
		n, err := parseInt(v)
		if err != nil || n < 1 || n > 64 {
			return fmt.Errorf("kubelet: topologyManagerPolicyOptions.%s: %q is not between 1 and 64", name, v)
		}
		most = int(n)
	}
	cpus := cfg.Reserved[corev1.ResourceCPU]
	k.exclusive, err = exclusive.New(exclusive.Config{
		Machine: machine, StaticCPUs: x.StaticCPUs, Options: x.CPUOptions, ReservedCPUs: x.ReservedCPUs, Reserved: int(cpus.Value()),
		StaticMemory: x.StaticMemory, ReservedMemory: reserved, Policy: x.Topology, Scope: x.TopologyScope, MaxNodes: most,
		Devices: k.devices, Dir: cfg.RootDir, Log: k.log,
	})
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	return nil
}

// reservedMemory is what is kept from containers on each NUMA node. With the
// static policy it must add up to what is kept from pods in all (KEP-1769).
func (k *Kubelet) reservedMemory(m *numa.Machine) (map[int]map[corev1.ResourceName]uint64, error) {
	if !k.cfg.Exclusive.StaticMemory {
		return nil, nil
	}
	out := map[int]map[corev1.ResourceName]uint64{}
	var sum int64
	for node, l := range k.cfg.Exclusive.ReservedMemory {
		if !m.Nodes().Has(node) {
			return nil, fmt.Errorf("reservedMemory: there is no NUMA node %d", node)
		}
		out[node] = map[corev1.ResourceName]uint64{}
		for name, q := range l {
			out[node][name] = uint64(q.Value())
		}
		sum += l.Memory().Value()
	}
	want := k.cfg.Reserved.Memory().Value() + k.cfg.Eviction.hard(SignalMemory, readMachine().Memory)
	if sum != want {
		return nil, fmt.Errorf("reservedMemory: the nodes' memory adds up to %s, but kubeReserved, systemReserved and the hard eviction limit to %s",
			resource.NewQuantity(sum, resource.BinarySI), resource.NewQuantity(want, resource.BinarySI))
	}
	return out, nil
}

// devicesChanged has the node's status show new devices.
func (k *Kubelet) devicesChanged() {
	if k.node != nil {
		k.nudgeNode()
	}
	k.healthChanged()
}

// admitExclusive gives a pod's containers what they want for themselves. It
// talks to device plugins: the pod waits meanwhile. Call with the lock held.
func (w *worker) admitExclusive() {
	s := &w.state
	pod := s.Pod
	s.Admitting = true
	var err error
	w.run("admit", false, func(ctx context.Context) { err = w.k.exclusive.Admit(ctx, pod) }, func() {
		s.Admitting = false
		var no *exclusive.Refusal
		switch {
		case errors.As(err, &no):
			s.Rejected = &reason{no.Reason, no.Message}
		case err != nil:
			s.Rejected = &reason{"UnexpectedAdmissionError", err.Error()}
		}
		if s.Rejected != nil {
			w.k.recorder.Event(pod, corev1.EventTypeWarning, s.Rejected.Reason, s.Rejected.Message)
			return
		}
		w.k.ops.Go(w.k.shareCPUs)
	})
}

// shareCPUs tells the containers without CPUs of their own which they share,
// when that has changed.
func (k *Kubelet) shareCPUs() {
	if !k.cfg.Exclusive.StaticCPUs {
		return
	}
	k.sharing.Lock()
	defer k.sharing.Unlock()
	set, _ := k.exclusive.CPUs("", "")
	if k.shared.Equals(set) {
		return
	}
	failed := false
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		pod := w.state.Pod
		var running []*instance
		for _, c := range w.containers {
			if c.running() {
				running = append(running, c)
			}
		}
		w.mu.Unlock()
		for _, c := range running {
			spec, _ := findContainer(&pod.Spec, c.name())
			if spec == nil {
				continue
			}
			if _, own := k.exclusive.CPUs(pod.UID, c.name()); own {
				continue
			}
			r := k.resources(pod, spec)
			r.CpusetCpus = set.String()
			_, err := k.cfg.Runtime.UpdateContainerResources(k.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.Id, Linux: r})
			if err != nil && !isGone(err) {
				failed = true
				k.log.Warn("cannot set which CPUs a container runs on", "pod", podTitle(pod), "container", c.name(), "error", err)
			}
		}
	}
	if !failed {
		k.shared = set // else again with the next change, or upkeep
	}
}

// exclusiveConfig adds to a container's configuration what it has for itself.
func (k *Kubelet) exclusiveConfig(pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) error {
	set, own := k.exclusive.CPUs(pod.UID, c.Name)
	if own {
		// A quota would only throttle what nobody else can use.
		cfg.Linux.Resources.CpuQuota, cfg.Linux.Resources.CpuPeriod = 0, 0
	}
	_, nodes := k.exclusive.Memory(pod.UID, c.Name)
	cfg.Linux.Resources.CpusetCpus, cfg.Linux.Resources.CpusetMems = set.String(), nodes
	o, err := k.devices.Options(pod.UID, c.Name)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Envs)) {
		cfg.Envs = append(cfg.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(o.Envs[name])})
	}
	if len(o.Annotations) > 0 {
		maps.Copy(cfg.Annotations, o.Annotations)
	}
	for _, m := range o.Mounts {
		cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
	}
	for _, d := range o.Devices {
		cfg.Devices = append(cfg.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
	}
	for _, name := range o.CDI {
		cfg.CDIDevices = append(cfg.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
	return nil
}

// resizeAlone refuses resizes that would change what a container has for
// itself.
func (k *Kubelet) resizeAlone(pod *corev1.Pod) *reason {
	x := &k.cfg.Exclusive
	switch {
	case qosClass(pod) != corev1.PodQOSGuaranteed:
	case x.StaticCPUs:
		return &reason{corev1.PodReasonInfeasible, "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"}
	case x.StaticMemory:
		return &reason{corev1.PodReasonInfeasible, "Resize is infeasible for Guaranteed Pods alongside Memory Manager static policy"}
	}
	return nil
}
