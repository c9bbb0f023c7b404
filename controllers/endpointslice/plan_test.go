package endpointslice

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/controllers/pods"
)

func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", UID: "svc", Labels: map[string]string{"team": "a"}}}
	s.Spec = corev1.ServiceSpec{
		ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "x"},
		Ports: []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func pod(i int, change ...func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprintf("p%03d", i)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name)}}
	p.Spec.NodeName = "node-1"
	ip := fmt.Sprintf("10.42.%d.%d", i/250, i%250+1)
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: fmt.Sprintf("fd00::%x", i+1)}}}
	pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(1e9, 0))})
	for _, f := range change {
		f(p)
	}
	return p
}

func many(n int) (out []*corev1.Pod) {
	for i := range n {
		out = append(out, pod(i))
	}
	return out
}

func zones(string) string { return "z1" }

// carryOut does to existing what the plan says, as the API would.
func carryOut(t *testing.T, existing []*discoveryv1.EndpointSlice, plan Plan, names *int) []*discoveryv1.EndpointSlice {
	t.Helper()
	for _, c := range plan.Create {
		*names++
		c.Name = fmt.Sprintf("s-%03d", *names)
		existing = append(existing, c)
	}
	at := func(name string) int {
		i := slices.IndexFunc(existing, func(x *discoveryv1.EndpointSlice) bool { return x.Name == name })
		if i < 0 {
			t.Fatalf("no slice %s", name)
		}
		return i
	}
	for _, u := range plan.Update {
		existing[at(u.Name)] = u
	}
	for _, d := range plan.Delete {
		i := at(d.Name)
		existing = slices.Delete(existing, i, i+1)
	}
	return existing
}

func ips(s []*discoveryv1.EndpointSlice) (out []string) {
	for _, x := range s {
		for _, e := range x.Endpoints {
			out = append(out, e.Addresses[0])
		}
	}
	slices.Sort(out)
	return out
}

func TestOneEndpoint(t *testing.T) {
	yes, no := true, false
	for _, tc := range []struct {
		name                        string
		s                           *corev1.Service
		p                           *corev1.Pod
		there                       bool
		ready, serving, terminating bool
		hostname                    string
	}{
		{"ready", service(), pod(1), true, yes, yes, no, ""},
		{"not ready", service(), pod(1, func(p *corev1.Pod) { p.Status.Conditions = nil }), true, no, no, no, ""},
		{"not ready, but published", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod(1, func(p *corev1.Pod) { p.Status.Conditions = nil }), true, yes, no, no, ""},
		{"terminating", service(), pod(1, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), true, no, yes, yes, ""},
		{"finished", service(), pod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), false, no, no, no, ""},
		{"no address yet", service(), pod(1, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }), false, no, no, no, ""},
		{"of another family", service(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }),
			pod(1, func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[:1] }), false, no, no, no, ""},
		{"with a name in the service", service(), pod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "s" }), true, yes, yes, no, "h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Make(tc.s, []*corev1.Pod{tc.p}, nil, zones, MaxEndpoints)
			if len(plan.Create) != 1 || len(plan.Update)+len(plan.Delete) > 0 {
				t.Fatalf("%+v", plan)
			}
			c := plan.Create[0]
			if !tc.there {
				if len(c.Endpoints) > 0 || len(c.Ports) > 0 {
					t.Errorf("want a placeholder, got %+v", c)
				}
				return
			}
			e := c.Endpoints[0]
			if *e.Conditions.Ready != tc.ready || *e.Conditions.Serving != tc.serving || *e.Conditions.Terminating != tc.terminating || deref(e.Hostname) != tc.hostname {
				t.Errorf("%+v", e)
			}
			if *e.NodeName != "node-1" || *e.Zone != "z1" || e.TargetRef.Name != "p001" || e.TargetRef.UID != "p001" || *c.Ports[0].Port != 8080 || *c.Ports[0].Name != "web" {
				t.Errorf("%+v %+v", e, c.Ports)
			}
			if c.Labels[discoveryv1.LabelServiceName] != "s" || c.Labels[discoveryv1.LabelManagedBy] != ManagedBy || c.Labels["team"] != "a" ||
				c.GenerateName != "s-" || c.OwnerReferences[0].UID != "svc" || *c.OwnerReferences[0].Controller != true {
				t.Errorf("%+v", c.ObjectMeta)
			}
		})
	}
}

// Slices change as little as possible while pods come and go.
func TestFewWrites(t *testing.T) {
	names := 0
	s := service()
	var have []*discoveryv1.EndpointSlice
	step := func(what string, ps []*corev1.Pod, create, update, del int) {
		t.Helper()
		plan := Make(s, ps, have, zones, MaxEndpoints)
		if len(plan.Create) != create || len(plan.Update) != update || len(plan.Delete) != del {
			t.Errorf("%s: %d created, %d updated, %d deleted; want %d, %d, %d", what, len(plan.Create), len(plan.Update), len(plan.Delete), create, update, del)
		}
		have = carryOut(t, have, plan, &names)
		var want []string
		for _, p := range ps {
			want = append(want, p.Status.PodIP)
		}
		slices.Sort(want)
		if got := ips(have); !slices.Equal(got, want) {
			t.Fatalf("%s: %d endpoints, want %d", what, len(got), len(want))
		}
		for _, x := range have {
			if len(x.Endpoints) > MaxEndpoints {
				t.Fatalf("%s: %d endpoints in one slice", what, len(x.Endpoints))
			}
		}
		if again := Make(s, ps, have, zones, MaxEndpoints); len(again.Create)+len(again.Update)+len(again.Delete) > 0 {
			t.Fatalf("%s: a second look finds work: %+v", what, again)
		}
	}
	step("none", nil, 1, 0, 0)
	step("first", many(1), 0, 1, 0) // the placeholder becomes the slice
	step("many", many(250), 2, 1, 0)
	step("one more", many(251), 0, 1, 0)
	ps := many(251)
	ps[7] = pod(7, func(p *corev1.Pod) { p.Status.Conditions = nil })
	step("one not ready", ps, 0, 1, 0)
	step("one gone", append(ps[:7:7], ps[8:]...), 0, 1, 0)
	s.Labels = map[string]string{"team": "b"}
	step("labels", many(250), 0, 3, 0)
	s.Spec.Ports[0].TargetPort = intstr.FromInt32(9090)
	step("port", many(250), 0, 3, 0)
	step("few", many(3), 0, 1, 2)
	step("none again", nil, 0, 1, 0)
	if len(have) != 1 {
		t.Errorf("%d slices are left, want a placeholder", len(have))
	}
}

func TestNamedPortsAndTwoFamilies(t *testing.T) {
	s := service(func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.Ports[0].TargetPort = intstr.FromString("http")
	})
	port := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: n, Protocol: corev1.ProtocolTCP}}}}
		}
	}
	sidecar := func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 3, Protocol: corev1.ProtocolTCP}}}}
	}
	plan := Make(s, []*corev1.Pod{pod(0, port(1)), pod(1, port(2)), pod(2, port(1)), pod(3, sidecar), pod(4)}, nil, zones, MaxEndpoints)
	var got []string
	for _, c := range plan.Create {
		line := string(c.AddressType)
		for _, p := range c.Ports {
			line += fmt.Sprint(" ", *p.Port)
		}
		got = append(got, line+" "+strings.Join(ips([]*discoveryv1.EndpointSlice{c}), ","))
	}
	slices.Sort(got)
	want := []string{
		"IPv4 1 10.42.0.1,10.42.0.3", "IPv4 2 10.42.0.2", "IPv4 3 10.42.0.4", "IPv4 10.42.0.5",
		"IPv6 1 fd00::1,fd00::3", "IPv6 2 fd00::2", "IPv6 3 fd00::4", "IPv6 fd00::5",
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestHeadless(t *testing.T) {
	s := service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = corev1.ClusterIPNone, nil })
	plan := Make(s, many(2), nil, zones, MaxEndpoints)
	if len(plan.Create) != 1 || len(plan.Create[0].Endpoints) != 2 || len(plan.Create[0].Ports) != 0 {
		t.Fatalf("%+v", plan)
	}
	if _, ok := plan.Create[0].Labels[corev1.IsHeadlessService]; !ok {
		t.Errorf("labels %v", plan.Create[0].Labels)
	}
}
