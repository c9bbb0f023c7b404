package numa

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"k8s.io/utils/cpuset"
)

// server is a machine of two sockets with one node each, of cores with two
// threads: CPU i and i+cores*2 share a core.
func server(cores int) *Machine {
	m := &Machine{Memory: map[int]uint64{0: 1 << 30, 1: 1 << 30}}
	for i := range cores * 4 {
		core := i % (cores * 2)
		m.CPUs = append(m.CPUs, CPU{ID: i, Core: core, Socket: core / cores, Node: core / cores})
	}
	return m
}

func TestPick(t *testing.T) {
	m := server(4) // 16 CPUs; cores 0-3 on node 0: CPUs 0-3 and 8-11
	all := m.All()
	for _, c := range []struct {
		name, free string
		n          int
		on         Mask
		how        Choice
		want       string
	}{
		{"a whole core", "0-15", 2, 0, Choice{}, "0,8"},
		{"half a core", "0-15", 1, 0, Choice{}, "0"},
		{"the other half", "1-15", 1, 0, Choice{}, "8"},
		{"a whole socket", "0-15", 8, 0, Choice{}, "0-3,8-11"},
		{"a whole socket and a core", "0-15", 10, 0, Choice{}, "0-4,8-12"},
		{"the fuller socket first", "0-7,9-15", 2, 0, Choice{}, "1,9"},
		{"the nodes that are preferred", "0-15", 2, 1 << 1, Choice{}, "4,12"},
		{"and others when they are full", "0-4,8-12", 4, 1 << 1, Choice{}, "0,4,8,12"},
		{"whole cores only", "1-15", 2, 0, Choice{FullCores: true}, "1,9"},
		{"over both nodes", "0-2,4-15", 12, 0, Choice{SpreadOverNodes: true}, "0-2,4-6,8-10,12-14"},
		{"one of each core", "0-15", 4, 0, Choice{SpreadOverCores: true}, "0-3"},
		{"too few", "0-1", 3, 0, Choice{}, "not enough cpus available to satisfy request: requested=3, available=2"},
		{"no whole core is left", "0-7", 2, 0, Choice{FullCores: true}, "not enough cpus available to satisfy request: requested=2, available=0"},
	} {
		free, err := cpuset.Parse(c.free)
		if err != nil || !free.IsSubsetOf(all) {
			t.Fatal(err)
		}
		got, err := m.Pick(free, c.n, c.on, c.how)
		text := got.String()
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

// TestPickGivesWhatIsAsked: whatever is free, as many as asked are chosen, all
// of them free.
func TestPickGivesWhatIsAsked(t *testing.T) {
	m := server(3)
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var ids []int
		for _, c := range m.CPUs {
			if r.IntN(3) > 0 {
				ids = append(ids, c.ID)
			}
		}
		free := cpuset.New(ids...)
		how := Choice{FullCores: r.IntN(2) == 0, SpreadOverNodes: r.IntN(2) == 0, SpreadOverCores: r.IntN(4) == 0, PreferSocket: r.IntN(2) == 0}
		n := r.IntN(8)
		got, err := m.Pick(free, n, Mask(r.IntN(4)), how)
		if err == nil && (got.Size() != n || !got.IsSubsetOf(free)) {
			t.Fatalf("%d of %s, %+v: %s", n, free, how, got)
		}
		if err != nil && !how.FullCores && free.Size() >= n {
			t.Fatalf("%d of %s: %v", n, free, err)
		}
	}
}

func TestMerge(t *testing.T) {
	const zero, one, both = Mask(1), Mask(2), Mask(3)
	cpu := []Hint{{zero, true}, {one, true}, {both, false}}
	for _, c := range []struct {
		name, policy string
		wishes       [][]Hint
		nodes        Mask
		preferred    bool
		ok           bool
	}{
		{"none does not look", None, [][]Hint{cpu}, 0, false, true},
		{"the lowest of equals", BestEffort, [][]Hint{cpu, nil}, zero, true, true},
		{"where both can be", Restricted, [][]Hint{cpu, {{one, true}}}, one, true, true},
		{"apart, but let in", BestEffort, [][]Hint{{{zero, true}}, {{one, true}}}, both, false, true},
		{"apart", Restricted, [][]Hint{{{zero, true}}, {{one, true}}}, both, false, false},
		{"both nodes are needed", Restricted, [][]Hint{{{both, true}}}, both, true, true},
		{"but only one may be", SingleNode, [][]Hint{{{both, true}}}, 0, false, false},
		{"one node", SingleNode, [][]Hint{cpu, {{one, true}, {both, false}}}, one, true, true},
		{"nobody cares", SingleNode, [][]Hint{nil, nil}, both, true, true},
		{"cannot be aligned", Restricted, [][]Hint{cpu, {}}, zero, false, false},
	} {
		h, ok := Merge(c.policy, both, c.wishes)
		if h.Nodes != c.nodes || h.Preferred != c.preferred || ok != c.ok {
			t.Errorf("%s: %+v, %v", c.name, h, ok)
		}
	}
}

func TestFit(t *testing.T) {
	free := map[int]uint64{0: 2, 1: 8}
	hints := Fit(3, 4, func(int) uint64 { return 8 }, func(n int) uint64 { return free[n] }, nil)
	if got := fmt.Sprint(hints); got != "[{2 true} {3 false}]" {
		t.Error(got)
	}
	hints = Fit(3, 12, func(int) uint64 { return 8 }, func(n int) uint64 { return 8 }, nil)
	if got := fmt.Sprint(hints); got != "[{3 true}]" {
		t.Error(got)
	}
}

func TestReadMachine(t *testing.T) {
	m, err := Read("/sys")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.CPUs) == 0 || m.Nodes() == 0 || m.On(m.Nodes()).Size() != len(m.CPUs) {
		t.Errorf("%+v", m)
	}
}
