package kubelet

import (
	"bytes"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
)

// qosClass returns a pod's class (API documentation of PodQOSClass); the API
// server has set it in all but static pods.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	check := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, limit := r.Requests[name], r.Limits[name]
			any = any || !req.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && (req.IsZero() || req.Cmp(limit) == 0)
		}
	}
	if r := pod.Spec.Resources; r != nil {
		check(r)
	} else {
		for i := range pod.Spec.InitContainers {
			check(&pod.Spec.InitContainers[i].Resources)
		}
		for i := range pod.Spec.Containers {
			check(&pod.Spec.Containers[i].Resources)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// podCgroup is a pod's place in the tree of the kubelet.
func podCgroup(pod *corev1.Pod) (cgroups.Class, string) {
	class := cgroups.Guaranteed
	switch qosClass(pod) {
	case corev1.PodQOSBurstable:
		class = cgroups.Burstable
	case corev1.PodQOSBestEffort:
		class = cgroups.BestEffort
	}
	return class, "pod" + podDirName(pod)
}

// podDirName is the pod's uid, by which its cgroup and folder are named. For
// a mirror pod it is the uid of the static pod.
func podDirName(pod *corev1.Pod) string { return string(pod.UID) }

// Limits of the kernel's CPU knobs.
const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1_000 // microseconds
)

// milliToShares turns a CPU request into cpu.shares.
func milliToShares(m int64) int64 {
	return min(max(m*1024/1000, minShares), maxShares)
}

// period is that of CPU quotas, in microseconds.
func (c *Containers) period() int64 { return c.QuotaPeriod.Microseconds() }

// quota turns a CPU limit into microseconds per period; 0 is no limit.
func (c *Containers) quota(milli int64) int64 {
	if milli == 0 || c.NoQuota {
		return 0
	}
	return max(milli*c.period()/1000, minQuota)
}

// podResources is what the pod's cgroup gets.
func podResources(pod *corev1.Pod, rules *Containers) cgroups.Resources {
	opts := resourcehelper.PodResourcesOptions{}
	req := resourcehelper.PodRequests(pod, opts)
	r := cgroups.Resources{CPUShares: minShares, Pids: rules.PidsLimit}
	if qosClass(pod) == corev1.PodQOSBestEffort {
		return r
	}
	r.CPUShares = milliToShares(req.Cpu().MilliValue())
	// A limit of the pod holds only when every container has one.
	limits := resourcehelper.PodLimits(pod, opts)
	if all(pod, corev1.ResourceCPU) {
		if q := rules.quota(limits.Cpu().MilliValue()); q > 0 {
			r.CPUQuota, r.CPUPeriod = q, rules.period()
		}
	}
	if all(pod, corev1.ResourceMemory) {
		r.Memory = limits.Memory().Value()
	}
	return r
}

// all says that the pod, or each of its containers, limits a resource.
func all(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, l := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range l {
			if q, ok := l[i].Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return true
}

// resources is what a container may use on this machine, as CRI has it.
func (k *Kubelet) resources(pod *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	r := containerResources(pod, c, k.capacityMemory(), k.oom, &k.cfg.Containers)
	m := &k.node.machine
	r.HugepageLimits = containerHugePages(m.hugePageSizes(), c.Resources.Limits)
	if m.Swap > 0 {
		limitSwap(r, k.cgroups.Mode() == "v2", swapLimit(pod, c, &k.cfg.Containers, m.Memory, m.Swap))
	}
	return r
}

// limitSwap lets a container have so many bytes of swap. With cgroups v1 none
// has any, and only a limit of its memory can say so: KEP-2400 wants v2.
func limitSwap(r *runtimeapi.LinuxContainerResources, v2 bool, swap int64) {
	if v2 {
		r.Unified = map[string]string{"memory.swap.max": strconv.FormatInt(swap, 10)}
		return
	}
	r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
}

// containerResources is what one container's cgroup gets.
func containerResources(pod *corev1.Pod, c *corev1.Container, capacity int64, oom oomLimits, rules *Containers) *runtimeapi.LinuxContainerResources {
	req, limit := c.Resources.Requests, c.Resources.Limits
	cpu := req.Cpu()
	if _, ok := req[corev1.ResourceCPU]; !ok {
		cpu = limit.Cpu()
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares: milliToShares(cpu.MilliValue()), OomScoreAdj: oom.clamp(oomScoreAdj(pod, c, capacity)),
		MemoryLimitInBytes: limitOf(pod, c, corev1.ResourceMemory).Value(),
	}
	if q := rules.quota(limitOf(pod, c, corev1.ResourceCPU).MilliValue()); q > 0 {
		r.CpuQuota, r.CpuPeriod = q, rules.period()
	}
	return r
}

// limitOf is what a container may use of a resource at most: what it says
// itself, else what its pod says as a whole (KEP-2837); zero for no limit.
func limitOf(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName) *resource.Quantity {
	q, ok := c.Resources.Limits[name]
	if !ok && pod.Spec.Resources != nil {
		q = pod.Spec.Resources.Limits[name]
	}
	return &q
}

// swapLimit is how much swap a container may use, in bytes: with LimitedSwap,
// containers of burstable pods that limit their memory beyond their request
// get a share of the machine's swap as large as that of the memory that they
// ask for; critical pods and all others get none (KEP-2400).
func swapLimit(pod *corev1.Pod, c *corev1.Container, rules *Containers, memory, swap int64) int64 {
	req, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	if !rules.Swap || qosClass(pod) != corev1.PodQOSBurstable || podPriority(pod) >= 2_000_000_000 || req.IsZero() || req.Cmp(*limit) == 0 || memory == 0 {
		return 0
	}
	return int64(float64(req.Value()) / float64(memory) * float64(swap))
}

// oomScoreAdj says how readily the kernel kills a container when the node is
// out of memory ("Node out of memory behavior" in the documentation).
func oomScoreAdj(pod *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	if p := pod.Spec.Priority; p != nil && *p >= 2_000_000_000 {
		return -997
	}
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if capacity == 0 {
		return 999
	}
	return min(max(1000-1000*c.Resources.Requests.Memory().Value()/capacity, 3), 999)
}

// oomLimits knows which scores this process may give.
type oomLimits struct{ lowest int64 }

// detectOOMLimits finds the lowest score: without CAP_SYS_RESOURCE a process
// cannot go below its own.
func detectOOMLimits() oomLimits {
	const capSysResource = 24
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return oomLimits{}
	}
	for line := range bytes.Lines(b) {
		v, ok := bytes.CutPrefix(line, []byte("CapEff:"))
		if !ok {
			continue
		}
		caps, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64)
		if err == nil && caps&(1<<capSysResource) != 0 {
			return oomLimits{-1000}
		}
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return oomLimits{}
	}
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(own)), 10, 64)
	return oomLimits{max(n, 0)}
}

func (l oomLimits) clamp(n int64) int64 { return max(n, l.lowest) }
