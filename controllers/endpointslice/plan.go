// Package endpointslice keeps the EndpointSlices of Services in step with
// their pods: a Service, its pods and its slices in; as few changed slices as
// possible out.
package endpointslice

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/backends"
	"github.com/coxswain/cox/controllers/pods"
)

// ManagedBy is this controller's value of the label
// endpointslice.kubernetes.io/managed-by.
const ManagedBy = "endpointslice-controller.k8s.io"

// MaxEndpoints is upstream's default size of a slice: small enough that one
// pod's change is a small write.
const MaxEndpoints = 100

// Plan is which slices to write. Updates are changed copies.
type Plan struct {
	Create, Update, Delete []*discoveryv1.EndpointSlice
}

// group is the endpoints that share an address type and ports, and so can
// share slices.
type group struct {
	family   discoveryv1.AddressType
	ports    []discoveryv1.EndpointPort
	desired  map[string]discoveryv1.Endpoint // by identity
	existing []*discoveryv1.EndpointSlice
}

// Make plans for a Service. zoneOf returns a node's zone, "" if unknown; most
// is how many endpoints a slice holds.
func Make(s *corev1.Service, ps []*corev1.Pod, existing []*discoveryv1.EndpointSlice, zoneOf func(node string) string, most int) Plan {
	existing = slices.Clone(existing)
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	groups := desired(s, ps, zoneOf)
	var plan Plan
	for _, slice := range existing {
		if slice.DeletionTimestamp != nil {
			continue
		}
		if g := groups[groupKey(slice.AddressType, slice.Ports)]; g != nil {
			g.existing = append(g.existing, slice)
			continue
		}
		plan.Delete = append(plan.Delete, slice) // ports or family that the Service has no longer
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		groups[key].reconcile(&plan, s, most)
	}
	placeholders(&plan, s, ps, existing)
	reuse(&plan)
	trigger := triggerTime(s, ps)
	for _, slice := range slices.Concat(plan.Create, plan.Update) {
		if trigger == "" {
			delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
			continue
		}
		if slice.Annotations == nil {
			slice.Annotations = map[string]string{}
		}
		slice.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger
	}
	return plan
}

func triggerTime(s *corev1.Service, ps []*corev1.Pod) string {
	t := backends.Changed(s, ps)
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// desired groups the endpoints that there should be.
func desired(s *corev1.Service, ps []*corev1.Pod, zoneOf func(string) string) map[string]*group {
	groups := map[string]*group{}
	for _, family := range backends.Families(s, ps) {
		for _, p := range ps {
			ip := backends.IP(p, family)
			if ip == "" || !backends.Belongs(p, true) {
				continue
			}
			ports := portsOf(s, p)
			key := groupKey(discoveryv1.AddressType(family), ports)
			g := groups[key]
			if g == nil {
				g = &group{family: discoveryv1.AddressType(family), ports: ports, desired: map[string]discoveryv1.Endpoint{}}
				groups[key] = g
			}
			e := endpoint(s, p, ip, zoneOf)
			g.desired[identity(&e)] = e
		}
	}
	return groups
}

func portsOf(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		n, ok := backends.TargetPort(p, sp)
		if !ok {
			continue
		}
		name, protocol := sp.Name, sp.Protocol
		out = append(out, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &n, AppProtocol: sp.AppProtocol})
	}
	return out
}

// groupKey names a family and a set of ports, in any order.
func groupKey(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	parts := make([]string, len(ports))
	for i := range ports {
		p := &ports[i]
		var b strings.Builder
		b.WriteString(deref(p.Name))
		b.WriteByte('|')
		b.WriteString(string(deref(p.Protocol)))
		b.WriteByte('|')
		if p.Port != nil {
			b.WriteString(strconv.Itoa(int(*p.Port)))
		}
		b.WriteByte('|')
		b.WriteString(deref(p.AppProtocol))
		parts[i] = b.String()
	}
	slices.Sort(parts)
	return string(family) + "\n" + strings.Join(parts, "\n")
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func identity(e *discoveryv1.Endpoint) string {
	id := ""
	if e.TargetRef != nil {
		id = string(e.TargetRef.UID)
	}
	if len(e.Addresses) > 0 {
		id += "|" + e.Addresses[0]
	}
	return id
}

func endpoint(s *corev1.Service, p *corev1.Pod, ip string, zoneOf func(string) string) discoveryv1.Endpoint {
	serving, terminating := pods.Ready(p), p.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		node := p.Spec.NodeName
		e.NodeName = &node
		if zone := zoneOf(node); zone != "" {
			e.Zone = &zone
		}
	}
	if h := backends.Hostname(p, s); h != "" {
		e.Hostname = &h
	}
	return e
}

// reconcile spreads a group's endpoints over its slices. Those that are in a
// slice stay there; new ones fill slices that change anyway, then whole new
// slices, and the remainder the fullest slice that takes it all.
func (g *group) reconcile(plan *Plan, s *corev1.Service, most int) {
	var changed, same []*discoveryv1.EndpointSlice // changed are copies
	labels := sliceLabels(s)
	seen := make(map[string]bool, len(g.desired))
	for _, slice := range g.existing {
		kept, dirty := make([]discoveryv1.Endpoint, 0, len(slice.Endpoints)), false
		for i := range slice.Endpoints {
			id := identity(&slice.Endpoints[i])
			want, ok := g.desired[id]
			if !ok || seen[id] {
				dirty = true
				continue
			}
			seen[id] = true
			dirty = dirty || !apiequality.Semantic.DeepEqual(&slice.Endpoints[i], &want)
			kept = append(kept, want)
		}
		if len(kept) > most {
			for _, e := range kept[most:] {
				delete(seen, identity(&e))
			}
			kept, dirty = kept[:most], true
		}
		if dirty || !maps.Equal(slice.Labels, labels) || !ownedBy(slice, s) {
			c := slice.DeepCopy()
			c.Endpoints, c.Labels = kept, labels
			c.OwnerReferences = owners(s)
			changed = append(changed, c)
		} else {
			same = append(same, slice)
		}
	}
	rest := make([]discoveryv1.Endpoint, 0, len(g.desired)-len(seen))
	for _, id := range slices.Sorted(maps.Keys(g.desired)) {
		if !seen[id] {
			rest = append(rest, g.desired[id])
		}
	}
	for _, c := range changed {
		rest = fill(c, rest, most)
	}
	create := func() {
		c := newSlice(s, g.family, g.ports, labels)
		rest = fill(c, rest, most)
		plan.Create = append(plan.Create, c)
	}
	for len(rest) >= most {
		create()
	}
	if len(rest) > 0 {
		if c := fullestFor(same, len(rest), most); c != nil {
			c = c.DeepCopy()
			rest = fill(c, rest, most)
			changed = append(changed, c)
		} else {
			create()
		}
	}
	for _, c := range changed {
		if len(c.Endpoints) == 0 {
			plan.Delete = append(plan.Delete, c)
		} else {
			plan.Update = append(plan.Update, c)
		}
	}
}

func fill(slice *discoveryv1.EndpointSlice, rest []discoveryv1.Endpoint, most int) []discoveryv1.Endpoint {
	n := min(most-len(slice.Endpoints), len(rest))
	slice.Endpoints = append(slice.Endpoints, rest[:n]...)
	return rest[n:]
}

func fullestFor(same []*discoveryv1.EndpointSlice, n, most int) *discoveryv1.EndpointSlice {
	var best *discoveryv1.EndpointSlice
	for _, s := range same {
		if most-len(s.Endpoints) >= n && (best == nil || len(s.Endpoints) > len(best.Endpoints)) {
			best = s
		}
	}
	return best
}

// placeholders sees to it that every family of the Service has a slice, if
// only an empty one: who watches slices then knows that there are none.
func placeholders(plan *Plan, s *corev1.Service, ps []*corev1.Pod, existing []*discoveryv1.EndpointSlice) {
	for _, family := range backends.Families(s, ps) {
		family := discoveryv1.AddressType(family)
		if slices.ContainsFunc(slices.Concat(plan.Create, plan.Update), func(x *discoveryv1.EndpointSlice) bool { return x.AddressType == family }) {
			continue
		}
		left := slices.ContainsFunc(existing, func(x *discoveryv1.EndpointSlice) bool {
			return x.AddressType == family && x.DeletionTimestamp == nil &&
				!slices.ContainsFunc(plan.Delete, func(d *discoveryv1.EndpointSlice) bool { return d.Name == x.Name })
		})
		if left {
			continue
		}
		empty := newSlice(s, family, nil, sliceLabels(s))
		i := slices.IndexFunc(plan.Delete, func(x *discoveryv1.EndpointSlice) bool {
			return x.AddressType == family && len(x.Ports) == 0 && len(x.Endpoints) == 0
		})
		if i >= 0 && maps.Equal(plan.Delete[i].Labels, empty.Labels) && ownedBy(plan.Delete[i], s) {
			plan.Delete = slices.Delete(plan.Delete, i, i+1) // it is one already
			continue
		}
		plan.Create = append(plan.Create, empty)
	}
}

// reuse turns a deletion and a creation of the same family into one update:
// one write, and no moment without a slice.
func reuse(plan *Plan) {
	for i := 0; i < len(plan.Create); {
		n := plan.Create[i]
		j := slices.IndexFunc(plan.Delete, func(x *discoveryv1.EndpointSlice) bool { return x.AddressType == n.AddressType })
		if j < 0 {
			i++
			continue
		}
		c := plan.Delete[j].DeepCopy()
		c.Endpoints, c.Ports, c.Labels = n.Endpoints, n.Ports, n.Labels
		c.OwnerReferences = n.OwnerReferences
		plan.Update = append(plan.Update, c)
		plan.Delete = slices.Delete(plan.Delete, j, j+1)
		plan.Create = slices.Delete(plan.Create, i, i+1)
	}
}

func newSlice(s *corev1.Service, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, labels map[string]string) *discoveryv1.EndpointSlice {
	c := &discoveryv1.EndpointSlice{AddressType: family, Ports: ports, Endpoints: []discoveryv1.Endpoint{}}
	c.Namespace, c.GenerateName, c.Labels = s.Namespace, s.Name+"-", maps.Clone(labels)
	c.OwnerReferences = owners(s)
	return c
}

// sliceLabels are the Service's labels and those by which others find the
// slices of a Service and this controller its own.
func sliceLabels(s *corev1.Service) map[string]string {
	out := make(map[string]string, len(s.Labels)+3)
	for k, v := range s.Labels {
		if k != corev1.IsHeadlessService {
			out[k] = v
		}
	}
	out[discoveryv1.LabelServiceName], out[discoveryv1.LabelManagedBy] = s.Name, ManagedBy
	if backends.Headless(s) {
		out[corev1.IsHeadlessService] = ""
	}
	return out
}

func ownedBy(slice *discoveryv1.EndpointSlice, s *corev1.Service) bool {
	ref := metav1.GetControllerOfNoCopy(slice)
	return ref != nil && ref.UID == s.UID
}

func owners(s *corev1.Service) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(s, client.Services.GVK())}
}
