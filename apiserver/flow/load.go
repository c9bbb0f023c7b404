package flow

import (
	"cmp"
	"math"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"
)

// load makes the given objects, which are only read, the configuration. A
// schema whose level is missing takes no part. Seats and queues of levels that
// stay keep their requests; those of a level that goes are used up.
func (c *Controller) load(levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.class.Load()
	next := &classifier{pools: map[string]*pool{}}
	levels, schemas = withMandatory(levels, schemas)
	shares := 0
	for _, l := range levels {
		shares += nominalShares(l)
	}
	uids := map[string]string{}
	for _, l := range levels {
		var p *pool
		if old != nil {
			p = old.pools[l.Name]
		}
		if p == nil {
			p = &pool{name: l.Name, usages: map[string]*usage{}, average: firstGuess}
		}
		p.configure(l, seatsOf(l, c.cfg.Seats, shares), c.cfg.Seats)
		next.pools[l.Name], uids[l.Name] = p, string(l.UID)
	}
	for _, s := range schemas {
		p := next.pools[s.Spec.PriorityLevelConfiguration.Name]
		if p == nil {
			continue
		}
		f := &flowSchema{
			name: s.Name, precedence: s.Spec.MatchingPrecedence,
			rules: s.Spec.Rules, pool: p, usage: c.usage(p, s.Name),
		}
		if m := s.Spec.DistinguisherMethod; m != nil {
			f.by = m.Type
		}
		if level := uids[p.name]; s.UID != "" && level != "" {
			f.uid, f.levelUID = []string{string(s.UID)}, []string{level}
		}
		next.schemas = append(next.schemas, f)
	}
	slices.SortFunc(next.schemas, func(a, b *flowSchema) int {
		return cmp.Or(last(a)-last(b), cmp.Compare(a.precedence, b.precedence), cmp.Compare(a.name, b.name))
	})
	c.class.Store(next)
	c.forget(next)
}

// firstGuess is how many seconds a request is thought to take before any has
// been seen.
const firstGuess = 0.003

// last puts the schema that everything falls to behind all others.
func last(s *flowSchema) int {
	if s.name == flowcontrolv1.FlowSchemaNameCatchAll {
		return 1
	}
	return 0
}

// withMandatory adds what must be there and is not, such as after its
// deletion until it has been made again.
func withMandatory(levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) ([]*flowcontrolv1.PriorityLevelConfiguration, []*flowcontrolv1.FlowSchema) {
	levels, schemas = slices.Clone(levels), slices.Clone(schemas)
	for _, d := range DefaultLevels() {
		if mandatory(d.Name) && !slices.ContainsFunc(levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == d.Name }) {
			levels = append(levels, d)
		}
	}
	for _, d := range DefaultSchemas() {
		if mandatory(d.Name) && !slices.ContainsFunc(schemas, func(s *flowcontrolv1.FlowSchema) bool { return s.Name == d.Name }) {
			schemas = append(schemas, d)
		}
	}
	return levels, schemas
}

func nominalShares(l *flowcontrolv1.PriorityLevelConfiguration) int {
	switch {
	case l.Spec.Limited != nil:
		return int(ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 30))
	case l.Spec.Exempt != nil:
		return int(ptr.Deref(l.Spec.Exempt.NominalConcurrencyShares, 0))
	}
	return 0
}

// seatsOf divides the server's seats by the levels' shares, rounding up. See
// LimitedPriorityLevelConfiguration.
func seatsOf(l *flowcontrolv1.PriorityLevelConfiguration, seats, shares int) int {
	if shares == 0 {
		return 0
	}
	return int(math.Ceil(float64(seats) * float64(nominalShares(l)) / float64(shares)))
}

// configure gives the level its seats and queues.
func (p *pool) configure(l *flowcontrolv1.PriorityLevelConfiguration, nominal, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.nominal != nominal
	p.nominal, p.lower, p.upper = nominal, nominal, nominal
	p.isExempt = l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	queues := 0
	if lim := l.Spec.Limited; lim != nil {
		p.lower -= int(math.Round(float64(nominal) * float64(ptr.Deref(lim.LendablePercent, 0)) / 100))
		p.upper = total
		if b := lim.BorrowingLimitPercent; b != nil {
			p.upper = min(total, nominal+int(math.Round(float64(nominal)*float64(*b)/100)))
		}
		p.upper = max(p.upper, nominal)
		if q := lim.LimitResponse.Queuing; q != nil {
			queues, p.queueLimit = int(q.Queues), int(q.QueueLengthLimit)
			if p.deal.queues != queues || p.deal.hand != min(int(q.HandSize), queues, mostHand) {
				p.deal = newDealer(queues, int(q.HandSize))
			}
		}
	}
	if queues == 0 {
		p.deal = dealer{}
	}
	if changed || p.limit < p.lower || p.limit > p.upper {
		p.setLimit(nominal)
	}
}

// usage is what counts a schema's requests at a level.
func (c *Controller) usage(p *pool, schema string) *usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.usages[schema]
	if u == nil {
		u = c.metrics.usage(schema, p.name)
		p.usages[schema] = u
	}
	return u
}

// forget drops the counters of schemas that are gone and unused.
func (c *Controller) forget(next *classifier) {
	kept := map[*usage]bool{}
	for _, s := range next.schemas {
		kept[s.usage] = true
	}
	for _, p := range next.pools {
		p.mu.Lock()
		for name, u := range p.usages {
			if !kept[u] && u.executing == 0 && u.waiting == 0 {
				delete(p.usages, name)
				c.metrics.forget(name, p.name)
			}
		}
		p.mu.Unlock()
	}
}
