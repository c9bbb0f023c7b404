// Package networking holds the rows of the API group of network policies, ingresses and service address ranges:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package networking

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		networkPolicyKind(),
		ingressKind(),
		ingressClassKind(),
		ipAddressKind(),
		serviceCIDRKind(),
	}
}
