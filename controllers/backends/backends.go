// Package backends finds the pods behind Services and what each offers:
// Services and pods in; matches, ports and addresses out. The controllers of
// Endpoints and of EndpointSlices share it.
package backends

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
)

const (
	podsByLabel       = "label"
	servicesByAnyPair = "selector"
)

// Index finds Services by pod and pods by Service in time that does not grow
// with the namespace. It is safe for concurrent use.
type Index struct {
	services client.Informer[*corev1.Service]
	pods     client.Informer[*corev1.Pod]
}

// NewIndex adds the indexes to the informers.
func NewIndex(i *client.Informers) (*Index, error) {
	x := &Index{services: client.InformerFor(i, client.Services), pods: client.InformerFor(i, client.Pods)}
	if err := x.services.AddIndex(servicesByAnyPair, func(s *corev1.Service) []string {
		if len(s.Spec.Selector) == 0 {
			return nil
		}
		return []string{selectorPair(s)}
	}); err != nil {
		return nil, err
	}
	return x, x.pods.AddIndex(podsByLabel, func(p *corev1.Pod) []string {
		out := make([]string, 0, len(p.Labels))
		for k, v := range p.Labels {
			out = append(out, pair(p.Namespace, k, v))
		}
		return out
	})
}

func pair(ns, k, v string) string { return ns + "/" + k + "=" + v }

// selectorPair is one pair of the Service's selector, always the same one: a
// pod that the selector matches has it among its labels.
func selectorPair(s *corev1.Service) string {
	first := slices.Min(slices.Collect(maps.Keys(s.Spec.Selector)))
	return pair(s.Namespace, first, s.Spec.Selector[first])
}

// Pods returns the pods that the Service selects.
func (x *Index) Pods(s *corev1.Service) []*corev1.Pod {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	ps := x.pods.ByIndex(podsByLabel, selectorPair(s))
	return slices.DeleteFunc(ps, func(p *corev1.Pod) bool { return !selects(s, p) })
}

// Services returns the Services that select the pod.
func (x *Index) Services(p *corev1.Pod) []*corev1.Service {
	var out []*corev1.Service
	for k, v := range p.Labels {
		for _, s := range x.services.ByIndex(servicesByAnyPair, pair(p.Namespace, k, v)) {
			if selects(s, p) {
				out = append(out, s)
			}
		}
	}
	return out
}

func selects(s *corev1.Service, p *corev1.Pod) bool {
	for k, v := range s.Spec.Selector {
		if have, ok := p.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// OnPodChange calls wake for every Service whose endpoints a pod's change may
// concern, and for no change that concerns none.
func (x *Index) OnPodChange(wake func(*corev1.Service)) error {
	_, err := x.pods.OnChange(func(p, old *corev1.Pod) {
		if p != nil && old != nil {
			if labelsSame := maps.Equal(p.Labels, old.Labels); labelsSame {
				if sameFacts(p, old) {
					return
				}
				old = nil
			}
		}
		for _, one := range [...]*corev1.Pod{p, old} {
			if one == nil {
				continue
			}
			for _, s := range x.Services(one) {
				wake(s)
			}
		}
	})
	return err
}

// sameFacts compares what an endpoint is made of.
func sameFacts(a, b *corev1.Pod) bool {
	return pods.Ready(a) == pods.Ready(b) && pods.Finished(a) == pods.Finished(b) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		a.Spec.NodeName == b.Spec.NodeName && a.UID == b.UID &&
		a.Status.PodIP == b.Status.PodIP && slices.Equal(a.Status.PodIPs, b.Status.PodIPs) &&
		a.Spec.Hostname == b.Spec.Hostname && a.Spec.Subdomain == b.Spec.Subdomain
}

// Belongs says whether a pod can be an endpoint at all: it has an address and
// has not finished. Pods being deleted count only if terminating is set.
func Belongs(p *corev1.Pod, terminating bool) bool {
	if pods.Finished(p) || p.Status.PodIP == "" && len(p.Status.PodIPs) == 0 {
		return false
	}
	return terminating || p.DeletionTimestamp == nil
}

// IP returns the pod's address of a family, "" if it has none.
func IP(p *corev1.Pod, family corev1.IPFamily) string {
	for _, ip := range p.Status.PodIPs {
		if Family(ip.IP) == family {
			return ip.IP
		}
	}
	if len(p.Status.PodIPs) == 0 && Family(p.Status.PodIP) == family {
		return p.Status.PodIP
	}
	return ""
}

// Family is the family of an address, "" for one that does not parse.
func Family(ip string) corev1.IPFamily {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return ""
	case a.Is4(), a.Is4In6():
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// Families returns the address families that the Service wants endpoints of.
func Families(s *corev1.Service, ps []*corev1.Pod) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) > 0 {
		return s.Spec.IPFamilies
	}
	if f := Family(s.Spec.ClusterIP); f != "" {
		return []corev1.IPFamily{f}
	}
	// Stored before the API server filled ipFamilies in: as the pods have it.
	for _, p := range ps {
		if f := Family(p.Status.PodIP); f != "" {
			return []corev1.IPFamily{f}
		}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}

// TargetPort resolves a Service's port on a pod: a number, or a name among
// the ports of its containers and sidecars.
func TargetPort(p *corev1.Pod, sp *corev1.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		return sp.TargetPort.IntVal, true
	}
	find := func(c *corev1.Container) (int32, bool) {
		for i := range c.Ports {
			if c.Ports[i].Name == sp.TargetPort.StrVal && c.Ports[i].Protocol == sp.Protocol {
				return c.Ports[i].ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if n, ok := find(&p.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if n, ok := find(c); ok {
			return n, true
		}
	}
	return 0, false
}

// Hostname is the name of the pod within the Service, "" if it asks for none.
func Hostname(p *corev1.Pod, s *corev1.Service) string {
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name && p.Namespace == s.Namespace {
		return p.Spec.Hostname
	}
	return ""
}

// Headless says that the Service has no cluster IP.
func Headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == ""
}

// Changed is when the newest of the changes happened that the endpoints now
// reflect: readiness of a pod, or the Service's creation. A zero time is
// unknown.
func Changed(s *corev1.Service, ps []*corev1.Pod) time.Time {
	t := s.CreationTimestamp.Time
	for _, p := range ps {
		if c := pods.Condition(p, corev1.PodReady); c != nil && c.LastTransitionTime.After(t) {
			t = c.LastTransitionTime.Time
		}
	}
	return t
}
