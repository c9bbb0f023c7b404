package numa

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/utils/cpuset"
)

// Choice is how CPUs are chosen (options of the static CPU manager policy).
type Choice struct {
	FullCores       bool // full-pcpus-only: never half a core
	SpreadOverNodes bool // distribute-cpus-across-numa
	SpreadOverCores bool // distribute-cpus-across-cores
	PreferSocket    bool // align-by-socket
}

// TooFewError says that there are not enough CPUs.
type TooFewError struct{ Requested, Available int }

func (e *TooFewError) Error() string {
	return fmt.Sprintf("not enough cpus available to satisfy request: requested=%d, available=%d", e.Requested, e.Available)
}

// Pick chooses n of the free CPUs, those of the preferred nodes (0 for any)
// before others: whole sockets, then whole cores, then what is left of cores
// in use, so that what remains free is in large pieces.
func (m *Machine) Pick(free cpuset.CPUSet, n int, preferred Mask, how Choice) (cpuset.CPUSet, error) {
	if how.FullCores {
		free = m.wholeCores(free)
	}
	if free.Size() < n {
		return cpuset.CPUSet{}, &TooFewError{n, free.Size()}
	}
	if how.PreferSocket && preferred != 0 {
		preferred = m.socketsOf(preferred)
	}
	if how.SpreadOverNodes {
		if out, ok := m.spread(free, n, preferred, how); ok {
			return out, nil
		}
	}
	var out cpuset.CPUSet
	if preferred != 0 {
		near := free.Intersection(m.On(preferred))
		out = m.take(near, min(n, near.Size()), how)
	}
	return out.Union(m.take(free.Difference(out), n-out.Size(), how)), nil
}

// wholeCores are the CPUs of cores of which all are free.
func (m *Machine) wholeCores(free cpuset.CPUSet) cpuset.CPUSet {
	var ids []int
	for _, group := range m.groups(m.All(), func(c CPU) int { return c.Core }) {
		if group.set.IsSubsetOf(free) {
			ids = append(ids, group.set.UnsortedList()...)
		}
	}
	return cpuset.New(ids...)
}

// socketsOf widens a set of nodes to all those of their sockets.
func (m *Machine) socketsOf(nodes Mask) Mask {
	sockets := map[int]bool{}
	for _, c := range m.CPUs {
		if nodes.Has(c.Node) {
			sockets[c.Socket] = true
		}
	}
	for _, c := range m.CPUs {
		if sockets[c.Socket] {
			nodes |= 1 << c.Node
		}
	}
	return nodes
}

// spread takes equal parts from the fewest nodes that can hold n.
func (m *Machine) spread(free cpuset.CPUSet, n int, preferred Mask, how Choice) (cpuset.CPUSet, bool) {
	among := m.Nodes()
	if preferred != 0 && free.Intersection(m.On(preferred)).Size() >= n {
		among = preferred
	}
	unit := 1
	if how.FullCores {
		unit = m.Threads()
	}
	for _, nodes := range among.Subsets() {
		k := nodes.Len()
		if n%(k*unit) != 0 {
			continue
		}
		var out cpuset.CPUSet
		for _, node := range nodes.List() {
			near := free.Intersection(m.On(1 << node))
			if near.Size() < n/k {
				break
			}
			out = out.Union(m.take(near, n/k, how))
		}
		if out.Size() == n {
			return out, true
		}
	}
	return cpuset.CPUSet{}, false
}

// group is the CPUs of one socket or core.
type group struct {
	key int
	set cpuset.CPUSet
}

func (m *Machine) groups(of cpuset.CPUSet, key func(CPU) int) []group {
	by := map[int][]int{}
	for _, c := range m.CPUs {
		if of.Contains(c.ID) {
			by[key(c)] = append(by[key(c)], c.ID)
		}
	}
	var out []group
	for k, ids := range by {
		out = append(out, group{k, cpuset.New(ids...)})
	}
	slices.SortFunc(out, func(a, b group) int { return cmp.Compare(a.key, b.key) })
	return out
}

// take chooses n of the free CPUs; there must be as many.
func (m *Machine) take(free cpuset.CPUSet, n int, how Choice) cpuset.CPUSet {
	var out cpuset.CPUSet
	core, socket := func(c CPU) int { return c.Core }, func(c CPU) int { return c.Socket }
	if how.SpreadOverCores {
		return m.oneOfEach(free, n)
	}
	whole := func(key func(CPU) int) {
		size := map[int]int{}
		for _, g := range m.groups(m.All(), key) {
			size[g.key] = g.set.Size()
		}
		for _, g := range m.ordered(free.Difference(out), key) {
			if g.set.Size() == size[g.key] && g.set.Size() <= n-out.Size() {
				out = out.Union(g.set)
			}
		}
	}
	whole(socket)
	whole(core)
	for _, g := range m.ordered(free.Difference(out), core) {
		for _, id := range g.set.List() {
			if out.Size() < n {
				out = out.Union(cpuset.New(id))
			}
		}
	}
	return out
}

// ordered lists groups in the order in which they are used up: those in
// sockets, and then those themselves, that have the least left free.
func (m *Machine) ordered(free cpuset.CPUSet, key func(CPU) int) []group {
	left := map[int]int{}
	socket := map[int]int{}
	for _, c := range m.CPUs {
		socket[c.ID] = c.Socket
		if free.Contains(c.ID) {
			left[c.Socket]++
		}
	}
	out := m.groups(free, key)
	slices.SortStableFunc(out, func(a, b group) int {
		sa, sb := socket[a.set.List()[0]], socket[b.set.List()[0]]
		return cmp.Or(cmp.Compare(left[sa], left[sb]), cmp.Compare(sa, sb), cmp.Compare(a.set.Size(), b.set.Size()), cmp.Compare(a.key, b.key))
	})
	return out
}

// oneOfEach takes one CPU of every core before a second of any.
func (m *Machine) oneOfEach(free cpuset.CPUSet, n int) cpuset.CPUSet {
	var out cpuset.CPUSet
	for out.Size() < n {
		for _, g := range m.groups(free.Difference(out), func(c CPU) int { return c.Core }) {
			if out.Size() < n {
				out = out.Union(cpuset.New(g.set.List()[0]))
			}
		}
	}
	return out
}
