// Package endpoints keeps the Endpoints object of every Service with a
// selector: the older form of EndpointSlices, which some clients still read.
package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/coxswain/cox/controllers/backends"
	"github.com/coxswain/cox/controllers/pods"
)

const (
	// capacity is the most addresses that one object holds; what exceeds it
	// is left out, and an annotation says so.
	capacity       = 1000
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Make returns the Service's Endpoints as they are to be, or nil when have
// (nil: absent) is right.
func Make(s *corev1.Service, ps []*corev1.Pod, have *corev1.Endpoints) *corev1.Endpoints {
	subsets, truncated := truncate(subsetsOf(s, ps))
	labels := map[string]string{}
	maps.Copy(labels, s.Labels)
	labels[managedByLabel] = managedBy
	if backends.Headless(s) {
		labels[corev1.IsHeadlessService] = ""
	} else {
		delete(labels, corev1.IsHeadlessService)
	}
	out := &corev1.Endpoints{}
	out.Namespace, out.Name = s.Namespace, s.Name
	if have != nil {
		over := have.Annotations[corev1.EndpointsOverCapacity] != ""
		if apiequality.Semantic.DeepEqual(have.Subsets, subsets) && maps.Equal(have.Labels, labels) && over == truncated {
			return nil
		}
		out = have.DeepCopy()
	}
	out.Subsets, out.Labels = subsets, labels
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	delete(out.Annotations, corev1.EndpointsOverCapacity)
	if truncated {
		out.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	delete(out.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if t := backends.Changed(s, ps); !t.IsZero() {
		out.Annotations[corev1.EndpointsLastChangeTriggerTime] = t.UTC().Format(time.RFC3339Nano)
	}
	return out
}

// subsetsOf groups the addresses by the ports that they offer.
func subsetsOf(s *corev1.Service, ps []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	family := corev1.IPv4Protocol
	if f := backends.Families(s, ps); len(f) > 0 {
		family = f[0]
	}
	for _, p := range ps {
		ip := backends.IP(p, family)
		if ip == "" || !backends.Belongs(p, s.Spec.PublishNotReadyAddresses) {
			continue
		}
		addr := corev1.EndpointAddress{IP: ip, Hostname: backends.Hostname(p, s),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if node := p.Spec.NodeName; node != "" {
			addr.NodeName = &node
		}
		ports := portsOf(s, p)
		if len(ports) == 0 && len(s.Spec.Ports) > 0 {
			continue // offers none of the Service's ports
		}
		g := groups[portsKey(ports)]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[portsKey(ports)] = g
		}
		if s.Spec.PublishNotReadyAddresses || pods.Ready(p) {
			g.Addresses = append(g.Addresses, addr)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, addr)
		}
	}
	var out []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		slices.SortFunc(groups[key].Addresses, byAddress)
		slices.SortFunc(groups[key].NotReadyAddresses, byAddress)
		out = append(out, *groups[key])
	}
	return out
}

func byAddress(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

func portsOf(s *corev1.Service, p *corev1.Pod) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		if n, ok := backends.TargetPort(p, sp); ok {
			out = append(out, corev1.EndpointPort{Name: sp.Name, Port: n, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

func portsKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		b.WriteString(p.Name + "|" + strconv.Itoa(int(p.Port)) + "|" + string(p.Protocol) + "\n")
	}
	return b.String()
}

// truncate keeps capacity addresses, ready ones first.
func truncate(subsets []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) {
	ready, all := 0, 0
	for i := range subsets {
		ready += len(subsets[i].Addresses)
		all += len(subsets[i].Addresses) + len(subsets[i].NotReadyAddresses)
	}
	if all <= capacity {
		return subsets, false
	}
	readyLeft := min(ready, capacity)
	otherLeft := capacity - readyLeft
	var out []corev1.EndpointSubset
	for _, s := range subsets {
		n := min(len(s.Addresses), readyLeft)
		m := min(len(s.NotReadyAddresses), otherLeft)
		readyLeft, otherLeft = readyLeft-n, otherLeft-m
		if s.Addresses, s.NotReadyAddresses = s.Addresses[:n], s.NotReadyAddresses[:m]; n+m > 0 {
			out = append(out, s)
		}
	}
	return out, true
}
