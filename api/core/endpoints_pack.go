package core

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// packSubsets brings subsets into one form whichever way a client has put
// them: each address stands once per port, ready only if it is nowhere
// unready, and the ports that share their addresses share a subset.
func packSubsets(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	type entry struct {
		address corev1.EndpointAddress
		ready   bool
	}
	noPort := corev1.EndpointPort{Port: -1}
	var ports []corev1.EndpointPort
	byPort := map[string]map[string]entry{} // port -> address -> entry
	for i := range subsets {
		s := &subsets[i]
		list := s.Ports
		if len(list) == 0 {
			list = []corev1.EndpointPort{noPort}
		}
		for _, p := range list {
			k := portKey(p)
			if byPort[k] == nil {
				byPort[k] = map[string]entry{}
				ports = append(ports, p)
			}
			for _, a := range s.Addresses {
				if _, known := byPort[k][addressKey(a)]; !known {
					byPort[k][addressKey(a)] = entry{a, true}
				}
			}
			for _, a := range s.NotReadyAddresses {
				byPort[k][addressKey(a)] = entry{a, false}
			}
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int { return strings.Compare(portKey(a), portKey(b)) })
	index := map[string]int{}
	var out []corev1.EndpointSubset
	for _, p := range ports {
		entries := byPort[portKey(p)]
		keys := make([]string, 0, len(entries))
		for k, e := range entries {
			keys = append(keys, fmt.Sprint(k, "|", e.ready))
		}
		slices.Sort(keys)
		group := strings.Join(keys, "\n")
		if p.Port == noPort.Port {
			group = "no port\n" + group
		}
		i, seen := index[group]
		if !seen {
			i = len(out)
			index[group] = i
			var s corev1.EndpointSubset
			for _, e := range entries {
				if e.ready {
					s.Addresses = append(s.Addresses, e.address)
				} else {
					s.NotReadyAddresses = append(s.NotReadyAddresses, e.address)
				}
			}
			slices.SortFunc(s.Addresses, byAddress)
			slices.SortFunc(s.NotReadyAddresses, byAddress)
			out = append(out, s)
		}
		if p.Port != noPort.Port {
			out[i].Ports = append(out[i].Ports, p)
		}
	}
	return out
}

func portKey(p corev1.EndpointPort) string {
	app := ""
	if p.AppProtocol != nil {
		app = *p.AppProtocol
	}
	return fmt.Sprintf("%s/%s/%d/%s", p.Name, p.Protocol, p.Port, app)
}

// addressKey tells addresses apart by address and the pod behind them.
func addressKey(a corev1.EndpointAddress) string {
	if a.TargetRef != nil {
		return a.IP + "/" + string(a.TargetRef.UID)
	}
	return a.IP
}

func byAddress(a, b corev1.EndpointAddress) int { return cmp.Compare(addressKey(a), addressKey(b)) }
