package scheduler

import (
	"container/list"
	"encoding/json"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"strconv"
)

// class is what all pods of one shape share: the prepared checks and rates
// and, per node, their results as of the node's generation. Scheduling one
// more pod of the class asks the plugins only about nodes that have changed
// since, usually the one that the previous pod went to.
type class struct {
	key    string
	checks []Check
	rates  []weightedRate
	images uint64 // Snapshot.images that the rates have seen

	generation []uint64
	refused    [][]*Reason
	raw        [][]int64 // per rate, per node
}

type weightedRate struct {
	Weighted
	rate Rate
}

// classes is a cache of the classes used last.
type classes struct {
	byKey map[string]*list.Element
	order *list.List
	limit int
}

func newClasses(limit int) *classes {
	return &classes{byKey: map[string]*list.Element{}, order: list.New(), limit: limit}
}

// of finds or makes the class of a pod.
func (c *classes) of(p *Pod, profile *Profile, s *Snapshot) *class {
	key := p.classKey(profile.Name)
	if len(p.claims) > 0 {
		// What is prepared for it holds for this state of the storage only.
		key += "." + strconv.FormatUint(s.storage, 36)
	}
	if len(p.request.Scalar) > 0 && s.deviceClasses > 0 {
		// Which resources are devices is up to the classes.
		key += "/" + strconv.FormatUint(s.deviceClasses, 36)
	}
	if e, ok := c.byKey[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*class)
	}
	cl := &class{key: key, images: s.images}
	for _, f := range profile.Filters {
		if check := f.For(p); check != nil {
			cl.checks = append(cl.checks, check)
		}
	}
	for _, w := range profile.Scorers {
		if rate := w.For(p, s); rate != nil {
			cl.rates = append(cl.rates, weightedRate{w, rate})
		}
	}
	cl.raw = make([][]int64, len(cl.rates))
	c.byKey[key] = c.order.PushFront(cl)
	if c.order.Len() > c.limit {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.byKey, oldest.Value.(*class).key)
	}
	return cl
}

var classSeed = maphash.MakeSeed()

// classKey names the pod's shape: everything about it that a plugin reads.
// Two hashes of 64 bits make a collision a matter of theory.
func (p *Pod) classKey(profile string) string {
	if p.class != "" {
		return p.class
	}
	shape := struct {
		Profile, Node         string
		Selector              map[string]string
		Affinity, Tolerations any
		CPU, Memory, Eph      int64
		SCPU, SMemory         int64
		Scalar                any
		Ports                 []string
		Images                []string
		// Pods with claims share nothing with others.
		Claims any
	}{
		Profile: profile, Node: p.Spec.NodeName, Selector: p.Spec.NodeSelector, Tolerations: p.Spec.Tolerations,
		CPU: p.request.MilliCPU, Memory: p.request.Memory, Eph: p.request.Ephemeral,
		SCPU: p.scoredCPU, SMemory: p.scoredMemory, Scalar: p.request.Scalar,
	}
	if p.Spec.Affinity != nil {
		shape.Affinity = p.Spec.Affinity
	}
	if len(p.claims) > 0 {
		shape.Claims = []any{p.Namespace, p.UID, p.claims}
	}
	for _, hp := range p.ports {
		shape.Ports = append(shape.Ports, hp.ip+"/"+string(hp.protocol)+"/"+strconv.Itoa(int(hp.port)))
	}
	for i := range p.Spec.InitContainers {
		shape.Images = append(shape.Images, p.Spec.InitContainers[i].Image)
	}
	for i := range p.Spec.Containers {
		shape.Images = append(shape.Images, p.Spec.Containers[i].Image)
	}
	raw, err := json.Marshal(shape)
	if err != nil { // cannot happen: plain data
		return string(p.UID)
	}
	a, b := maphash.Bytes(classSeed, raw), uint64(0)
	raw = append(raw, 1)
	b = maphash.Bytes(classSeed, raw)
	p.class = strconv.FormatUint(a, 36) + "." + strconv.FormatUint(b, 36)
	return p.class
}

// refresh brings the class up to date with node i.
func (c *class) refresh(s *Snapshot, i int) {
	n := s.nodes[i]
	if c.generation[i] == n.generation {
		return
	}
	c.generation[i] = n.generation
	c.refused[i] = nil
	for _, check := range c.checks {
		if reasons := check(n); len(reasons) > 0 {
			// Like upstream's, the first filter that refuses speaks for the node.
			c.refused[i] = reasons
			return
		}
	}
	for r := range c.rates {
		c.raw[r][i] = c.rates[r].rate(n)
	}
}

// resize makes room for the snapshot's nodes. A node that moved to another
// index has another generation than the one recorded there.
func (c *class) resize(s *Snapshot) {
	n := len(s.nodes)
	if c.images != s.images {
		c.images = s.images
		clear(c.generation)
	}
	for len(c.generation) < n {
		c.generation = append(c.generation, 0)
		c.refused = append(c.refused, nil)
		for r := range c.raw {
			c.raw[r] = append(c.raw[r], 0)
		}
	}
	c.generation, c.refused = c.generation[:n], c.refused[:n]
	for r := range c.raw {
		c.raw[r] = c.raw[r][:n]
	}
}

// place chooses the node for a pod of the class with the highest sum of
// weighted scores, at random among equals; without one it returns the
// diagnosis.
func (c *class) place(p *Pod, profile *Profile, s *Snapshot, perNode bool) (*Node, *Diagnosis) {
	c.resize(s)
	var relations []*Related
	for _, r := range profile.Relations {
		if prepared := r.Prepare(p, s); prepared != nil {
			relations = append(relations, prepared)
		}
	}
	refused := c.refused
	if len(relations) > 0 {
		refused = make([][]*Reason, len(s.nodes))
	}
	feasible := make([]int, 0, len(s.nodes))
	highest := make([]int64, len(c.rates))
	fault := false
	for i, n := range s.nodes {
		c.refresh(s, i)
		reasons := c.refused[i]
		for _, r := range relations {
			if reasons == nil && r.Check != nil {
				reasons = r.Check(n)
			}
		}
		refused[i] = reasons
		if reasons != nil {
			fault = fault || reasons[0].Fault
			continue
		}
		feasible = append(feasible, i)
		for r := range c.rates {
			highest[r] = max(highest[r], c.raw[r][i])
		}
	}
	// What cannot be told of one node is not guessed from the others.
	if len(feasible) == 0 || fault {
		return nil, diagnose(refused, s, perNode)
	}
	related := rateRelations(relations, feasible, s)
	var best *Node
	var bestScore int64 = math.MinInt64
	ties := 0
	for at, i := range feasible {
		score := related(at)
		for r := range c.rates {
			score += c.rates[r].Weight * c.rates[r].Normalize(c.raw[r][i], highest[r])
		}
		switch {
		case score > bestScore:
			best, bestScore, ties = s.nodes[i], score, 1
		case score == bestScore:
			ties++
			if rand.IntN(ties) == 0 {
				best = s.nodes[i]
			}
		}
	}
	return best, nil
}

// rateRelations rates the feasible nodes (by their place in feasible).
func rateRelations(relations []*Related, feasible []int, s *Snapshot) func(at int) int64 {
	var sums []int64
	for _, r := range relations {
		if r.Rate == nil {
			continue
		}
		if sums == nil {
			sums = make([]int64, len(feasible))
		}
		raw := make([]int64, len(feasible))
		lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
		for at, i := range feasible {
			raw[at] = r.Rate(s.nodes[i])
			lowest, highest = min(lowest, raw[at]), max(highest, raw[at])
		}
		for at := range raw {
			sums[at] += r.Weight * r.Prefer(raw[at], lowest, highest)
		}
	}
	return func(at int) int64 {
		if sums == nil {
			return 0
		}
		return sums[at]
	}
}

func diagnose(refused [][]*Reason, s *Snapshot, perNode bool) *Diagnosis {
	d := &Diagnosis{Nodes: len(s.nodes), Reasons: map[string]int{}, Plugins: map[string]bool{}}
	if perNode {
		d.PerNode = map[string][]*Reason{}
	}
	for i, n := range s.nodes {
		d.add(n.Name, refused[i])
	}
	return d
}
