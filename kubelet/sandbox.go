package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/client"
)

// sandboxConfig is what the runtime is told about a pod. It is the same for
// the sandbox itself and for each container in it.
func (k *Kubelet) sandboxConfig(pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	users, err := k.userNamespace(pod)
	if err != nil {
		return nil, err
	}
	host, err := readResolver(k.cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	dns, warning := podDNS(pod, k.cfg.ClusterDNS, k.cfg.ClusterDomain, host)
	if warning != "" {
		k.recorder.Event(pod, corev1.EventTypeWarning, "DNSConfigForming", warning)
	}
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		DnsConfig:    dns,
		LogDirectory: k.podLogDir(pod),
		Labels:       maps.Clone(pod.Labels), Annotations: maps.Clone(pod.Annotations),
	}
	if cfg.Labels == nil {
		cfg.Labels = map[string]string{}
	}
	cfg.Labels[labelPod], cfg.Labels[labelNamespace], cfg.Labels[labelUID] = pod.Name, pod.Namespace, string(pod.UID)
	if !pod.Spec.HostNetwork {
		if cfg.Hostname, err = sandboxHostname(pod, k.cfg.ClusterDomain); err != nil {
			return nil, err
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			cfg.PortMappings = append(cfg.PortMappings, portMappings(c)...)
		}
	}
	for i := range pod.Spec.Containers {
		cfg.PortMappings = append(cfg.PortMappings, portMappings(&pod.Spec.Containers[i])...)
	}
	class, group := podCgroup(pod)
	cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent:    k.cgroups.Group(class, group),
		SecurityContext: sandboxSecurity(pod, k.cfg.SeccompDir),
		Sysctls:         sysctls(pod),
		Resources:       k.sandboxResources(pod),
		Overhead:        &runtimeapi.LinuxContainerResources{},
	}
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	if o := pod.Spec.Overhead; o != nil {
		cfg.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: milliToShares(o.Cpu().MilliValue()), MemoryLimitInBytes: o.Memory().Value()}
	}
	return cfg, nil
}

// sandboxResources tells runtimes that need to know beforehand, such as
// virtual machines, what the pod's containers may use together.
func (k *Kubelet) sandboxResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	opts := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	req, limits := resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts)
	return &runtimeapi.LinuxContainerResources{
		CpuShares: milliToShares(req.Cpu().MilliValue()), CpuPeriod: k.cfg.Containers.period(),
		CpuQuota: k.cfg.Containers.quota(limits.Cpu().MilliValue()), MemoryLimitInBytes: limits.Memory().Value(),
	}
}

func sysctls(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			out[s.Name] = s.Value
		}
	}
	return out
}

// portMappings lists a container's host ports.
func portMappings(c *corev1.Container) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, p := range c.Ports {
		if p.HostPort <= 0 {
			continue
		}
		m := &runtimeapi.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
		switch p.Protocol {
		case corev1.ProtocolUDP:
			m.Protocol = runtimeapi.Protocol_UDP
		case corev1.ProtocolSCTP:
			m.Protocol = runtimeapi.Protocol_SCTP
		}
		out = append(out, m)
	}
	return out
}

// runtimeHandler looks the pod's RuntimeClass up.
func (k *Kubelet) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	rc, err := client.RuntimeClasses.In(k.cfg.Client, "").Get(ctx, *name)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured: RuntimeClass %q not found", *name, *name)
	}
	if err != nil {
		return "", fmt.Errorf("failed to get RuntimeClass %q: %w", *name, err)
	}
	return rc.Handler, nil
}

// runSandbox makes a pod's cgroup, folders and sandbox.
func (k *Kubelet) runSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxStatus, error) {
	class, group := podCgroup(pod)
	begun := time.Now()
	if err := k.cgroups.EnsurePod(class, group, k.podCgroupResources(pod)); err != nil {
		return nil, err
	}
	k.counts.cgroup("create", begun)
	if err := k.limitHugePages(pod, class, group); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(k.podLogDir(pod), 0o755); err != nil {
		return nil, fmt.Errorf("make the log folder: %w", err)
	}
	cfg, err := k.sandboxConfig(pod, attempt)
	if err != nil {
		return nil, err
	}
	handler, err := k.runtimeHandler(ctx, pod)
	if err != nil {
		return nil, err
	}
	if ownUsers(pod) && !k.node.ownUsers(handler) {
		// Such as runc before 1.2, which cannot map the owners in mounts.
		return nil, fmt.Errorf("hostUsers is false, but the runtime handler %q does not support user namespaces", handler)
	}
	defer k.turns.take(ctx, turnStart, maxTurn)()
	if err := ctx.Err(); err != nil {
		return nil, err // ended while it waited
	}
	begun = time.Now()
	res, err := k.cfg.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	k.counts.sandboxTook.WithLabelValues(handler).Observe(time.Since(begun).Seconds())
	if err != nil {
		k.counts.sandboxFailed.WithLabelValues(handler).Inc()
		return nil, err
	}
	st, err := k.cfg.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: res.PodSandboxId})
	if err != nil {
		return nil, err
	}
	return st.Status, nil
}

// podLogDir is where the runtime writes the logs of a pod's containers:
// <namespace>_<name>_<uid>.
func (k *Kubelet) podLogDir(pod *corev1.Pod) string {
	return filepath.Join(k.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// containerLog is the log of one instance of a container, below the pod's log
// folder.
func containerLog(name string, attempt int) string {
	return filepath.Join(name, strconv.Itoa(attempt)+".log")
}

// writeHosts writes the hosts file that a pod's containers share and returns
// its path.
func (k *Kubelet) writeHosts(pod *corev1.Pod, ips []string) (string, error) {
	var base []byte
	if pod.Spec.HostNetwork {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
		base = b
	}
	name, sub, err := podHostname(pod, k.cfg.ClusterDomain)
	if err != nil {
		return "", err
	}
	path, want := filepath.Join(k.volumes.PodDir(pod.UID), "etc-hosts"), hostsFile(pod, ips, name, sub, base)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return path, nil // other containers may be reading it
	}
	return path, os.WriteFile(path, want, 0o644)
}
