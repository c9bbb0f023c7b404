package actions

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
)

// portKey is where upstream keeps the node port bitmap, below its prefix.
const portKey = "servicenodeports"

// RangeKind is the row of the stored, unserved RangeAllocation, under which
// upstream keeps its node port bitmap: /registry/ranges/servicenodeports.
func RangeKind() *api.Kind {
	return &api.Kind{
		Hub:      schema.GroupVersionKind{Version: "v1", Kind: "RangeAllocation"},
		Resource: "rangeallocations", Singular: "rangeallocation", Prefix: "ranges",
		New: api.New[corev1.RangeAllocation](), NewList: func() runtime.Object { return &metav1.List{} },
	}
}

// portRange hands out node ports from one bitmap object in the store; every
// change is a compare-and-swap, so any number of API servers may allocate.
type portRange struct {
	base, size int
	store      store.Interface
}

// change runs f on the bitmap and stores what it leaves.
func (p *portRange) change(ctx context.Context, dryRun bool, f func(bits *big.Int) error) error {
	apply := func(cur *store.Entry) (runtime.Object, error) {
		out := &corev1.RangeAllocation{Range: fmt.Sprintf("%d-%d", p.base, p.base+p.size-1)}
		bits := new(big.Int)
		if cur != nil {
			old := cur.Object.(*corev1.RangeAllocation)
			if old.Range != out.Range {
				return nil, fmt.Errorf("the stored node port range %s is not the configured %s: start once with the stored one or delete all NodePort services", old.Range, out.Range)
			}
			out = old.DeepCopy()
			bits.SetBytes(old.Data)
		}
		if err := f(bits); err != nil {
			return nil, err
		}
		out.Data = bits.Bytes()
		return out, nil
	}
	if dryRun {
		cur, err := p.store.Get(ctx, portKey, "")
		if err != nil {
			cur = nil
		}
		_, err = apply(cur)
		return err
	}
	_, err := p.store.Update(ctx, portKey, true, apply)
	return err
}

// take allocates a given port.
func (p *portRange) take(ctx context.Context, port int, dryRun bool) error {
	if port < p.base || port >= p.base+p.size {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", p.base, p.base+p.size-1)
	}
	return p.change(ctx, dryRun, func(bits *big.Int) error {
		if bits.Bit(port-p.base) == 1 {
			return fmt.Errorf("provided port is already allocated")
		}
		bits.SetBit(bits, port-p.base, 1)
		return nil
	})
}

// next allocates a free port: random above the static band first (KEP-3668).
func (p *portRange) next(ctx context.Context, dryRun bool) (int, error) {
	var port int
	err := p.change(ctx, dryRun, func(bits *big.Int) error {
		band := 0
		if p.size >= 32 {
			band = min(max(p.size/32, 16), 128)
		}
		start := rand.IntN(p.size - band)
		for n := range p.size - band {
			if i := band + (start+n)%(p.size-band); bits.Bit(i) == 0 {
				bits.SetBit(bits, i, 1)
				port = p.base + i
				return nil
			}
		}
		for i := range band {
			if bits.Bit(i) == 0 {
				bits.SetBit(bits, i, 1)
				port = p.base + i
				return nil
			}
		}
		return errFull
	})
	return port, err
}

// release frees ports.
func (p *portRange) release(ctx context.Context, ports ...int) error {
	if len(ports) == 0 {
		return nil
	}
	return p.change(ctx, false, func(bits *big.Int) error {
		for _, port := range ports {
			if i := port - p.base; i >= 0 && i < p.size {
				bits.SetBit(bits, i, 0)
			}
		}
		return nil
	})
}

// repair makes the bitmap say all that the Services use, and returns what it
// says besides.
func (p *portRange) repair(ctx context.Context, used []int) (besides []int, err error) {
	err = p.change(ctx, false, func(bits *big.Int) error {
		besides = nil
		for i := range p.size {
			if bits.Bit(i) == 1 && !slices.Contains(used, p.base+i) {
				besides = append(besides, p.base+i)
			}
		}
		for _, port := range used {
			if i := port - p.base; i >= 0 && i < p.size {
				bits.SetBit(bits, i, 1)
			}
		}
		return nil
	})
	return besides, err
}
