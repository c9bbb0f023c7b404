package actions

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// errFull says that a range has no free address or port left.
var errFull = fmt.Errorf("range is full")

// ipRange hands out the addresses of one service range as IPAddress objects
// (KEP-1880): whoever creates the object named after the address owns it, so
// any number of API servers may allocate at once.
type ipRange struct {
	prefix netip.Prefix
	c      client.Interface
}

// size is the number of usable addresses: without the network's own, the
// broadcast address of IPv4, and never more than 2^62.
func (r *ipRange) size() uint64 {
	bits := r.prefix.Addr().BitLen() - r.prefix.Bits()
	if bits > 62 {
		bits = 62
	}
	n := uint64(1)<<bits - 1
	if r.prefix.Addr().Is4() && n > 0 {
		n--
	}
	return n
}

// at returns the i-th usable address, from 0.
func (r *ipRange) at(i uint64) netip.Addr {
	raw := r.prefix.Masked().Addr().As16()
	carry := i + 1
	for b := 15; b >= 0 && carry > 0; b-- {
		carry += uint64(raw[b])
		raw[b] = byte(carry)
		carry >>= 8
	}
	a := netip.AddrFrom16(raw)
	if r.prefix.Addr().Is4() {
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

// take allocates a given address for a Service.
func (r *ipRange) take(ctx context.Context, ip netip.Addr, svc *corev1.Service, dryRun bool) error {
	if !r.prefix.Contains(ip) {
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %v", ip, r.prefix)
	}
	family := "IPv4"
	if ip.Is6() {
		family = "IPv6"
	}
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				"ipaddress.kubernetes.io/ip-family":  family,
				"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
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

// next allocates a free address: some random tries in the dynamic band, then
// a scan, then the static band.
func (r *ipRange) next(ctx context.Context, svc *corev1.Service, dryRun bool) (netip.Addr, error) {
	size := r.size()
	if size == 0 {
		return netip.Addr{}, errFull
	}
	band := staticBand(size)
	try := func(i uint64) (netip.Addr, bool, error) {
		ip := r.at(i)
		err := r.take(ctx, ip, svc, dryRun)
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
	err = client.IPAddresses.In(r.c, "").Delete(ctx, ip, client.Options{Preconditions: &metav1.Preconditions{UID: &obj.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
