package core

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEndpoints(e *corev1.Endpoints) field.ErrorList { return validateEndpointsWith(e, nil) }

// validateEndpointsWith checks Endpoints; the addresses of stored may be
// written in ways that are refused today (KEP-4858).
func validateEndpointsWith(e *corev1.Endpoints, stored []string) field.ErrorList {
	var errs field.ErrorList
	for i := range e.Subsets {
		s, path := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], stored, path.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], stored, path.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			p, path := &s.Ports[j], path.Child("ports").Index(j)
			if p.Name == "" {
				if len(s.Ports) > 1 {
					errs = append(errs, field.Required(path.Child("name"), ""))
				}
			} else {
				errs = append(errs, invalid(path.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			}
			errs = append(errs, invalid(path.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
			errs = append(errs, oneOf(p.Protocol, path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
			if p.AppProtocol != nil {
				errs = append(errs, invalid(path.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
			}
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, stored []string, path *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), a.IP, true, stored)
	if a.Hostname != "" {
		errs = append(errs, invalid(path.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
	}
	if a.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false))...)
	}
	return append(errs, nonSpecialIP(a.IP, path.Child("ip"))...)
}

// validateEndpointsUpdate leaves subsets that did not change alone: they may
// be older than today's rules.
func validateEndpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	if equal(e.Subsets, old.Subsets) {
		return nil
	}
	var stored []string
	eachEndpointAddress(old, func(ip string, _ *field.Path) { stored = append(stored, ip) })
	return validateEndpointsWith(e, stored)
}

func eachEndpointAddress(e *corev1.Endpoints, f func(ip string, path *field.Path)) {
	for i := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, a := range e.Subsets[i].Addresses {
			f(a.IP, path.Child("addresses").Index(j).Child("ip"))
		}
		for j, a := range e.Subsets[i].NotReadyAddresses {
			f(a.IP, path.Child("notReadyAddresses").Index(j).Child("ip"))
		}
	}
}

func endpointsWarnings(e, _ *corev1.Endpoints) []string {
	var out []string
	eachEndpointAddress(e, func(ip string, path *field.Path) { out = append(out, validation.GetWarningsForIP(path, ip)...) })
	return out
}
