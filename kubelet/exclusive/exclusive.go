// Package exclusive gives CPUs, memory and devices to single containers and
// aligns them to the machine's NUMA nodes: the CPU, memory and topology
// managers of the documentation. Pods flow in; what each container has flows
// out, and what is left for all others.
package exclusive

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/kubelet/devices"
	"github.com/coxswain/cox/kubelet/numa"
)

// Config is what a Manager gives away, and how.
type Config struct {
	Machine *numa.Machine
	// StaticCPUs gives whole CPUs to containers of guaranteed pods.
	// ReservedCPUs are kept from them; if empty, the first Reserved CPUs are.
	StaticCPUs   bool
	Options      map[string]string
	ReservedCPUs cpuset.CPUSet
	Reserved     int
	// StaticMemory keeps the memory of guaranteed pods on as few nodes as
	// possible; ReservedMemory is kept from them, in bytes by node and
	// resource.
	StaticMemory   bool
	ReservedMemory map[int]map[corev1.ResourceName]uint64
	// Policy and Scope of alignment; see numa.Merge. Scope is "container" or
	// "pod".
	Policy, Scope string
	MaxNodes      int // max-allowable-numa-nodes, default 8
	// Devices may be nil.
	Devices *devices.Manager
	// Dir holds what must outlive a restart (cpu_manager_state,
	// memory_manager_state).
	Dir string
	Log *slog.Logger
}

// Refusal is why a pod cannot be let in: the reason and message of its status.
type Refusal struct{ Reason, Message string }

func (r *Refusal) Error() string { return r.Message }

// Manager knows who has what. It is safe for concurrent use.
type Manager struct {
	cfg      Config
	how      numa.Choice
	strict   bool          // strict-cpu-reservation
	reserved cpuset.CPUSet // kept from containers with CPUs of their own
	// admitting is held over the admission of a pod, with its calls to
	// plugins; mu guards the rest.
	admitting sync.Mutex
	mu        sync.Mutex
	cpus      map[types.UID]map[string]cpuset.CPUSet
	memory    map[types.UID]map[string][]Block
}

// Block is memory that a container has on some nodes together.
type Block struct {
	Nodes []int               `json:"numaAffinity"`
	Type  corev1.ResourceName `json:"type"` // "memory" or "hugepages-2Mi"
	Size  uint64              `json:"size"` // bytes
}

// New makes a manager and takes up what was given before.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, cpus: map[types.UID]map[string]cpuset.CPUSet{}, memory: map[types.UID]map[string][]Block{}}
	if cfg.MaxNodes == 0 {
		m.cfg.MaxNodes = 8
	}
	if n := cfg.Machine.Nodes().Len(); cfg.Policy != "" && cfg.Policy != numa.None && n > m.cfg.MaxNodes {
		return nil, fmt.Errorf("the machine has %d NUMA nodes, topologyManagerPolicy %s is for at most %d (max-allowable-numa-nodes)", n, cfg.Policy, m.cfg.MaxNodes)
	}
	if err := m.options(); err != nil {
		return nil, err
	}
	if cfg.StaticCPUs {
		all := cfg.Machine.All()
		if m.reserved = cfg.ReservedCPUs; m.reserved.IsEmpty() {
			var err error
			if m.reserved, err = cfg.Machine.Pick(all, cfg.Reserved, 0, numa.Choice{}); err != nil {
				return nil, fmt.Errorf("CPUs to reserve: %w", err)
			}
		}
		if !m.reserved.IsSubsetOf(all) || m.reserved.IsEmpty() {
			return nil, fmt.Errorf("the reserved CPUs %s are none or not among the machine's %s", m.reserved, all)
		}
	}
	m.recall()
	return m, nil
}

// options reads cpuManagerPolicyOptions.
func (m *Manager) options() error {
	for name, v := range m.cfg.Options {
		if v != "true" && v != "false" {
			return fmt.Errorf("cpuManagerPolicyOptions.%s: %q is neither true nor false", name, v)
		}
		on := v == "true"
		switch name {
		case "full-pcpus-only":
			m.how.FullCores = on
		case "distribute-cpus-across-numa":
			m.how.SpreadOverNodes = on
		case "distribute-cpus-across-cores":
			m.how.SpreadOverCores = on
		case "align-by-socket":
			m.how.PreferSocket = on
		case "strict-cpu-reservation":
			m.strict = on
		default:
			return fmt.Errorf("cpuManagerPolicyOptions: %q is not done", name)
		}
	}
	if m.how.SpreadOverCores && (m.how.SpreadOverNodes || m.how.FullCores) {
		return fmt.Errorf("cpuManagerPolicyOptions: distribute-cpus-across-cores goes with neither full-pcpus-only nor distribute-cpus-across-numa")
	}
	return nil
}

// Wants says that a pod needs to be admitted here.
func (m *Manager) Wants(pod *corev1.Pod) bool {
	if m.cfg.StaticMemory && guaranteed(pod) {
		return true
	}
	for _, c := range containers(pod) {
		if m.wholeCPUs(pod, c) > 0 || len(m.deviceWishes(pod, c)) > 0 {
			return true
		}
	}
	return false
}

// containers lists init and app containers in the order in which they start.
func containers(pod *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range pod.Spec.InitContainers {
		out = append(out, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	return out
}

// passing says that a container ends before the app containers start, so that
// these may have what it had.
func passing(pod *corev1.Pod, c *corev1.Container) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
		}
	}
	return false
}

func guaranteed(pod *corev1.Pod) bool { return pod.Status.QOSClass == corev1.PodQOSGuaranteed }

// wholeCPUs is how many CPUs of its own a container gets: only those of
// guaranteed pods that ask for a whole number do. Pods that say what they need
// together share it.
func (m *Manager) wholeCPUs(pod *corev1.Pod, c *corev1.Container) int {
	if !m.cfg.StaticCPUs || !guaranteed(pod) || pod.Spec.Resources != nil {
		return 0
	}
	q := c.Resources.Requests[corev1.ResourceCPU]
	if q.Value()*1000 != q.MilliValue() {
		return 0
	}
	return int(q.Value())
}

func (m *Manager) deviceWishes(pod *corev1.Pod, c *corev1.Container) []devices.Wish {
	if m.cfg.Devices == nil {
		return nil
	}
	var out []devices.Wish
	for name, q := range c.Resources.Limits {
		if q.Sign() > 0 && m.cfg.Devices.Manages(name) && !claimed(pod, c.Name, name) {
			out = append(out, devices.Wish{Resource: string(name), Count: int(q.Value())})
		}
	}
	slices.SortFunc(out, func(a, b devices.Wish) int {
		if a.Resource < b.Resource {
			return -1
		}
		return 1
	})
	for i := range out {
		out[i].Reusable = m.reusableDevices(pod, c, out[i].Resource)
	}
	return out
}

// claimed says that the scheduler serves a container's extended resource from
// the devices of a claim (KEP-5004): no plugin is asked for any.
func claimed(pod *corev1.Pod, container string, name corev1.ResourceName) bool {
	by := pod.Status.ExtendedResourceClaimStatus
	return by != nil && slices.ContainsFunc(by.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
		return m.ContainerName == container && m.ResourceName == string(name)
	})
}

// reusableDevices are those of the pod's init containers that are done before
// c starts.
func (m *Manager) reusableDevices(pod *corev1.Pod, c *corev1.Container, resource string) []string {
	var out []string
	for _, o := range containers(pod) {
		if o.Name == c.Name {
			break
		}
		ids := m.cfg.Devices.Of(pod.UID, o.Name)[resource]
		if passing(pod, o) {
			out = append(out, ids...)
			continue
		}
		out = slices.DeleteFunc(out, func(id string) bool { return slices.Contains(ids, id) })
	}
	return out
}

// Admit gives a pod's containers what they ask for. An error is a *Refusal;
// then the pod has nothing. Calls to device plugins may take long.
func (m *Manager) Admit(ctx context.Context, pod *corev1.Pod) error {
	m.admitting.Lock()
	defer m.admitting.Unlock()
	if err := m.admit(ctx, pod); err != nil {
		m.Release(pod.UID)
		return err
	}
	return nil
}

func (m *Manager) admit(ctx context.Context, pod *corev1.Pod) error {
	all := m.cfg.Machine.Nodes()
	var together numa.Hint
	podScope := m.cfg.Scope == "pod"
	if podScope {
		var err error
		if together, err = m.align(all, m.podWishes(pod, all)); err != nil {
			return err
		}
	}
	for _, c := range containers(pod) {
		best := together
		if !podScope {
			var err error
			if best, err = m.align(all, m.wishes(pod, c, all)); err != nil {
				return err
			}
		}
		if err := m.give(ctx, pod, c, best); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) align(all numa.Mask, wishes [][]numa.Hint) (numa.Hint, error) {
	best, ok := numa.Merge(m.cfg.Policy, all, wishes)
	if !ok {
		return best, &Refusal{"TopologyAffinityError", "Resources cannot be allocated with Topology locality"}
	}
	return best, nil
}

// give gives one container what it asks for, on the nodes if it can be.
func (m *Manager) give(ctx context.Context, pod *corev1.Pod, c *corev1.Container, near numa.Hint) error {
	if n := m.wholeCPUs(pod, c); n > 0 {
		if err := m.giveCPUs(pod, c, n, near.Nodes); err != nil {
			return err
		}
	}
	if m.cfg.StaticMemory && guaranteed(pod) {
		if err := m.giveMemory(pod, c, near.Nodes); err != nil {
			return err
		}
	}
	for _, w := range m.deviceWishes(pod, c) {
		if err := m.cfg.Devices.Allocate(ctx, pod.UID, c.Name, w, near.Nodes); err != nil {
			return &Refusal{"UnexpectedAdmissionError", "Allocate failed due to " + err.Error() + ", which is unexpected"}
		}
	}
	return nil
}

// wishes gathers the hints of all that a container asks for.
func (m *Manager) wishes(pod *corev1.Pod, c *corev1.Container, all numa.Mask) [][]numa.Hint {
	out := [][]numa.Hint{}
	if n := m.wholeCPUs(pod, c); n > 0 {
		out = append(out, m.cpuHints(pod, c, n, all))
	}
	if m.cfg.StaticMemory && guaranteed(pod) {
		for name, size := range memoryOf(c) {
			out = append(out, m.memoryHints(pod, c.Name, name, size, all))
		}
	}
	for _, w := range m.deviceWishes(pod, c) {
		out = append(out, m.cfg.Devices.Hints(pod.UID, c.Name, w, all))
	}
	return out
}

// podWishes gathers the hints for a whole pod: for what its containers have at
// the same time.
func (m *Manager) podWishes(pod *corev1.Pod, all numa.Mask) [][]numa.Hint {
	sum := &corev1.Container{Name: "", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}}
	cpus := 0
	for _, c := range containers(pod) {
		if passing(pod, c) {
			continue
		}
		cpus += m.wholeCPUs(pod, c)
		for name, q := range c.Resources.Limits {
			s := sum.Resources.Limits[name]
			s.Add(q)
			sum.Resources.Limits[name] = s
		}
	}
	for _, c := range containers(pod) {
		if passing(pod, c) {
			cpus = max(cpus, m.wholeCPUs(pod, c))
			for name, q := range c.Resources.Limits {
				if have := sum.Resources.Limits[name]; q.Cmp(have) > 0 {
					sum.Resources.Limits[name] = q
				}
			}
		}
	}
	out := [][]numa.Hint{}
	if cpus > 0 {
		out = append(out, m.cpuHints(pod, sum, cpus, all))
	}
	if m.cfg.StaticMemory && guaranteed(pod) {
		for name, size := range memoryOf(sum) {
			out = append(out, m.memoryHints(pod, sum.Name, name, size, all))
		}
	}
	for _, w := range m.deviceWishes(pod, sum) {
		out = append(out, m.cfg.Devices.Hints(pod.UID, sum.Name, w, all))
	}
	return out
}

// Release takes back what a pod had.
func (m *Manager) Release(uid types.UID) {
	m.mu.Lock()
	_, hadCPUs := m.cpus[uid]
	_, hadMemory := m.memory[uid]
	delete(m.cpus, uid)
	delete(m.memory, uid)
	if hadCPUs || hadMemory {
		m.save()
	}
	m.mu.Unlock()
	if m.cfg.Devices != nil {
		if err := m.cfg.Devices.Release(uid); err != nil {
			m.cfg.Log.Warn("cannot keep which devices containers have", "error", err)
		}
	}
}

// Keep releases what pods have that are no more.
func (m *Manager) Keep(known map[types.UID]bool) {
	var gone []types.UID
	m.mu.Lock()
	for uid := range m.cpus {
		gone = append(gone, uid)
	}
	for uid := range m.memory {
		gone = append(gone, uid)
	}
	m.mu.Unlock()
	if m.cfg.Devices != nil {
		gone = append(gone, m.cfg.Devices.Pods()...)
	}
	for _, uid := range gone {
		if !known[uid] {
			m.Release(uid)
		}
	}
}
