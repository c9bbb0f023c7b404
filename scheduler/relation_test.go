package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func labelled(kv ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func affinityTerm(key string, kv ...string) corev1.PodAffinityTerm {
	sel := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		sel[kv[i]] = kv[i+1]
	}
	return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: sel}}
}

func near(t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		ensureAffinity(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
	}
}

func apart(t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		ensureAffinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
	}
}

func ratherApart(t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		ensureAffinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: t}}}
	}
}

func ensureAffinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

func spread(key string, skew int32, when corev1.UnsatisfiableConstraintAction, change ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}
		for _, f := range change {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func TestRelationsToOtherPods(t *testing.T) {
	const host, zone = corev1.LabelHostname, corev1.LabelTopologyZone
	zoned := func(name, z string) *corev1.Node { return node(name, nodeLabel(zone, z)) }
	web := labelled("app", "web")
	in := func(ns string, p *corev1.Pod) *corev1.Pod { p.Namespace = ns; return p }
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		bound map[string][]*corev1.Pod
		pod   *corev1.Pod
		node  string
		why   string
	}{
		{"near", []*corev1.Node{node("a"), node("b")}, map[string][]*corev1.Pod{"b": {pod("x", web)}}, pod("p", near(affinityTerm(host, "app", "web"))), "b", ""},
		{"near in the zone", []*corev1.Node{zoned("a", "1"), zoned("b", "2"), node("c")}, map[string][]*corev1.Pod{"a": {pod("x", web, requests("4", "1Gi"))}}, pod("p", near(affinityTerm(zone, "app", "web")), requests("1", "1Gi")), "",
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match pod affinity rules."},
		{"no friend there", []*corev1.Node{node("a")}, nil, pod("p", near(affinityTerm(host, "app", "web"))), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"the first of its group", []*corev1.Node{node("a")}, nil, pod("p", web, near(affinityTerm(host, "app", "web"))), "a", ""},
		{"a friend in another namespace is none", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {in("other", pod("x", web))}}, pod("p", near(affinityTerm(host, "app", "web"))), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"unless the term names it", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {in("other", pod("x", web))}}, pod("p", near(func() corev1.PodAffinityTerm {
			t := affinityTerm(host, "app", "web")
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
			return t
		}())), "a", ""},
		{"apart", []*corev1.Node{node("a"), node("b")}, map[string][]*corev1.Pod{"a": {pod("x", web)}}, pod("p", web, apart(affinityTerm(host, "app", "web"))), "b", ""},
		{"nowhere apart", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", web)}}, pod("p", web, apart(affinityTerm(host, "app", "web"))), "", "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"others want to be apart", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", apart(affinityTerm(host, "app", "web")))}}, pod("p", web), "", "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"rather apart", []*corev1.Node{node("a"), node("b")}, map[string][]*corev1.Pod{"a": {pod("x", web)}, "b": {pod("y", requests("1", "1Gi"))}}, pod("p", web, ratherApart(affinityTerm(host, "app", "web"))), "b", ""},
		{"spread", []*corev1.Node{zoned("a", "1"), zoned("b", "2")}, map[string][]*corev1.Pod{"a": {pod("x", web)}}, pod("p", web, spread(zone, 1, corev1.DoNotSchedule), requests("1", "1Gi")), "b", ""},
		{"too skewed", []*corev1.Node{zoned("a", "1"), zoned("b", "2")}, map[string][]*corev1.Pod{"a": {pod("x", web)}, "b": {pod("y", requests("4", "1Gi"))}}, pod("p", web, spread(zone, 1, corev1.DoNotSchedule), requests("1", "1Gi")), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints."},
		{"no such label", []*corev1.Node{node("a")}, nil, pod("p", web, spread(zone, 1, corev1.DoNotSchedule)), "", "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"too few domains", []*corev1.Node{zoned("a", "1")}, map[string][]*corev1.Pod{"a": {pod("x", web)}}, pod("p", web, spread(zone, 1, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.MinDomains = ptr.To[int32](2) })), "",
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints."},
		{"rather spread", []*corev1.Node{zoned("a", "1"), zoned("b", "2")}, map[string][]*corev1.Pod{"a": {pod("x", web)}, "b": {pod("y", requests("1", "1Gi"))}}, pod("p", web, spread(zone, 1, corev1.ScheduleAnyway)), "b", ""},
		{"replicas go to different hosts by default", []*corev1.Node{node("a"), node("b")}, map[string][]*corev1.Pod{"a": {pod("x", web)}}, pod("p", web, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
		}), "b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot(c.nodes, c.bound)
			s.SetNamespace("other", labels.Set{"team": "x"})
			got, why := place(s, c.pod)
			if got != c.node || why != c.why {
				t.Errorf("placed on %q (%s), want %q (%s)", got, why, c.node, c.why)
			}
		})
	}
}

// TestAntiAffinityHoldsUnderChurn places and removes pods at random: never two
// of one group on one host.
func TestAntiAffinityHoldsUnderChurn(t *testing.T) {
	s := NewSnapshot()
	for i := range 5 {
		s.SetNode(node(fmt.Sprint("n", i)))
	}
	classes, profile := newClasses(8), DefaultProfile()
	web := labelled("app", "web")
	on := map[string]string{}
	for i := range 200 {
		name := fmt.Sprint("p", i)
		p := NewPod(pod(name, web, apart(affinityTerm(corev1.LabelHostname, "app", "web"))))
		n, _ := classes.of(p, profile, s).place(p, profile, s, false)
		if (n == nil) != (len(on) == 5) {
			t.Fatalf("pod %d: placed %v with %d of 5 hosts taken", i, n != nil, len(on))
		}
		if n != nil {
			if other, taken := on[n.Name]; taken {
				t.Fatalf("pod %d was placed on %s beside %s", i, n.Name, other)
			}
			s.SetPod(p, n.Name)
			on[n.Name] = name
			continue
		}
		for host, victim := range on { // any
			s.RemovePod(NewPod(pod(victim)).UID)
			delete(on, host)
			break
		}
	}
}

// TestSpreadCountsFollowThePods changes pods and nodes at random: what is kept
// equals what a new snapshot counts, and no placement breaks the skew.
func TestSpreadCountsFollowThePods(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s, profile, classes := NewSnapshot(), DefaultProfile(), newClasses(16)
	made := func(i int) *corev1.Node {
		return node(fmt.Sprint("n", i), nodeLabel(corev1.LabelTopologyZone, fmt.Sprint(rng.IntN(3))))
	}
	for i := range 6 {
		s.SetNode(made(i))
	}
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
	}
	bound := map[types.UID]*Pod{}
	for step := range 2000 {
		app := labelled("app", fmt.Sprint(rng.IntN(3)), "pod-template-hash", fmt.Sprint(rng.IntN(2)))
		how := spread(corev1.LabelTopologyZone, 2, corev1.DoNotSchedule)
		if rng.IntN(2) == 0 {
			how = owned
		}
		p := NewPod(pod(fmt.Sprint("p", step), app, requests("10m", "1Mi"), how))
		p.Pod.Generation = 1
		n, _ := classes.of(p, profile, s).place(p, profile, s, false)
		if n != nil {
			s.SetPod(p, n.Name)
			bound[p.UID] = p
		}
		for uid, b := range bound {
			switch rng.IntN(30) {
			case 0:
				s.RemovePod(uid)
				delete(bound, uid)
			case 1:
				obj := b.DeepCopy()
				obj.Spec.NodeName = s.where[uid]
				if rng.IntN(2) == 0 {
					obj.Labels["app"] = "other"
				}
				if !s.Renew(obj) {
					s.SetPod(NewPod(obj), obj.Spec.NodeName)
				}
			}
		}
		switch rng.IntN(40) {
		case 0:
			s.SetNode(made(rng.IntN(8)))
		case 1:
			s.RemoveNode(fmt.Sprint("n", rng.IntN(8)))
		}
		kept := s.spreads.of(p, s)
		fresh := newSpreading(kept.key, p)
		fresh.recount(p, s)
		for i, c := range append(slices.Clone(kept.hard), kept.soft...) {
			want := append(slices.Clone(fresh.hard), fresh.soft...)[i]
			if !slices.Equal(c.domains, want.domains) || c.live != want.live {
				t.Fatalf("step %d, %s: %v are kept, %v counted", step, c.key, c.domains, want.domains)
			}
		}
	}
}
