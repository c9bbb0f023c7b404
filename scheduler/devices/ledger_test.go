package devices

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func at(c *resourcev1.ResourceClaim, version string) *resourcev1.ResourceClaim {
	c.ResourceVersion = version
	return c
}

// What is promised is nobody else's, until it is withdrawn or the claim is
// seen with it and freed.
func TestPromise(t *testing.T) {
	n := node("n1")
	l := ledger(t, class("gpu"), slice("n1", device("d1", "m")), claim("c", exactly("r")), claim("other", exactly("r")))
	p := pod("c")
	first := l.Attempt(p, nil)
	plan := first.On(n).Plan
	l.Promise("c", plan.Claims[0].Allocation)
	if first.Current(p) {
		t.Error("an attempt outlives a promise")
	}
	if have := got(l.Attempt(pod("other"), nil), n); have != cannotAllocate {
		t.Errorf("a promised device: %s", have)
	}
	if have := got(l.Attempt(p, nil), n); have != "resource claim ns/c is in the process of being allocated" {
		t.Errorf("a promised claim: %s", have)
	}
	l.SetClaim(at(claim("c", exactly("r")), "2")) // its finalizer comes first
	if have := got(l.Attempt(pod("other"), nil), n); have != cannotAllocate {
		t.Errorf("after a write in between: %s", have)
	}
	l.Withdraw("c")
	if have := got(l.Attempt(pod("other"), nil), n); have != "r=n1/d1" {
		t.Errorf("withdrawn: %s", have)
	}
	l.Promise("c", plan.Claims[0].Allocation)
	l.SetClaim(at(having(claim("c", exactly("r")), "n1/d1"), "3"))
	l.Withdraw("c") // kept already
	if have := got(l.Attempt(pod("other"), nil), n); have != cannotAllocate {
		t.Errorf("kept: %s", have)
	}
	if l.SetClaim(at(claim("c", exactly("r")), "2")) {
		t.Error("an older version was taken in")
	}
	l.SetClaim(at(claim("c", exactly("r")), "4"))
	if have := got(l.Attempt(pod("other"), nil), n); have != "r=n1/d1" {
		t.Errorf("freed: %s", have)
	}
}

// A claim made anew under an old name is another one.
func TestNameUsedAgain(t *testing.T) {
	n := node("n1")
	old := having(claim("c", exactly("r")), "n1/d1")
	l := ledger(t, class("gpu"), slice("n1", device("d1", "m")), old, claim("other", exactly("r")))
	again := at(claim("c", exactly("r")), "9")
	again.UID = "again"
	l.SetClaim(again)
	if have := got(l.Attempt(pod("other"), nil), n); have != "r=n1/d1" {
		t.Errorf("%s", have)
	}
	l.RemoveClaim(old) // comes late
	if l.Claim("ns", "c") != again {
		t.Error("the new claim is forgotten with the old one")
	}
	l.RemoveClaim(again)
	if l.Claim("ns", "c") != nil {
		t.Error("the claim is still there")
	}
}

// TestNoDeviceTwice has claims promised, written, withdrawn and freed at
// random: no device is ever held by two, and in the end all are free.
func TestNoDeviceTwice(t *testing.T) {
	n := node("n1")
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		objects := []any{class("gpu"), slice("n1", device("d1", "m"), device("d2", "m"), device("d3", "m"))}
		for i := range 5 {
			objects = append(objects, claim(fmt.Sprint("c", i), exactly("r")))
		}
		l := ledger(t, objects...)
		version, held, promised := 10, map[string]string{}, map[string]*resourcev1.AllocationResult{}
		for range 200 {
			name := fmt.Sprint("c", r.IntN(5))
			version++
			switch {
			case promised[name] != nil && r.IntN(2) == 0:
				l.Withdraw(types.UID(name))
				delete(promised, name)
				delete(held, name)
			case promised[name] != nil:
				c := at(claim(name, exactly("r")), fmt.Sprint(version))
				c.Status.Allocation = promised[name]
				l.SetClaim(c)
				delete(promised, name)
			case held[name] != "":
				l.SetClaim(at(claim(name, exactly("r")), fmt.Sprint(version)))
				delete(held, name)
			default:
				out := l.Attempt(pod(name), nil).On(n)
				if out.Refusal != "" {
					if len(held) != 3 {
						t.Fatalf("seed %d: %s with %v", seed, out.Refusal, held)
					}
					continue
				}
				a := out.Plan.Claims[0].Allocation
				device := a.Devices.Results[0].Device
				for other, d := range held {
					if d == device {
						t.Fatalf("seed %d: %s and %s have %s", seed, name, other, d)
					}
				}
				l.Promise(types.UID(name), a)
				promised[name], held[name] = a, device
			}
		}
		for i := range 5 {
			l.RemoveClaim(claim(fmt.Sprint("c", i)))
		}
		if len(l.taken.AllocatedDevices)+len(l.holders)+len(l.counted)+len(l.promised) != 0 {
			t.Errorf("seed %d: left over: %v", seed, l.taken)
		}
	}
}

func extendedPod() *corev1.Pod {
	p := pod()
	want := func(list ...any) corev1.ResourceRequirements {
		out := corev1.ResourceList{}
		for i := 0; i < len(list); i += 2 {
			out[corev1.ResourceName(list[i].(string))] = resource.MustParse(list[i+1].(string))
		}
		return corev1.ResourceRequirements{Requests: out, Limits: out}
	}
	p.Spec.InitContainers = []corev1.Container{{Name: "init", Resources: want("example.com/gpu", "2")}, {Name: "early", Resources: want("example.com/gpu", "3")}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: want("example.com/gpu", "2", "cpu", "1", "deviceclass.resource.kubernetes.io/net", "1")}}
	return p
}

func TestExtendedResources(t *testing.T) {
	l := ledger(t,
		class("gpu", func(c *resourcev1.DeviceClass) { c.Spec.ExtendedResourceName = ptr.To("example.com/gpu") }), class("net"),
		slice("n1", device("d1", "m"), device("d2", "m"), device("d3", "m"), device("d4", "m"), device("d5", "m"), device("d6", "m")))
	scalars := map[corev1.ResourceName]int64{"example.com/gpu": 3, "deviceclass.resource.kubernetes.io/net": 1}
	p := extendedPod()
	out := l.Attempt(p, scalars).On(node("n1"))
	if out.Refusal != "" || len(out.Plan.Claims) != 1 {
		t.Fatalf("%+v", out)
	}
	c := out.Plan.Claims[0]
	var requests, mappings string
	for _, r := range c.Claim.Spec.Devices.Requests {
		requests += fmt.Sprintf("%s:%s*%d ", r.Name, r.Exactly.DeviceClassName, r.Exactly.Count)
	}
	for _, m := range out.Plan.Mappings {
		mappings += fmt.Sprintf("%s:%s=%s ", m.ContainerName, m.ResourceName, m.RequestName)
	}
	if want := "container-2-request-0:net*1 container-2-request-1:gpu*2 container-1-request-0:gpu*1 "; requests != want {
		t.Errorf("requests %s", requests)
	}
	if want := "c:deviceclass.resource.kubernetes.io/net=container-2-request-0 c:example.com/gpu=container-2-request-1 init:example.com/gpu=container-2-request-1 early:example.com/gpu=container-2-request-1 early:example.com/gpu=container-1-request-0 "; mappings != want {
		t.Errorf("mappings %s", mappings)
	}
	if !c.Special || c.Claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || !metav1.IsControlledBy(c.Claim, p) || len(c.Allocation.Devices.Results) != 4 {
		t.Errorf("%+v", c)
	}
	// What the node has by itself is left to it.
	plugin := node("n2")
	plugin.Status.Allocatable = corev1.ResourceList{"example.com/gpu": resource.MustParse("4"), "deviceclass.resource.kubernetes.io/net": resource.MustParse("1")}
	if out := l.Attempt(p, scalars).On(plugin); out.Refusal != "" || len(out.Plan.Claims) != 0 {
		t.Errorf("%+v", out)
	}
	// The claim, once made and seen, keeps the devices that were promised to the pod.
	l.Promise(p.UID, c.Allocation)
	made := c.Claim.DeepCopy()
	made.Name, made.UID, made.ResourceVersion, made.Status.Allocation = "made", "made", "7", c.Allocation
	l.SetClaim(made)
	l.Withdraw(p.UID)
	if n := len(l.taken.AllocatedDevices); n != 4 || len(l.promised) != 0 {
		t.Errorf("%d devices taken, %d promised", n, len(l.promised))
	}
	if have := got(l.Attempt(p, scalars), node("n1")); have != "made as it is" {
		t.Errorf("tried again: %s", have)
	}
	if l.Attempt(pod(), map[corev1.ResourceName]int64{"example.com/other": 1}) != nil {
		t.Error("a resource of no class needs no devices")
	}
}

// What an init container asks for is lent by those that do not run then.
func TestBorrowedDevices(t *testing.T) {
	app, sidecar := extended{resource: "r", request: "app", count: 2, at: 3}, extended{resource: "r", request: "sidecar", count: 1, at: 1, sidecar: true}
	for _, c := range []struct {
		at, count int
		want      string
		lacks     int64
	}{
		{0, 3, "[app sidecar]", 0}, {0, 4, "[app sidecar]", 1}, {0, 1, "[sidecar]", 0},
		{2, 2, "[app]", 0}, {2, 3, "[app]", 1}, {2, 1, "[app]", 0},
	} {
		got, lacks := extended{resource: "r", at: c.at, count: int64(c.count), initial: true}.borrow([]extended{app, sidecar, {resource: "other", request: "other", count: 1}})
		if fmt.Sprint(got) != c.want || lacks != c.lacks {
			t.Errorf("at %d %d devices: %v, lacks %d", c.at, c.count, got, lacks)
		}
	}
}

// Of two classes for one resource the later one serves it, of two as old the
// first by name.
func TestClassOfResource(t *testing.T) {
	gpu := func(name string, second int64) *resourcev1.DeviceClass {
		return class(name, func(c *resourcev1.DeviceClass) {
			c.CreationTimestamp, c.Spec.ExtendedResourceName = metav1.Unix(second, 0), ptr.To("example.com/gpu")
		})
	}
	for _, c := range []struct {
		classes []any
		want    string
	}{
		{[]any{gpu("a", 1), gpu("b", 2)}, "b"},
		{[]any{gpu("b", 2), gpu("a", 1)}, "b"},
		{[]any{gpu("b", 1), gpu("a", 1)}, "a"},
		{[]any{class("a")}, ""},
	} {
		if have := ledger(t, c.classes...).ClassFor("example.com/gpu"); have != c.want {
			t.Errorf("%v: %q, want %q", c.classes, have, c.want)
		}
	}
	if have := ledger(t, class("a")).ClassFor("deviceclass.resource.kubernetes.io/a"); have != "a" {
		t.Errorf("implicit name: %q", have)
	}
}
