package core

import (
	"fmt"
	"net/netip"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// equal compares API values: quantities by value, nil and empty alike.
func equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

func isTrue(b *bool) bool { return b != nil && *b }

// def sets *p to v if it is the zero value.
func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// defPtr points *p to v if it is nil.
func defPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// qualified says that a name has a domain.
func qualified(name string) bool { return strings.Contains(name, "/") }

func nonNegative(n int64, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(n, path)
}

// nonSpecialIP checks that an address is one that traffic can be sent to.
func nonSpecialIP(ip string, path *field.Path) field.ErrorList {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(ip)) // leading zeros are another check's
	if !ok {
		return field.ErrorList{field.Invalid(path, ip, "must be a valid IP address")}
	}
	a = a.Unmap()
	var errs field.ErrorList
	if a.IsUnspecified() {
		errs = append(errs, field.Invalid(path, ip, fmt.Sprintf("may not be unspecified (%v)", ip)))
	}
	if a.IsLoopback() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	}
	if a.IsLinkLocalUnicast() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	}
	if a.IsLinkLocalMulticast() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}
