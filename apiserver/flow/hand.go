package flow

import "hash/maphash"

// dealer deals each flow its hand of queues: always the same one, so that a
// heavy flow fills few queues, of which another flow's hand holds few (shuffle
// sharding).
type dealer struct {
	seed         maphash.Seed
	queues, hand int
}

// mostHand bounds the work of dealing; beyond it a larger hand changes nothing.
const mostHand = 64

func newDealer(queues, hand int) dealer {
	return dealer{seed: maphash.MakeSeed(), queues: queues, hand: min(hand, queues, mostHand)}
}

// deal appends the hand of a flow to into: different numbers below d.queues.
func (d dealer) deal(into []int, schema, flow string) []int {
	var h maphash.Hash
	h.SetSeed(d.seed)
	_, _ = h.WriteString(schema)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(flow)
	state := h.Sum64()
	for len(into) < d.hand {
		// splitmix64: every step is a new number of the flow's own sequence.
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		// One of the queues that are left: skip those already in the hand.
		n := int(z % uint64(d.queues-len(into)))
		into = place(into, n)
	}
	return into
}

// place inserts the n-th number that is not in the sorted hand.
func place(hand []int, n int) []int {
	i := 0
	for ; i < len(hand) && hand[i] <= n; i++ {
		n++
	}
	hand = append(hand, 0)
	copy(hand[i+1:], hand[i:])
	hand[i] = n
	return hand
}
