package settings

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/kubelet"
)

// Apply puts the settings into a kubelet's configuration. What neither a file
// nor a default names stays as it is in c, so that flags hold there.
func (s *Settings) Apply(c *kubelet.Config) error {
	if err := s.fitsMachine(); err != nil {
		return err
	}
	orSet(&c.LogDir, s.PodLogsDir)
	orSet(&c.StaticPodDir, s.StaticPodPath)
	c.StaticPodURL, c.StaticPodHeaders, c.StaticPodPeriod = s.StaticPodURL, http.Header(s.StaticPodURLHeader), s.HTTPCheckFrequency.Duration
	orSet(&c.ClusterDomain, s.ClusterDomain)
	if len(s.ClusterDNS) > 0 {
		c.ClusterDNS = slices.Clone(s.ClusterDNS)
	}
	if s.ResolverConfig != nil {
		c.ResolvConf = *s.ResolverConfig
	}
	orSet(&c.CgroupRoot, s.CgroupRoot)
	orSet(&c.ProviderID, s.ProviderID)
	c.MaxPods, c.PodsPerCore, c.Port = int(s.MaxPods), int(s.PodsPerCore), int(s.Port)
	c.Taints = append(c.Taints, s.RegisterWithTaints...)
	c.Unregistered = !*s.RegisterNode
	c.LeaseSeconds, c.StatusPeriod, c.StatusImages = s.NodeLeaseDurationSeconds, s.NodeStatusReportFrequency.Duration, int(*s.NodeStatusMaxImages)
	size, err := resource.ParseQuantity(s.ContainerLogMaxSize)
	if err != nil {
		return fmt.Errorf("containerLogMaxSize: %w", err)
	}
	c.Containers = kubelet.Containers{
		PidsLimit: max(*s.PodPidsLimit, 0), NoQuota: !*s.CPUCFSQuota, QuotaPeriod: s.CPUCFSQuotaPeriod.Duration,
		SeccompDefault: *s.SeccompDefault, UnsafeSysctls: s.AllowedUnsafeSysctls,
		LogSize: size.Value(), LogFiles: int(*s.ContainerLogMaxFiles),
		Swap: s.MemorySwap.SwapBehavior == "LimitedSwap", NoStorageLimits: !*s.LocalStorageCapacityIsolation,
		SerialPulls: *s.SerializeImagePulls,
	}
	if m := s.CrashLoopBackOff.MaxContainerRestartPeriod; m != nil {
		c.Containers.CrashDelay = m.Duration
	}
	if u := s.UserNamespaces; u != nil && u.IDsPerPod != nil {
		c.Containers.UserIDs = uint32(*u.IDsPerPod)
	}
	if n := s.MaxParallelImagePulls; n != nil {
		c.Containers.ParallelPulls = int(*n)
	}
	c.ImageGC = kubelet.ImageGC{
		High: int(*s.ImageGCHighThresholdPercent), Low: int(*s.ImageGCLowThresholdPercent),
		MinAge: s.ImageMinimumGCAge.Duration, MaxAge: s.ImageMaximumGCAge.Duration,
	}
	c.ImageAccess = kubelet.ImageAccess{Policy: s.ImagePullCredentialsVerificationPolicy, Allowlist: slices.Clone(s.PreloadedImagesVerificationAllowlist)}
	c.Shutdown = s.shutdown()
	if err := s.reserve(c); err != nil {
		return err
	}
	if c.Eviction, err = s.eviction(); err != nil {
		return err
	}
	return s.exclusive(c)
}

// fitsMachine holds the settings against the machine.
func (s *Settings) fitsMachine() error {
	if b, err := os.ReadFile("/proc/swaps"); *s.FailSwapOn && err == nil && bytes.Count(b, []byte("\n")) > 1 {
		return errors.New("failSwapOn: the machine has swap, see /proc/swaps")
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); *s.FailCgroupV1 && err != nil {
		return errors.New("failCgroupV1: the machine's cgroups are not v2")
	}
	return nil
}

// Show brings what /configz shows in line with the configuration in effect.
func (s *Settings) Show(c *kubelet.Config) {
	s.StaticPodPath, s.PodLogsDir, s.ClusterDomain, s.ClusterDNS = c.StaticPodDir, c.LogDir, c.ClusterDomain, c.ClusterDNS
	s.ResolverConfig, s.CgroupRoot, s.ProviderID = &c.ResolvConf, c.CgroupRoot, c.ProviderID
	s.MaxPods, s.Port = int32(c.MaxPods), int32(c.Port)
}

func orSet(p *string, v string) {
	if v != "" {
		*p = v
	}
}

// quantities parses a map of resources such as kubeReserved.
func quantities(field string, m map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, text := range m {
		switch corev1.ResourceName(name) {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "pid":
		default:
			if !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
				return nil, fmt.Errorf("%s: %q cannot be reserved", field, name)
			}
		}
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("%s.%s: %q is no quantity", field, name, text)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}

// reserve sums up what is kept from pods.
func (s *Settings) reserve(c *kubelet.Config) error {
	system, err := quantities("systemReserved", s.SystemReserved)
	if err != nil {
		return err
	}
	kube, err := quantities("kubeReserved", s.KubeReserved)
	if err != nil {
		return err
	}
	if s.ReservedSystemCPUs != "" {
		cpus, err := cpuset.Parse(s.ReservedSystemCPUs)
		if err != nil {
			return fmt.Errorf("reservedSystemCPUs: %w", err)
		}
		c.Exclusive.ReservedCPUs = cpus
		// The list says how many, whatever the amounts say.
		delete(kube, corev1.ResourceCPU)
		system[corev1.ResourceCPU] = *resource.NewQuantity(int64(cpus.Size()), resource.DecimalSI)
	}
	c.Reserved = corev1.ResourceList{}
	for _, l := range []corev1.ResourceList{system, kube} {
		for name, q := range l {
			sum := c.Reserved[name]
			sum.Add(q)
			c.Reserved[name] = sum
		}
	}
	c.ReservedGroups = map[string]corev1.ResourceList{}
	for _, e := range s.EnforceNodeAllocatable {
		switch e {
		case "system-reserved":
			c.ReservedGroups[s.SystemReservedCgroup] = system
		case "kube-reserved":
			c.ReservedGroups[s.KubeReservedCgroup] = kube
		}
	}
	c.Unbounded = !slices.Contains(s.EnforceNodeAllocatable, "pods")
	return nil
}

// amount parses "100Mi" or "10%".
func amount(text string) (kubelet.Amount, error) {
	if p, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(p, 64)
		if err != nil || n < 0 || n > 100 {
			return kubelet.Amount{}, fmt.Errorf("%q is no percentage", text)
		}
		return kubelet.Amount{Share: n / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 {
		return kubelet.Amount{}, fmt.Errorf("%q is no quantity", text)
	}
	return kubelet.Amount{Quantity: q.Value()}, nil
}

// eviction reads the thresholds of eviction.
func (s *Settings) eviction() (kubelet.Eviction, error) {
	out := kubelet.Eviction{
		Thresholds: []kubelet.Threshold{}, Transition: s.EvictionPressureTransitionPeriod.Duration,
		MaxPodGrace: time.Duration(s.EvictionMaxPodGracePeriod) * time.Second,
	}
	add := func(field string, m map[string]string, grace map[string]string) error {
		for name, text := range m {
			if err := kubelet.KnownSignal(name); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
			limit, err := amount(text)
			if err != nil {
				return fmt.Errorf("%s.%s: %w", field, name, err)
			}
			if limit == (kubelet.Amount{}) {
				continue // switched off
			}
			t := kubelet.Threshold{Signal: name, Limit: limit}
			if grace != nil {
				d, err := time.ParseDuration(grace[name])
				if err != nil || d <= 0 {
					return fmt.Errorf("evictionSoftGracePeriod.%s: want how long the soft threshold must hold, such as 1m30s", name)
				}
				t.Grace = d
			}
			if text, ok := s.EvictionMinimumReclaim[name]; ok {
				if t.Reclaim, err = amount(text); err != nil {
					return fmt.Errorf("evictionMinimumReclaim.%s: %w", name, err)
				}
			}
			out.Thresholds = append(out.Thresholds, t)
		}
		return nil
	}
	if err := add("evictionHard", s.EvictionHard, nil); err != nil {
		return out, err
	}
	grace := s.EvictionSoftGracePeriod
	if grace == nil {
		grace = map[string]string{}
	}
	if err := add("evictionSoft", s.EvictionSoft, grace); err != nil {
		return out, err
	}
	slices.SortFunc(out.Thresholds, func(a, b kubelet.Threshold) int {
		if d := strings.Compare(a.Signal, b.Signal); d != 0 {
			return d
		}
		return int(a.Grace - b.Grace)
	})
	return out, nil
}

// systemCritical is the priority from which pods count as critical.
const systemCritical = 2_000_000_000

// shutdown reads how pods end when the machine shuts down.
func (s *Settings) shutdown() []kubelet.ShutdownStep {
	var out []kubelet.ShutdownStep
	for _, p := range s.ShutdownGracePeriodByPodPriority {
		out = append(out, kubelet.ShutdownStep{Priority: p.Priority, Grace: time.Duration(p.ShutdownGracePeriodSeconds) * time.Second})
	}
	if all := s.ShutdownGracePeriod.Duration; all > 0 {
		critical := s.ShutdownGracePeriodCriticalPods.Duration
		out = []kubelet.ShutdownStep{{Grace: all - critical}, {Priority: systemCritical, Grace: critical}}
	}
	slices.SortFunc(out, func(a, b kubelet.ShutdownStep) int { return int(int64(a.Priority) - int64(b.Priority)) })
	return out
}

// exclusive reads what is given to single containers.
func (s *Settings) exclusive(c *kubelet.Config) error {
	x := &c.Exclusive
	x.StaticCPUs, x.CPUOptions = s.CPUManagerPolicy == "static", s.CPUManagerPolicyOptions
	x.StaticMemory = s.MemoryManagerPolicy == "Static"
	x.Topology, x.TopologyScope, x.TopologyOptions = s.TopologyManagerPolicy, s.TopologyManagerScope, s.TopologyManagerPolicyOptions
	if len(s.CPUManagerPolicyOptions) > 0 && !x.StaticCPUs {
		return fmt.Errorf("cpuManagerPolicyOptions need cpuManagerPolicy: static")
	}
	cpu := c.Reserved[corev1.ResourceCPU]
	if x.StaticCPUs && cpu.IsZero() {
		return fmt.Errorf("cpuManagerPolicy: static needs CPUs that are reserved (reservedSystemCPUs, kubeReserved or systemReserved)")
	}
	if len(s.ReservedMemory) > 0 && !x.StaticMemory {
		return fmt.Errorf("reservedMemory needs memoryManagerPolicy: Static")
	}
	x.ReservedMemory = reservedMemory(s.ReservedMemory)
	return nil
}

func reservedMemory(list []kubeletv1beta1.MemoryReservation) map[int]corev1.ResourceList {
	out := map[int]corev1.ResourceList{}
	for _, r := range list {
		out[int(r.NumaNode)] = r.Limits
	}
	return out
}
