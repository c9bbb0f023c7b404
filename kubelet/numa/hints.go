package numa

// Hint says that a wish can be granted on some nodes, and whether on no fewer
// nodes that could be done.
type Hint struct {
	Nodes     Mask // 0: anywhere
	Preferred bool
}

// Policies of alignment (documentation "Topology Manager").
const (
	None       = "none"
	BestEffort = "best-effort"
	Restricted = "restricted"
	SingleNode = "single-numa-node"
)

// Merge finds the nodes on which all wishes of a container (or pod) can be
// granted together. Each wish comes with its hints: nil means that it does not
// care, an empty list that it cannot be granted aligned. ok says whether the
// policy lets the container in.
func Merge(policy string, all Mask, wishes [][]Hint) (best Hint, ok bool) {
	if policy == None || policy == "" {
		return Hint{}, true
	}
	lists := make([][]Hint, 0, len(wishes))
	for _, w := range wishes {
		switch {
		case w == nil:
			w = []Hint{{Preferred: true}}
		case len(w) == 0:
			w = []Hint{{}}
		}
		if policy == SingleNode {
			w = single(w)
		}
		lists = append(lists, w)
	}
	best, found := Hint{Nodes: all}, false
	permute(lists, Hint{Nodes: all, Preferred: true}, all, func(h Hint) {
		if !found || better(h, best) {
			best, found = h, true
		}
	})
	if policy == SingleNode && best.Nodes.Len() != 1 && all.Len() > 1 && !best.Preferred {
		best.Nodes = 0
	}
	return best, policy == BestEffort || best.Preferred
}

// single keeps the hints of one node, and those without any.
func single(hints []Hint) []Hint {
	var out []Hint
	for _, h := range hints {
		if h.Preferred && (h.Nodes == 0 || h.Nodes.Len() == 1) {
			out = append(out, h)
		}
	}
	return out
}

// permute calls f with what each choice of one hint of every list has in
// common, where it has anything.
func permute(lists [][]Hint, sofar Hint, all Mask, f func(Hint)) {
	if len(lists) == 0 {
		f(sofar)
		return
	}
	for _, h := range lists[0] {
		nodes := h.Nodes
		if nodes == 0 {
			nodes = all
		}
		next := Hint{Nodes: sofar.Nodes & nodes, Preferred: sofar.Preferred && h.Preferred}
		if next.Nodes != 0 {
			permute(lists[1:], next, all, f)
		}
	}
}

// better orders hints: preferred before others, then fewer nodes, then lower
// ones.
func better(a, b Hint) bool {
	if a.Preferred != b.Preferred {
		return a.Preferred
	}
	if a.Nodes.Len() != b.Nodes.Len() {
		return a.Nodes.Len() < b.Nodes.Len()
	}
	return a.Nodes < b.Nodes
}

// Fit makes the hints of a wish from what the nodes have in all and what is
// left: a set of nodes is preferred when no smaller one could ever hold the
// wish. usable may exclude sets; nil excludes none.
func Fit(all Mask, want uint64, total, free func(node int) uint64, usable func(Mask) bool) []Hint {
	sum := func(m Mask, of func(int) uint64) (n uint64) {
		for _, node := range m.List() {
			n += of(node)
		}
		return n
	}
	least := all.Len() + 1
	out := []Hint{}
	for _, m := range all.Subsets() {
		if usable != nil && !usable(m) || sum(m, total) < want {
			continue
		}
		least = min(least, m.Len())
		if sum(m, free) >= want {
			out = append(out, Hint{Nodes: m})
		}
	}
	for i := range out {
		out[i].Preferred = out[i].Nodes.Len() == least
	}
	return out
}
