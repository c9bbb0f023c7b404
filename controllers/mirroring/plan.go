// Package mirroring copies Endpoints that users write for Services without
// selector into EndpointSlices, which is what proxies read: Endpoints and
// their present slices in, slice writes out.
package mirroring

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/backends"
)

const (
	// ManagedBy marks the slices of this controller.
	ManagedBy = "endpointslicemirroring-controller.k8s.io"
	// leader marks Endpoints that are only a lock.
	leader = "control-plane.alpha.kubernetes.io/leader"
	// PerSubset bounds the addresses that are mirrored of one subset, unless
	// settings say otherwise.
	PerSubset = 1000
)

// Plan is what one reconcile does about the slices.
type Plan struct {
	Create, Update, Delete []*discoveryv1.EndpointSlice
}

// Wanted says whether Endpoints are to be mirrored for the Service; either
// may be nil.
func Wanted(e *corev1.Endpoints, s *corev1.Service) bool {
	if e == nil || s == nil || e.DeletionTimestamp != nil || s.Spec.Selector != nil {
		return false
	}
	_, lock := e.Annotations[leader]
	return !lock && e.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// Make plans for Endpoints; nil, when nothing is to be mirrored, takes the
// slices away. Most is how many addresses of a subset are mirrored.
func Make(e *corev1.Endpoints, have []*discoveryv1.EndpointSlice, most int) Plan {
	var plan Plan
	have = slices.Clone(have)
	slices.SortFunc(have, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	for _, want := range desired(e, most) {
		i := slices.IndexFunc(have, func(s *discoveryv1.EndpointSlice) bool {
			return s.DeletionTimestamp == nil && key(s) == key(want)
		})
		if i < 0 {
			plan.Create = append(plan.Create, want)
			continue
		}
		old := have[i]
		have = slices.Delete(have, i, i+1)
		if apiequality.Semantic.DeepEqual(old.Endpoints, want.Endpoints) && maps.Equal(old.Labels, want.Labels) && maps.Equal(old.Annotations, want.Annotations) {
			continue
		}
		m := old.DeepCopy()
		m.Endpoints, m.Labels, m.Annotations, m.OwnerReferences = want.Endpoints, want.Labels, want.Annotations, want.OwnerReferences
		plan.Update = append(plan.Update, m)
	}
	plan.Delete = have
	return plan
}

// key is what cannot change in a slice: family and ports.
func key(s *discoveryv1.EndpointSlice) string {
	ports := slices.Clone(s.Ports)
	text := make([]string, len(ports))
	for i := range ports {
		raw, err := json.Marshal(&ports[i])
		if err != nil {
			panic(err) // plain data of the API's own type
		}
		text[i] = string(raw)
	}
	slices.Sort(text)
	return string(s.AddressType) + strings.Join(text, ",")
}

// desired is one slice for each family and set of ports.
func desired(e *corev1.Endpoints, most int) []*discoveryv1.EndpointSlice {
	if e == nil {
		return nil
	}
	var out []*discoveryv1.EndpointSlice
	for i := range e.Subsets {
		sub := &e.Subsets[i]
		left := most
		for _, half := range [...]struct {
			addresses []corev1.EndpointAddress
			ready     bool
		}{{sub.Addresses, true}, {sub.NotReadyAddresses, false}} {
			for j := range half.addresses {
				a := &half.addresses[j]
				family := backends.Family(a.IP)
				if family == "" || left == 0 {
					continue
				}
				left--
				s := sliceFor(&out, e, sub, discoveryv1.AddressType(family))
				s.Endpoints = append(s.Endpoints, endpoint(a, half.ready))
			}
		}
	}
	return out
}

func sliceFor(out *[]*discoveryv1.EndpointSlice, e *corev1.Endpoints, sub *corev1.EndpointSubset, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{}}
	for _, p := range sub.Ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &p.Port, AppProtocol: p.AppProtocol})
	}
	for _, have := range *out {
		if key(have) == key(s) {
			return have
		}
	}
	s.Namespace, s.GenerateName = e.Namespace, e.Name+"-"
	s.Labels = maps.Clone(e.Labels)
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelManagedBy] = e.Name, ManagedBy
	for k, v := range e.Annotations {
		if k != corev1.EndpointsLastChangeTriggerTime && k != corev1.LastAppliedConfigAnnotation {
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[k] = v
		}
	}
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(e, client.Endpoints.GVK())}
	*out = append(*out, s)
	return s
}

func endpoint(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: a.NodeName}
	if a.Hostname != "" {
		ep.Hostname = &a.Hostname
	}
	if a.TargetRef != nil {
		ep.TargetRef = a.TargetRef.DeepCopy()
	}
	return ep
}
