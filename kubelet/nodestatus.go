package kubelet

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
	resourcehelper "k8s.io/component-helpers/resource"
)

// machine is what does not change while the node runs.
type machine struct {
	OS, Arch               string
	CPUs                   int
	Memory                 int64            // bytes
	Swap                   int64            // bytes
	HugePages              map[string]int64 // bytes by page size such as "2Mi"
	MachineID, SystemUUID  string
	BootID, Kernel, Distro string
}

func readMachine() machine {
	m := machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: onlineCPUs(), HugePages: map[string]int64{},
		MachineID: firstLine("/etc/machine-id", "/var/lib/dbus/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), Kernel: firstLine("/proc/sys/kernel/osrelease"), Distro: osRelease(),
	}
	if m.SystemUUID == "" {
		m.SystemUUID = m.MachineID
	}
	mem := memInfo()
	m.Memory, m.Swap = mem["MemTotal"], mem["SwapTotal"]
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, d := range dirs {
		kb, err := parseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB"))
		n, err2 := parseInt(firstLine(filepath.Join(d, "nr_hugepages")))
		if err == nil && err2 == nil {
			m.HugePages[resource.NewQuantity(kb<<10, resource.BinarySI).String()] = n * kb << 10
		}
	}
	return m
}

// firstLine returns the first line of the first file that can be read.
func firstLine(paths ...string) string {
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil {
			line, _, _ := strings.Cut(string(b), "\n")
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(strings.TrimSpace(s), 10, 64) }

// onlineCPUs counts the machine's CPUs, not those that this process may use.
func onlineCPUs() int {
	n := 0
	for _, r := range strings.Split(firstLine("/sys/devices/system/cpu/online"), ",") {
		from, to, ok := strings.Cut(r, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return runtime.NumCPU()
		}
		b := a
		if ok {
			if b, err = strconv.Atoi(to); err != nil {
				return runtime.NumCPU()
			}
		}
		n += b - a + 1
	}
	return n
}

// memInfo reads /proc/meminfo, in bytes.
func memInfo() map[string]int64 {
	out := map[string]int64{}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return out
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		if w := strings.Fields(rest); len(w) == 2 && w[1] == "kB" {
			if n, err := parseInt(w[0]); err == nil {
				out[name] = n << 10
			}
		}
	}
	return out
}

func osRelease() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				if u, err := strconv.Unquote(v); err == nil {
					return u
				}
				return v
			}
		}
	}
	return ""
}

func diskSize(path string) int64 {
	var st unix.Statfs_t
	for ; ; path = filepath.Dir(path) {
		if err := unix.Statfs(path, &st); err == nil {
			return int64(st.Blocks) * st.Bsize
		}
		if path == "/" || path == "." {
			return 0
		}
	}
}

// pressure is what the node runs short of.
type pressure struct{ memory, disk, pids bool }

// statusFacts is what a node's status is made of.
type statusFacts struct {
	cfg      *Config
	machine  machine
	disk     int64
	runtime  string
	problem  string
	images   []corev1.ContainerImage
	pressure pressure
	features *corev1.NodeFeatures
	handlers []corev1.NodeRuntimeHandler
	now      metav1.Time
	// What device plugins offer, how much of it is well, and which resources
	// no plugin offers any more.
	devices, healthy corev1.ResourceList
	gone             []corev1.ResourceName
	inUse            []corev1.UniqueVolumeName // volumes that must not be detached
}

// ownNodeConditions are the conditions that the kubelet sets.
var ownNodeConditions = []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady}

// conditionEvents are the events that tell of a condition's new status.
var conditionEvents = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeMemoryPressure: {corev1.ConditionFalse: "NodeHasSufficientMemory", corev1.ConditionTrue: "NodeHasInsufficientMemory"},
	corev1.NodeDiskPressure:   {corev1.ConditionFalse: "NodeHasNoDiskPressure", corev1.ConditionTrue: "NodeHasDiskPressure"},
	corev1.NodePIDPressure:    {corev1.ConditionFalse: "NodeHasSufficientPID", corev1.ConditionTrue: "NodeHasInsufficientPID"},
	corev1.NodeReady:          {corev1.ConditionTrue: "NodeReady", corev1.ConditionFalse: "NodeNotReady"},
}

// declaredFeatures are what schedulers and API servers may ask for that nodes
// of another version lack (KEP-5328), sorted.
var declaredFeatures = []string{
	"ExtendWebSocketsToKubelet", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits",
}

// setNodeStatus computes a node's status. It is a pure function of node and f.
func setNodeStatus(node *corev1.Node, f *statusFacts) {
	st := &node.Status
	st.VolumesInUse = f.inUse
	setAddressesOfNode(st, f.cfg)
	capacity := capacityOf(f)
	// What a user has added stays, and can be given away whole.
	if st.Capacity == nil {
		st.Capacity = corev1.ResourceList{}
	}
	if st.Allocatable == nil {
		st.Allocatable = corev1.ResourceList{}
	}
	maps.Copy(st.Capacity, capacity)
	maps.Copy(st.Allocatable, allocatableOf(capacity, f.cfg))
	maps.Copy(st.Capacity, f.devices)
	maps.Copy(st.Allocatable, f.healthy)
	for _, name := range f.gone {
		delete(st.Capacity, name)
		delete(st.Allocatable, name)
	}
	setAdvertised(st, capacity, f.devices)
	m := f.machine
	st.NodeInfo.MachineID, st.NodeInfo.SystemUUID, st.NodeInfo.BootID = m.MachineID, m.SystemUUID, m.BootID
	st.NodeInfo.KernelVersion, st.NodeInfo.OSImage = m.Kernel, m.Distro
	st.NodeInfo.OperatingSystem, st.NodeInfo.Architecture = m.OS, m.Arch
	st.NodeInfo.KubeletVersion = f.cfg.Version
	if f.runtime != "" {
		st.NodeInfo.ContainerRuntimeVersion = f.runtime
	}
	if m.Swap > 0 {
		st.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &m.Swap}
	}
	st.DaemonEndpoints.KubeletEndpoint.Port = int32(f.cfg.Port)
	if f.images != nil {
		st.Images = f.images
	}
	st.Features, st.RuntimeHandlers = f.features, f.handlers
	st.DeclaredFeatures = slices.Clone(declaredFeatures)
	setNodeConditions(st, f)
}

// setAdvertised makes allocatable what someone has advertised as capacity of
// the node ("Extended resources" of the documentation), and what is no longer
// advertised not. The resources that the kubelet counts itself, and those of
// device plugins, are not its business.
func setAdvertised(st *corev1.NodeStatus, own, devices corev1.ResourceList) {
	for name, q := range st.Capacity {
		if _, ok := own[name]; ok {
			continue
		}
		if _, ok := devices[name]; !ok {
			st.Allocatable[name] = q.DeepCopy()
		}
	}
	for name := range st.Allocatable {
		if _, ok := st.Capacity[name]; !ok {
			delete(st.Allocatable, name)
		}
	}
}

func setAddressesOfNode(st *corev1.NodeStatus, cfg *Config) {
	st.Addresses = nil
	for _, ip := range cfg.NodeIPs {
		if net.ParseIP(ip) != nil {
			st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: cfg.Hostname})
}

func capacityOf(f *statusFacts) corev1.ResourceList {
	m := f.machine
	pods := f.cfg.MaxPods
	if n := f.cfg.PodsPerCore * m.CPUs; n > 0 {
		pods = min(pods, n)
	}
	out := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(pods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.disk, resource.BinarySI),
	}
	for size, n := range m.HugePages {
		out[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(n, resource.BinarySI)
	}
	return out
}

// allocatableOf is the capacity less what is reserved for the system and the
// limits of hard eviction.
func allocatableOf(capacity corev1.ResourceList, cfg *Config) corev1.ResourceList {
	out := corev1.ResourceList{}
	sub := func(name corev1.ResourceName, q resource.Quantity) {
		v := out[name]
		v.Sub(q)
		if v.Sign() < 0 {
			v.Set(0)
		}
		out[name] = v
	}
	maps.Copy(out, capacity)
	for name, q := range out {
		out[name] = q.DeepCopy()
	}
	for name, q := range cfg.Reserved {
		if _, ok := out[name]; ok {
			sub(name, q)
		}
	}
	sub(corev1.ResourceMemory, *resource.NewQuantity(cfg.Eviction.hard(SignalMemory, capacity.Memory().Value()), resource.BinarySI))
	for name, q := range out {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			sub(corev1.ResourceMemory, q)
		}
	}
	disk := capacity[corev1.ResourceEphemeralStorage]
	sub(corev1.ResourceEphemeralStorage, *resource.NewQuantity(cfg.Eviction.hard(SignalNodeFS, disk.Value()), resource.BinarySI))
	return out
}

func setNodeConditions(st *corev1.NodeStatus, f *statusFacts) {
	set := func(t corev1.NodeConditionType, bad, isReady bool, badReason, badMessage, goodReason, goodMessage string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastHeartbeatTime: f.now, LastTransitionTime: f.now}
		if bad {
			c.Reason, c.Message = badReason, badMessage
		}
		if bad != isReady {
			c.Status = corev1.ConditionTrue
		}
		if i := slices.IndexFunc(st.Conditions, func(o corev1.NodeCondition) bool { return o.Type == t }); i >= 0 {
			old := st.Conditions[i]
			c.LastHeartbeatTime = old.LastHeartbeatTime
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			st.Conditions[i] = c
			return
		}
		st.Conditions = append(st.Conditions, c)
	}
	set(corev1.NodeMemoryPressure, f.pressure.memory, false, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	set(corev1.NodeDiskPressure, f.pressure.disk, false, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	set(corev1.NodePIDPressure, f.pressure.pids, false, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available")
	set(corev1.NodeReady, f.problem != "", true, "KubeletNotReady", f.problem, "KubeletReady", "kubelet is posting ready status")
}

func findNodeCondition(l []corev1.NodeCondition, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range l {
		if l[i].Type == t {
			return &l[i]
		}
	}
	return nil
}

// treeResources bounds all pods together.
func (k *Kubelet) treeResources() cgroups.Resources {
	m := readMachine()
	a := allocatableOf(capacityOf(&statusFacts{cfg: &k.cfg, machine: m}), &k.cfg)
	k.volumes.Memory = a.Memory().Value()
	if k.cfg.Unbounded {
		return cgroups.Resources{}
	}
	// Hard eviction must come before the kernel kills: what it keeps free is
	// within the bound.
	memory := m.Memory - k.cfg.Reserved.Memory().Value()
	r := cgroups.Resources{CPUShares: milliToShares(a.Cpu().MilliValue()), Memory: memory}
	if q, ok := k.cfg.Reserved["pid"]; ok {
		if all, known := measurePIDs(); known {
			r.Pids = max(all.capacity-q.Value(), 1)
		}
	}
	return r
}

// boundReserved gives the cgroups of the system and of Kubernetes' own
// processes what is reserved for them (enforceNodeAllocatable).
func (k *Kubelet) boundReserved() error {
	for group, l := range k.cfg.ReservedGroups {
		r := cgroups.Resources{CPUShares: milliToShares(l.Cpu().MilliValue()), Memory: l.Memory().Value()}
		if q, ok := l["pid"]; ok {
			r.Pids = q.Value()
		}
		if err := k.cgroups.Bound(group, r); err != nil {
			return err
		}
	}
	return nil
}

// allocatable is what the node offers to pods.
func (k *Kubelet) allocatable() corev1.ResourceList {
	if node := k.node.current(); node != nil {
		return node.Status.Allocatable
	}
	return allocatableOf(capacityOf(&statusFacts{cfg: &k.cfg, machine: k.node.machine}), &k.cfg)
}

func (k *Kubelet) capacityMemory() int64 { return k.node.machine.Memory }

func podMilliCPU(pod *corev1.Pod) int64 {
	r := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return r.Cpu().MilliValue()
}

// podCgroupResources is what the pod's cgroup gets on this node.
func (k *Kubelet) podCgroupResources(pod *corev1.Pod) cgroups.Resources {
	return podResources(pod, &k.cfg.Containers)
}

func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
