package flow

import (
	"math"
	"slices"
	"time"
)

// share is one limited level as the division of the seats sees it.
type share struct {
	nominal, lower, upper int
	demand                int // most seats that it could have used lately
}

// divide lets levels that lack seats borrow from those that have seats to
// lend: every level gets at least lower and at most upper, what it needs of
// its nominal seats before others get them, and those that need more the same
// multiple of what they need. The sum is that of the nominal seats, and each
// level gets its nominal seats if none needs more.
func divide(shares []share) []int {
	out := make([]int, len(shares))
	total, short := 0, false
	for i, s := range shares {
		out[i] = s.nominal
		total += s.nominal
		short = short || s.demand > s.nominal
	}
	if !short {
		return out
	}
	at := func(i int, factor float64) float64 {
		s := shares[i]
		low := float64(max(s.lower, min(s.nominal, s.demand)))
		return min(max(float64(s.demand)*factor, low), float64(max(s.upper, s.lower)))
	}
	sum := func(factor float64) (n float64) {
		for i := range shares {
			n += at(i, factor)
		}
		return n
	}
	low, high := 0.0, float64(total)+1
	for range 60 {
		if mid := (low + high) / 2; sum(mid) > float64(total) {
			high = mid
		} else {
			low = mid
		}
	}
	// Whole seats; what rounding leaves goes to those it took most from.
	type rest struct {
		level int
		lost  float64
	}
	var lost []rest
	left := total
	for i := range shares {
		exact := at(i, low)
		out[i] = int(math.Floor(exact + 1e-6))
		left -= out[i]
		if out[i] < shares[i].upper {
			lost = append(lost, rest{i, exact - float64(out[i])})
		}
	}
	slices.SortStableFunc(lost, func(a, b rest) int {
		switch {
		case a.lost > b.lost:
			return -1
		case a.lost < b.lost:
			return 1
		}
		return 0
	})
	for i := 0; i < len(lost) && left > 0 && lost[i].lost > 1e-3; i++ {
		out[lost[i].level]++
		left--
	}
	for i, s := range shares { // what nobody may borrow stays where it is
		give := min(left, max(s.nominal-out[i], 0))
		out[i] += give
		left -= give
	}
	return out
}

// How often seats are divided anew while some level lacks them; nobody looks
// while none does.
const (
	lookAgain = 10 * time.Second
	soonest   = time.Second
)

// starved is called whenever a request finds no seat.
func (c *Controller) starved() {
	if c.looking.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.looking.Swap(true) {
		return
	}
	if wait := soonest - time.Since(c.lastLook); wait > 0 {
		c.timer = time.AfterFunc(wait, c.look)
		return
	}
	c.lookLocked()
}

func (c *Controller) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.lookLocked()
	}
}

// lookLocked divides the seats by what the levels have needed since the last
// time, and looks again later as long as a level lacks or borrows seats.
func (c *Controller) lookLocked() {
	now := time.Now()
	stale := now.Sub(c.lastLook) > 2*lookAgain
	c.lastLook = now
	var pools []*pool
	var shares []share
	again := false
	for _, p := range c.class.Load().pools {
		p.mu.Lock()
		if !p.isExempt {
			demand := p.high
			if current := p.inUse + p.wanted; stale && !p.starved || demand < current {
				demand = current
			}
			again = again || p.starved || p.limit != p.nominal
			p.high, p.starved = p.inUse+p.wanted, p.waiting > 0
			pools = append(pools, p)
			shares = append(shares, share{p.nominal, p.lower, p.upper, demand})
		}
		p.mu.Unlock()
	}
	for i, n := range divide(shares) {
		pools[i].mu.Lock()
		pools[i].setLimit(n)
		again = again || n != pools[i].nominal
		pools[i].mu.Unlock()
	}
	c.looking.Store(again)
	if again {
		c.timer = time.AfterFunc(lookAgain, c.look)
	}
}
