package exclusive

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/kubelet/numa"
)

// freeCPUs are those that a container may get. Call with the lock held.
func (m *Manager) freeCPUs(pod *corev1.Pod, c *corev1.Container) cpuset.CPUSet {
	free := m.cfg.Machine.All().Difference(m.reserved)
	for _, pod := range m.cpus {
		for _, set := range pod {
			free = free.Difference(set)
		}
	}
	return free.Union(m.reusableCPUs(pod, c))
}

// reusableCPUs are those of the pod's init containers that are done before c
// starts. Call with the lock held.
func (m *Manager) reusableCPUs(pod *corev1.Pod, c *corev1.Container) cpuset.CPUSet {
	var out cpuset.CPUSet
	for _, o := range containers(pod) {
		if o.Name == c.Name {
			break
		}
		if passing(pod, o) {
			out = out.Union(m.cpus[pod.UID][o.Name])
		} else {
			out = out.Difference(m.cpus[pod.UID][o.Name])
		}
	}
	return out
}

func (m *Manager) cpuHints(pod *corev1.Pod, c *corev1.Container, n int, all numa.Mask) []numa.Hint {
	m.mu.Lock()
	defer m.mu.Unlock()
	if have, ok := m.cpus[pod.UID][c.Name]; ok {
		var nodes numa.Mask
		for _, cpu := range m.cfg.Machine.CPUs {
			if have.Contains(cpu.ID) {
				nodes |= 1 << cpu.Node
			}
		}
		return []numa.Hint{{Nodes: nodes, Preferred: true}}
	}
	free, total := m.freeCPUs(pod, c), m.cfg.Machine.All().Difference(m.reserved)
	on := func(set cpuset.CPUSet) func(int) uint64 {
		return func(node int) uint64 { return uint64(set.Intersection(m.cfg.Machine.On(1 << node)).Size()) }
	}
	return numa.Fit(all, uint64(n), on(total), on(free), nil)
}

func (m *Manager) giveCPUs(pod *corev1.Pod, c *corev1.Container, n int, near numa.Mask) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.cpus[pod.UID][c.Name]; ok {
		return nil
	}
	if threads := m.cfg.Machine.Threads(); m.how.FullCores && n%threads != 0 {
		return &Refusal{"SMTAlignmentError", fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", n, threads)}
	}
	free := m.freeCPUs(pod, c)
	reuse := m.reusableCPUs(pod, c).Intersection(free)
	var got cpuset.CPUSet
	if reuse.Size() > 0 {
		first, err := m.cfg.Machine.Pick(reuse, min(n, reuse.Size()), near, m.how)
		if err == nil {
			got = first
		}
	}
	rest, err := m.cfg.Machine.Pick(free.Difference(got), n-got.Size(), near, m.how)
	if err != nil {
		return &Refusal{"UnexpectedAdmissionError", "Allocate failed due to " + err.Error() + ", which is unexpected"}
	}
	if m.cpus[pod.UID] == nil {
		m.cpus[pod.UID] = map[string]cpuset.CPUSet{}
	}
	m.cpus[pod.UID][c.Name] = got.Union(rest)
	m.save()
	return nil
}

// memoryOf is the memory that a container asks for, by kind: bytes.
func memoryOf(c *corev1.Container) map[corev1.ResourceName]uint64 {
	out := map[corev1.ResourceName]uint64{}
	for name, q := range c.Resources.Limits {
		if (name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)) && q.Sign() > 0 {
			out[name] = uint64(q.Value())
		}
	}
	return out
}

// totalMemory is what a node has for containers.
func (m *Manager) totalMemory(node int, name corev1.ResourceName) uint64 {
	total := m.cfg.Machine.Memory[node]
	if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
		total = m.cfg.Machine.HugePages[node][size]
	} else {
		for _, n := range m.cfg.Machine.HugePages[node] {
			total -= min(total, n)
		}
	}
	return total - min(total, m.cfg.ReservedMemory[node][name])
}

// freeMemory is what is left of that; what containers have on several nodes is
// taken from the lowest first. Call with the lock held.
func (m *Manager) freeMemory(name corev1.ResourceName) func(node int) uint64 {
	free := map[int]uint64{}
	for _, n := range m.cfg.Machine.Nodes().List() {
		free[n] = m.totalMemory(n, name)
	}
	for _, pod := range m.memory {
		for _, blocks := range pod {
			for _, b := range blocks {
				left := b.Size
				for _, n := range b.Nodes {
					if b.Type == name {
						part := min(free[n], left)
						free[n], left = free[n]-part, left-part
					}
				}
			}
		}
	}
	return func(node int) uint64 { return free[node] }
}

// usable says that a set of nodes can be used together: those that containers
// use together already are used in no other way. Call with the lock held.
func (m *Manager) usable(nodes numa.Mask) bool {
	for _, pod := range m.memory {
		for _, blocks := range pod {
			for _, b := range blocks {
				var used numa.Mask
				for _, n := range b.Nodes {
					used |= 1 << n
				}
				if used&nodes != 0 && used != nodes && (used.Len() > 1 || nodes.Len() > 1) {
					return false
				}
			}
		}
	}
	return true
}

func (m *Manager) memoryHints(pod *corev1.Pod, container string, name corev1.ResourceName, size uint64, all numa.Mask) []numa.Hint {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.memory[pod.UID][container] {
		if b.Type == name {
			var nodes numa.Mask
			for _, n := range b.Nodes {
				nodes |= 1 << n
			}
			return []numa.Hint{{Nodes: nodes, Preferred: true}}
		}
	}
	return numa.Fit(all, size, func(n int) uint64 { return m.totalMemory(n, name) }, m.freeMemory(name), m.usable)
}

// giveMemory gives a container its memory, on the nodes or, where no policy
// names any, on the fewest that have it.
func (m *Manager) giveMemory(pod *corev1.Pod, c *corev1.Container, near numa.Mask) error {
	all := m.cfg.Machine.Nodes()
	want := memoryOf(c)
	names := make([]corev1.ResourceName, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	var blocks []Block
	for _, name := range names {
		hints := m.memoryHints(pod, c.Name, name, want[name], all)
		m.mu.Lock()
		had := slices.ContainsFunc(m.memory[pod.UID][c.Name], func(b Block) bool { return b.Type == name })
		m.mu.Unlock()
		if had {
			continue
		}
		best, found := numa.Hint{}, false
		for _, h := range hints {
			switch {
			case near != 0 && h.Nodes == near:
				best, found = h, true
			case !found:
				best, found = h, true
			}
		}
		if near != 0 && found && best.Nodes != near {
			// The policy's nodes do not do: the fewest that hold them.
			for _, h := range hints {
				if h.Nodes&near == near {
					best = h
					break
				}
			}
		}
		if !found {
			return &Refusal{"UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to [memorymanager] failed to find NUMA nodes with %d bytes of %s, which is unexpected", want[name], name)}
		}
		blocks = append(blocks, Block{best.Nodes.List(), name, want[name]})
	}
	if len(blocks) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.memory[pod.UID] == nil {
		m.memory[pod.UID] = map[string][]Block{}
	}
	m.memory[pod.UID][c.Name] = append(m.memory[pod.UID][c.Name], blocks...)
	m.save()
	return nil
}

// CPUs returns the CPUs that a container runs on, in the kernel's notation:
// its own, or all that nobody has for itself; "" for any. own says which.
func (m *Manager) CPUs(uid types.UID, container string) (set cpuset.CPUSet, own bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cfg.StaticCPUs {
		return cpuset.CPUSet{}, false
	}
	if set, ok := m.cpus[uid][container]; ok {
		return set, true
	}
	return m.shared(), false
}

// CountCPUs returns how many CPUs containers have for themselves, and how many
// the others share; 0 and 0 where none are given to single containers.
func (m *Manager) CountCPUs() (own, shared int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cfg.StaticCPUs {
		return 0, 0
	}
	for _, pod := range m.cpus {
		for _, set := range pod {
			own += set.Size()
		}
	}
	return own, m.shared().Size()
}

// shared are the CPUs that nobody has for itself. Call with the lock held.
func (m *Manager) shared() cpuset.CPUSet {
	out := m.cfg.Machine.All()
	if m.strict {
		out = out.Difference(m.reserved)
	}
	for _, pod := range m.cpus {
		for _, set := range pod {
			out = out.Difference(set)
		}
	}
	if out.IsEmpty() {
		return m.reserved
	}
	return out
}

// Memory returns what a container has, and the nodes to which it is bound in
// the kernel's notation, "" for any.
func (m *Manager) Memory(uid types.UID, container string) (blocks []Block, nodes string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	blocks = slices.Clone(m.memory[uid][container])
	var all []string
	seen := map[int]bool{}
	for _, b := range blocks {
		for _, n := range b.Nodes {
			if !seen[n] {
				seen[n] = true
				all = append(all, strconv.Itoa(n))
			}
		}
	}
	slices.Sort(all)
	return blocks, strings.Join(all, ",")
}

// Allocatable is what can be given to containers: CPUs and memory.
func (m *Manager) Allocatable() (cpuset.CPUSet, []Block) {
	cpus := m.cfg.Machine.All().Difference(m.reserved)
	var blocks []Block
	if m.cfg.StaticMemory {
		for _, n := range m.cfg.Machine.Nodes().List() {
			blocks = append(blocks, Block{[]int{n}, corev1.ResourceMemory, m.totalMemory(n, corev1.ResourceMemory)})
			for size := range m.cfg.Machine.HugePages[n] {
				name := corev1.ResourceName(corev1.ResourceHugePagesPrefix + size)
				blocks = append(blocks, Block{[]int{n}, name, m.totalMemory(n, name)})
			}
		}
	}
	return cpus, blocks
}

// cpuState and memoryState are the files in which upstream's kubelet keeps the
// same, by their fields' names, since tools read them.
type cpuState struct {
	Policy  string                          `json:"policyName"`
	Default string                          `json:"defaultCpuSet"`
	Entries map[types.UID]map[string]string `json:"entries,omitempty"`
}

type memoryState struct {
	Policy  string                           `json:"policyName"`
	Entries map[types.UID]map[string][]Block `json:"entries,omitempty"`
}

// save writes what must outlive a restart. Call with the lock held.
func (m *Manager) save() {
	write := func(name string, v any) {
		b, err := json.Marshal(v)
		path := filepath.Join(m.cfg.Dir, name)
		if err == nil {
			err = atomicfile.Write(path, b, 0o600)
		}
		if err != nil {
			m.cfg.Log.Warn("cannot keep what containers have for themselves", "file", path, "error", err)
		}
	}
	if m.cfg.StaticCPUs {
		st := cpuState{Policy: "static", Default: m.shared().String(), Entries: map[types.UID]map[string]string{}}
		for uid, pod := range m.cpus {
			st.Entries[uid] = map[string]string{}
			for name, set := range pod {
				st.Entries[uid][name] = set.String()
			}
		}
		write("cpu_manager_state", st)
	}
	if m.cfg.StaticMemory {
		write("memory_manager_state", memoryState{Policy: "Static", Entries: m.memory})
	}
}

// recall takes up what was given before a restart. What the machine no longer
// has is left out.
func (m *Manager) recall() {
	read := func(name string, v any) {
		b, err := os.ReadFile(filepath.Join(m.cfg.Dir, name))
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil && !os.IsNotExist(err) {
			m.cfg.Log.Warn("what containers had for themselves cannot be read", "file", name, "error", err)
		}
	}
	if m.cfg.StaticCPUs {
		var st cpuState
		read("cpu_manager_state", &st)
		free := m.cfg.Machine.All()
		for uid, pod := range st.Entries {
			for name, text := range pod {
				set, err := cpuset.Parse(text)
				if err != nil || !set.IsSubsetOf(free) {
					continue
				}
				if m.cpus[uid] == nil {
					m.cpus[uid] = map[string]cpuset.CPUSet{}
				}
				m.cpus[uid][name] = set
			}
		}
	}
	if m.cfg.StaticMemory {
		var st memoryState
		read("memory_manager_state", &st)
		if st.Entries != nil {
			m.memory = st.Entries
		}
	}
	m.save()
}
