package discovery

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/coxswain/cox/api/check"
)

// The limits of one slice.
const (
	maxTopologyLabels = 16
	maxAddresses      = 100
	maxPorts          = 20000
	maxEndpoints      = 1000
	maxHints          = 8
)

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	return validateSliceWith(s, nil)
}

// validateSliceWith checks a slice; the addresses of stored may be written in
// ways that are refused today (KEP-4858).
func validateSliceWith(s *discoveryv1.EndpointSlice, stored []string) field.ErrorList {
	errs := validateAddressType(s.AddressType)
	errs = append(errs, validateEndpoints(s.Endpoints, s.AddressType, stored, field.NewPath("endpoints"))...)
	return append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var stored []string
	for i := range old.Endpoints {
		stored = append(stored, old.Endpoints[i].Addresses...)
	}
	return append(validateSliceWith(s, stored), check.Immutable(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
}

func validateAddressType(t discoveryv1.AddressType) field.ErrorList {
	path := field.NewPath("addressType")
	if t == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.OneOf(t, path, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
}

func validateEndpoints(endpoints []discoveryv1.Endpoint, t discoveryv1.AddressType, stored []string, path *field.Path) field.ErrorList {
	if len(endpoints) > maxEndpoints {
		return field.ErrorList{field.TooMany(path, len(endpoints), maxEndpoints)}
	}
	var errs field.ErrorList
	for i := range endpoints {
		e, at := &endpoints[i], path.Index(i)
		addresses := at.Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
		case n > maxAddresses:
			errs = append(errs, field.TooMany(addresses, n, maxAddresses))
		}
		for k, a := range e.Addresses {
			errs = append(errs, validateAddress(a, t, stored, addresses, addresses.Index(k))...)
		}
		if e.NodeName != nil {
			errs = append(errs, check.Each(at.Child("nodeName"), *e.NodeName, validation.IsDNS1123Subdomain(*e.NodeName))...)
		}
		topology := at.Child("deprecatedTopology")
		if n := len(e.DeprecatedTopology); n > maxTopologyLabels {
			errs = append(errs, field.TooMany(topology, n, maxTopologyLabels))
		}
		errs = append(errs, metav1validation.ValidateLabels(e.DeprecatedTopology, topology)...)
		if e.Hostname != nil {
			errs = append(errs, check.Each(at.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
		}
		if e.Hints != nil {
			errs = append(errs, validateHints(e.Hints, at.Child("hints"))...)
		}
	}
	return errs
}

// validateAddress checks an address of the slice's type.
func validateAddress(a string, t discoveryv1.AddressType, stored []string, list, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	ip, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(a)) // leading zeros are another check's
	ip = ip.Unmap()
	switch t {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		if t == discoveryv1.AddressTypeIPv6 && !slices.Contains(stored, a) {
			if errs := validation.IsValidIP(path, a); len(errs) > 0 { // there is but one way to write an address
				return errs
			}
		}
		errs = validation.IsValidIPForLegacyField(path, a, true, stored)
		if ok && ip.Is4() != (t == discoveryv1.AddressTypeIPv4) {
			errs = append(errs, field.Invalid(list, a, "must be an "+string(t)+" address"))
		}
	default:
		return nil
	}
	if !ok {
		return errs
	}
	// Traffic must not be led to the node itself, its metadata service or
	// everyone.
	switch {
	case ip.IsUnspecified():
		errs = append(errs, field.Invalid(path, a, "may not be unspecified (0.0.0.0 or ::)"))
	case ip.IsLoopback():
		errs = append(errs, field.Invalid(path, a, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	case ip.IsLinkLocalUnicast():
		errs = append(errs, field.Invalid(path, a, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	case ip.IsLinkLocalMulticast():
		errs = append(errs, field.Invalid(path, a, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	zones, nodes := path.Child("forZones"), path.Child("forNodes")
	if n := len(h.ForZones); n > maxHints {
		return field.ErrorList{field.TooMany(zones, n, maxHints)}
	}
	if n := len(h.ForNodes); n > maxHints {
		return field.ErrorList{field.TooMany(nodes, n, maxHints)}
	}
	seen := sets.New[string]()
	for i, z := range h.ForZones {
		at := zones.Index(i).Child("name")
		if seen.Has(z.Name) {
			errs = append(errs, field.Duplicate(at, z.Name))
		}
		seen.Insert(z.Name)
		errs = append(errs, check.Each(at, z.Name, validation.IsValidLabelValue(z.Name))...)
	}
	seen = sets.New[string]()
	for i, n := range h.ForNodes {
		at := nodes.Index(i).Child("name")
		if seen.Has(n.Name) {
			errs = append(errs, field.Duplicate(at, n.Name))
		}
		seen.Insert(n.Name)
		errs = append(errs, check.Each(at, n.Name, validation.IsDNS1123Subdomain(n.Name))...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxPorts)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				errs = append(errs, check.Each(at.Child("name"), *p.Name, validation.IsDNS1123Label(*p.Name))...)
			}
			if seen.Has(*p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
			}
			seen.Insert(*p.Name)
		}
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, check.Each(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}
