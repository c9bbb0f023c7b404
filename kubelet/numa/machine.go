// Package numa decides which CPUs and memory of a machine go together: the
// machine's layout and wishes flow in, sets of CPUs and nodes flow out. All
// of it is pure but for Read.
package numa

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// CPU is a logical CPU and where it is: Core and Socket are numbers that no
// other core or socket of the machine has.
type CPU struct{ ID, Core, Socket, Node int }

// Machine is what there is to give away.
type Machine struct {
	CPUs []CPU // by id
	// Memory in bytes by NUMA node, and the pages there are of each huge size
	// (bytes by "2Mi").
	Memory    map[int]uint64
	HugePages map[int]map[string]uint64
}

// Read reads a machine's layout from sysfs, mounted at root ("/sys").
func Read(root string) (*Machine, error) {
	m := &Machine{Memory: map[int]uint64{}, HugePages: map[int]map[string]uint64{}}
	online, err := readSet(filepath.Join(root, "devices/system/cpu/online"))
	if err != nil {
		return nil, fmt.Errorf("the machine's CPUs: %w", err)
	}
	nodeOf := map[int]int{}
	nodes, _ := filepath.Glob(filepath.Join(root, "devices/system/node/node[0-9]*"))
	for _, dir := range nodes {
		id, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "node"))
		if err != nil {
			continue
		}
		cpus, err := readSet(filepath.Join(dir, "cpulist"))
		if err != nil {
			return nil, err
		}
		for _, c := range cpus.UnsortedList() {
			nodeOf[c] = id
		}
		m.Memory[id] = nodeMemory(filepath.Join(dir, "meminfo"))
		m.HugePages[id] = nodeHugePages(dir)
	}
	cores := map[string]int{}
	for _, id := range online.List() {
		dir := filepath.Join(root, "devices/system/cpu", "cpu"+strconv.Itoa(id), "topology")
		socket := number(filepath.Join(dir, "physical_package_id"), 0)
		key := fmt.Sprint(socket, " ", number(filepath.Join(dir, "die_id"), 0), " ", number(filepath.Join(dir, "core_id"), id))
		core, ok := cores[key]
		if !ok {
			core = len(cores)
			cores[key] = core
		}
		m.CPUs = append(m.CPUs, CPU{ID: id, Core: core, Socket: socket, Node: nodeOf[id]})
	}
	if len(m.Memory) == 0 {
		m.Memory[0] = 0 // a kernel without NUMA
	}
	return m, nil
}

func readSet(path string) (cpuset.CPUSet, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return cpuset.CPUSet{}, err
	}
	return cpuset.Parse(strings.TrimSpace(string(b)))
}

func number(path string, none int) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return none
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 {
		return none
	}
	return n
}

// nodeMemory reads "Node 0 MemTotal: 123 kB".
func nodeMemory(path string) uint64 {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 4 && f[2] == "MemTotal:" {
			n, _ := strconv.ParseUint(f[3], 10, 64)
			return n << 10
		}
	}
	return 0
}

func nodeHugePages(dir string) map[string]uint64 {
	out := map[string]uint64{}
	sizes, _ := filepath.Glob(filepath.Join(dir, "hugepages", "hugepages-*kB"))
	for _, s := range sizes {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(s), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		name := strconv.FormatUint(kb, 10) + "Ki"
		switch {
		case kb%(1<<20) == 0:
			name = strconv.FormatUint(kb>>20, 10) + "Gi"
		case kb%(1<<10) == 0:
			name = strconv.FormatUint(kb>>10, 10) + "Mi"
		}
		out[name] = uint64(number(filepath.Join(s, "nr_hugepages"), 0)) * kb << 10
	}
	return out
}

// All is the set of the machine's CPUs.
func (m *Machine) All() cpuset.CPUSet {
	var ids []int
	for _, c := range m.CPUs {
		ids = append(ids, c.ID)
	}
	return cpuset.New(ids...)
}

// Nodes are the NUMA nodes.
func (m *Machine) Nodes() Mask {
	var out Mask
	for id := range m.Memory {
		out |= 1 << id
	}
	for _, c := range m.CPUs {
		out |= 1 << c.Node
	}
	return out
}

// On are the CPUs of some NUMA nodes.
func (m *Machine) On(nodes Mask) cpuset.CPUSet {
	var ids []int
	for _, c := range m.CPUs {
		if nodes.Has(c.Node) {
			ids = append(ids, c.ID)
		}
	}
	return cpuset.New(ids...)
}

// Threads is how many logical CPUs a core has at most.
func (m *Machine) Threads() int {
	by := map[int]int{}
	most := 1
	for _, c := range m.CPUs {
		by[c.Core]++
		most = max(most, by[c.Core])
	}
	return most
}

// Mask is a set of NUMA nodes; 0 is none, and stands for any in hints.
type Mask uint64

// Has says that a node is in the set.
func (m Mask) Has(node int) bool { return m&(1<<node) != 0 }

// Len counts the nodes.
func (m Mask) Len() int { return bits.OnesCount64(uint64(m)) }

// List lists the nodes in ascending order.
func (m Mask) List() []int {
	var out []int
	for n := range 64 {
		if m.Has(n) {
			out = append(out, n)
		}
	}
	return out
}

// Subsets lists the sets that are not empty, small ones first.
func (m Mask) Subsets() []Mask {
	var out []Mask
	for s := m; s > 0; s = (s - 1) & m {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Mask) int {
		if d := a.Len() - b.Len(); d != 0 {
			return d
		}
		return int(a) - int(b)
	})
	return out
}
