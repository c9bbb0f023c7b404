// Package nodeipam gives every node its part of the pod network: cluster
// ranges and the nodes' present parts in, a free part out.
package nodeipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrFull says that a range has no free part left.
var ErrFull = errors.New("no CIDR of the cluster's pod network is left")

// Range is one address family of the pod network, cut into parts of Bits.
type Range struct {
	Cluster netip.Prefix
	Bits    int
}

// Ranges pairs cluster CIDRs with the mask sizes of their families; 0 means
// 24 and 64.
func Ranges(cluster []netip.Prefix, bits4, bits6 int) ([]Range, error) {
	var out []Range
	for _, p := range cluster {
		bits := bits4
		if p.Addr().Is6() {
			bits = bits6
		}
		if bits == 0 {
			bits = 24
			if p.Addr().Is6() {
				bits = 64
			}
		}
		if bits < p.Bits() || bits > p.Addr().BitLen() || bits-p.Bits() > 16 {
			return nil, fmt.Errorf("cluster CIDR %s cannot be cut into /%d: at least as long a mask is needed, at most 16 bits longer", p, bits)
		}
		out = append(out, Range{p.Masked(), bits})
	}
	return out, nil
}

// part returns the i-th part of the range.
func (r Range) part(i int) netip.Prefix {
	a := r.Cluster.Addr().AsSlice()
	for shift := r.Bits - 1; i > 0; shift-- {
		if i&1 == 1 {
			a[shift/8] |= 1 << (7 - shift%8)
		}
		i >>= 1
	}
	addr, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(addr, r.Bits)
}

// Free returns the lowest part that overlaps none in use.
func (r Range) Free(used []netip.Prefix) (netip.Prefix, error) {
	taken := make(map[netip.Prefix]bool, len(used))
	var odd []netip.Prefix // of another size than our parts
	for _, u := range used {
		if u.Bits() == r.Bits {
			taken[u.Masked()] = true
		} else {
			odd = append(odd, u)
		}
	}
next:
	for i := range 1 << (r.Bits - r.Cluster.Bits()) {
		p := r.part(i)
		if taken[p] {
			continue
		}
		for _, o := range odd {
			if o.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("%w in %s", ErrFull, r.Cluster)
}
