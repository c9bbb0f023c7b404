package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// deviceWorld is a profile with one class, a claim "c" for a device of the
// given model and a device on each node, by its model.
func deviceWorld(t *testing.T, expression string, models map[string]string) (*deviceClaims, *Profile, *Snapshot) {
	t.Helper()
	d := newDeviceClaims(nil, time.Now, nil)
	d.ledger.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}})
	d.ledger.SetClaim(&resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1,
			Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}},
		}}}}},
	})
	var nodes []*corev1.Node
	for name, model := range models {
		nodes = append(nodes, node(name))
		d.ledger.SetSlice(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "d.example.com", Pool: resourcev1.ResourcePool{Name: name, Generation: 1, ResourceSliceCount: 1}, NodeName: ptr.To(name),
			Devices: []resourcev1.Device{{Name: "d", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{resourcev1.QualifiedName(model): {StringValue: ptr.To("yes")}}}},
		}})
	}
	return d, withDevices(DefaultProfile(), d), snapshot(nodes, nil)
}

func claiming(p *corev1.Pod) {
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: ptr.To("c")}}
}

func TestPodsGoWhereTheirDevicesAre(t *testing.T) {
	const large = `device.attributes["d.example.com"]`
	wants := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	}
	for _, c := range []struct {
		name, expression string
		pod              *corev1.Pod
		node, why        string
	}{
		{"claim", `"large" in ` + large, pod("p", claiming), "b", ""},
		{"no such device", `"huge" in ` + large, pod("p", claiming), "", "0/2 nodes are available: 2 cannot allocate all claims."},
		// What cannot be told of node a keeps the pod off node b, too.
		{"fault", large + `.large == "yes"`, pod("p", claiming), "", `running "DynamicResources" filter plugin: `},
		{"extended resource", "true", pod("p", wants), "a or b", ""},
		{"no claims", "true", pod("p"), "a or b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, profile, s := deviceWorld(t, c.expression, map[string]string{"a": "small", "b": "large"})
			p := NewPod(c.pod)
			n, d := newClasses(8).of(p, profile, s).place(p, profile, s, false)
			switch {
			case n != nil && n.Name != c.node && c.node != "a or b", n == nil && c.node != "":
				t.Errorf("placed on %v, want %s (%v)", n, c.node, d)
			case n == nil && (len(d.Message()) < len(c.why) || d.Message()[:len(c.why)] != c.why):
				t.Errorf("got %q, want %q", d.Message(), c.why)
			}
		})
	}
}

// What is reserved for one pod is no other's, and free again without a write.
func TestReservedDevices(t *testing.T) {
	d, profile, s := deviceWorld(t, "true", map[string]string{"a": "large"})
	first := NewPod(pod("first", claiming))
	classes := newClasses(8)
	n, _ := classes.of(first, profile, s).place(first, profile, s, false)
	if n == nil {
		t.Fatal("not placed")
	}
	w, err := d.reserve(first, n)
	if err != nil || w == nil || len(w.plan.Claims) != 1 {
		t.Fatalf("%+v, %v", w, err)
	}
	second := NewPod(pod("second", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	}))
	if n, _ := classes.of(second, profile, s).place(second, profile, s, false); n != nil {
		t.Error("a device was given twice")
	}
	d.settle(first, w)
	if n, _ := classes.of(second, profile, s).place(second, profile, s, false); n == nil {
		t.Error("what was not written is not free")
	}
}

// TestBound: devices are ready when all their conditions say so, and never
// will be when a condition of failure does.
func TestBound(t *testing.T) {
	claim := func(conditions ...metav1.Condition) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "c"}}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Driver: "d", Pool: "p", Device: "plain"},
			{Driver: "d", Pool: "p", Device: "slow", BindingConditions: []string{"ready", "wired"}, BindingFailureConditions: []string{"broken"}},
		}}}
		c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "slow", Conditions: conditions}}
		return c
	}
	is := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Message: "why"}
	}
	freed := claim()
	freed.Status.Allocation = nil
	for _, c := range []struct {
		name  string
		claim *resourcev1.ResourceClaim
		done  bool
		err   string
	}{
		{"nothing said", claim(), false, ""},
		{"one of two", claim(is("ready", metav1.ConditionTrue), is("wired", metav1.ConditionFalse)), false, ""},
		{"both", claim(is("ready", metav1.ConditionTrue), is("wired", metav1.ConditionTrue)), true, ""},
		{"broken", claim(is("ready", metav1.ConditionTrue), is("broken", metav1.ConditionTrue)), false, "claim c binding failed: broken: why"},
		{"freed", freed, false, "claim c got deallocated in the meantime"},
	} {
		done, err := bound(c.claim, claim())
		if done != c.done || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: %v, %v", c.name, done, err)
		}
	}
}
