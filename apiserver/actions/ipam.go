package actions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// errFull says that a range has no free address or port left.
var errFull = fmt.Errorf("range is full")

// ipRange hands out the service addresses of one family as IPAddress objects
// (KEP-1880): whoever creates the object named after the address owns it, so
// any number of API servers may allocate at once.
type ipRange struct {
	prefix netip.Prefix // the server's own, tried first
	c      client.Interface
}

// more are the family's further ranges, those of ServiceCIDRs that are ready
// and not on their way out. They are looked up when the server's own range
// does not do, which is seldom.
func (r *ipRange) more(ctx context.Context) ([]netip.Prefix, error) {
	cidrs, _, err := client.ServiceCIDRs.In(r.c, "").List(ctx, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("list service ranges: %w", err)
	}
	slices.SortFunc(cidrs, func(a, b *networkingv1.ServiceCIDR) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	var out []netip.Prefix
	for _, c := range cidrs {
		if c.DeletionTimestamp != nil || !meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() == r.prefix.Addr().Is4() && p.Masked() != r.prefix.Masked() {
				out = append(out, p.Masked())
			}
		}
	}
	return out, nil
}

// holds says that the address is of the range's family.
func (r *ipRange) holds(a netip.Addr) bool { return a.Is4() == r.prefix.Addr().Is4() }

// sizeOf is the number of usable addresses: without the network's own, the
// broadcast address of IPv4, and never more than 2^62.
func sizeOf(prefix netip.Prefix) uint64 {
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits > 62 {
		bits = 62
	}
	n := uint64(1)<<bits - 1
	if prefix.Addr().Is4() && n > 0 {
		n--
	}
	return n
}

// at returns the i-th usable address, from 0.
func at(prefix netip.Prefix, i uint64) netip.Addr {
	raw := prefix.Masked().Addr().As16()
	carry := i + 1
	for b := 15; b >= 0 && carry > 0; b-- {
		carry += uint64(raw[b])
		raw[b] = byte(carry)
		carry >>= 8
	}
	a := netip.AddrFrom16(raw)
	if prefix.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

func (r *ipRange) family() corev1.IPFamily {
	if r.prefix.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// staticBand is how many addresses at the range's beginning dynamic
// allocation touches last, so that users can pick addresses there (KEP-3070).
func staticBand(size uint64) uint64 {
	band := size / 16
	if size < 16 {
		return 0
	}
	return min(max(band, 16), 256)
}

// contains says that the address is in one of the family's ranges.
func (r *ipRange) contains(ctx context.Context, ip netip.Addr) (bool, error) {
	if r.prefix.Contains(ip) {
		return true, nil
	}
	more, err := r.more(ctx)
	return slices.ContainsFunc(more, func(p netip.Prefix) bool { return p.Contains(ip) }), err
}

// What marks an address as this allocator's, as upstream's does.
const (
	labelManagedBy = "ipaddress.kubernetes.io/managed-by"
	managedBy      = "ipallocator.k8s.io"
)

// take allocates a given address for a Service.
func (r *ipRange) take(ctx context.Context, ip netip.Addr, svc *corev1.Service, dryRun bool) error {
	if in, err := r.contains(ctx, ip); err != nil {
		return err
	} else if !in {
		return errors.New("the provided network does not match the current range") // upstream names no range either
	}
	return r.claim(ctx, ip, svc, dryRun)
}

// claim is take for an address that is known to be in a range.
func (r *ipRange) claim(ctx context.Context, ip netip.Addr, svc *corev1.Service, dryRun bool) error {
	family := "IPv4"
	if ip.Is6() {
		family = "IPv6"
	}
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				"ipaddress.kubernetes.io/ip-family": family,
				labelManagedBy:                      managedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: svc.Namespace, Name: svc.Name,
		}},
	}
	_, err := client.IPAddresses.In(r.c, "").Create(ctx, obj, client.WithOptions(client.Options{DryRun: dryRun}))
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("provided IP is already allocated")
	}
	return err
}

// next allocates a free address, of a further range if the server's own is
// full.
func (r *ipRange) next(ctx context.Context, svc *corev1.Service, dryRun bool) (netip.Addr, error) {
	ip, err := r.nextIn(ctx, r.prefix, svc, dryRun)
	if !errors.Is(err, errFull) {
		return ip, err
	}
	more, err := r.more(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, p := range more {
		if ip, err := r.nextIn(ctx, p, svc, dryRun); !errors.Is(err, errFull) {
			return ip, err
		}
	}
	return netip.Addr{}, errFull
}

// nextIn allocates a free address of one range: some random tries in the
// dynamic band, then a scan, then the static band.
func (r *ipRange) nextIn(ctx context.Context, prefix netip.Prefix, svc *corev1.Service, dryRun bool) (netip.Addr, error) {
	size := sizeOf(prefix)
	if size == 0 {
		return netip.Addr{}, errFull
	}
	band := staticBand(size)
	try := func(i uint64) (netip.Addr, bool, error) {
		ip := at(prefix, i)
		err := r.claim(ctx, ip, svc, dryRun)
		if err == nil {
			return ip, true, nil
		}
		if strings.HasPrefix(err.Error(), "provided IP is already") {
			return ip, false, nil
		}
		return ip, false, err
	}
	for range 8 {
		if ip, ok, err := try(band + rand.Uint64N(size-band)); ok || err != nil {
			return ip, err
		}
	}
	start := rand.Uint64N(size - band)
	for n := range min(size-band, 1<<17) {
		if ip, ok, err := try(band + (start+n)%(size-band)); ok || err != nil {
			return ip, err
		}
	}
	for i := range band {
		if ip, ok, err := try(i); ok || err != nil {
			return ip, err
		}
	}
	return netip.Addr{}, errFull
}

// release frees an address if it belongs to the Service.
func (r *ipRange) release(ctx context.Context, ip string, svc *corev1.Service) error {
	obj, err := client.IPAddresses.In(r.c, "").Get(ctx, ip)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if ref := obj.Spec.ParentRef; ref != nil && (ref.Resource != "services" || ref.Namespace != svc.Namespace || ref.Name != svc.Name) {
		return nil
	}
	err = client.IPAddresses.In(r.c, "").Delete(ctx, ip, client.Exactly(obj.UID))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
