package devices

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func node(name string, labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for i := 0; i < len(labels); i += 2 {
		n.Labels[labels[i]] = labels[i+1]
	}
	return n
}

func class(name string, change ...func(*resourcev1.DeviceClass)) *resourcev1.DeviceClass {
	c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, f := range change {
		f(c)
	}
	return c
}

func selector(expression string) []resourcev1.DeviceSelector {
	return []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
}

// device is one with a model, and with whatever change adds.
func device(name, model string, change ...func(*resourcev1.Device)) resourcev1.Device {
	d := resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: ptr.To(model)}}}
	for _, f := range change {
		f(&d)
	}
	return d
}

// slice is a whole pool, called like the node that has it.
func slice(where string, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: where + "-slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "dra.example.com", Pool: resourcev1.ResourcePool{Name: where, Generation: 1, ResourceSliceCount: 1},
			NodeName: &where, Devices: devices,
		},
	}
}

func exactly(name string, change ...func(*resourcev1.ExactDeviceRequest)) resourcev1.DeviceRequest {
	r := resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}
	for _, f := range change {
		f(r.Exactly)
	}
	return r
}

func claim(name string, requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}
}

// having is the claim with devices ("pool/device") that its first request got.
func having(c *resourcev1.ResourceClaim, devices ...string) *resourcev1.ResourceClaim {
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for _, d := range devices {
		pool, name, _ := strings.Cut(d, "/")
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{Request: c.Spec.Devices.Requests[0].Name, Driver: "dra.example.com", Pool: pool, Device: name})
	}
	return c
}

func pod(claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}}
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: c, ResourceClaimName: ptr.To(c)})
	}
	return p
}

// ledger holds what it is given.
func ledger(t *testing.T, objects ...any) *Ledger {
	t.Helper()
	l := NewLedger()
	for _, o := range objects {
		switch o := o.(type) {
		case *resourcev1.DeviceClass:
			l.SetClass(o)
		case *resourcev1.ResourceSlice:
			l.SetSlice(o)
		case *resourcev1.ResourceClaim:
			l.SetClaim(o)
		default:
			t.Fatalf("%T", o)
		}
	}
	return l
}

// got says what an attempt came to: "request=pool/device" of all claims that it
// allocated, or why not.
func got(a *Attempt, n *corev1.Node) string {
	if a == nil {
		return "no devices"
	}
	if a.Refusal != "" {
		return a.Refusal
	}
	out := a.On(n)
	if out.Refusal != "" {
		return out.Refusal
	}
	var list []string
	for _, c := range out.Plan.Claims {
		if c.Allocation == nil {
			list = append(list, c.Claim.Name+" as it is")
			continue
		}
		for _, r := range c.Allocation.Devices.Results {
			list = append(list, fmt.Sprintf("%s=%s/%s", r.Request, r.Pool, r.Device))
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestWhatAPodGets(t *testing.T) {
	gpu := class("gpu")
	both := slice("n1", device("d1", "small"), device("d2", "large"))
	taint := func(effect resourcev1.DeviceTaintEffect) func(*resourcev1.Device) {
		return func(d *resourcev1.Device) { d.Taints = []resourcev1.DeviceTaint{{Key: "sick", Effect: effect}} }
	}
	model := func(m string) func(*resourcev1.ExactDeviceRequest) {
		return func(r *resourcev1.ExactDeviceRequest) {
			r.Selectors = selector(`device.attributes["dra.example.com"].model == "` + m + `"`)
		}
	}
	count := func(n int64) func(*resourcev1.ExactDeviceRequest) {
		return func(r *resourcev1.ExactDeviceRequest) { r.Count = n }
	}
	all := func(r *resourcev1.ExactDeviceRequest) {
		r.AllocationMode, r.Count = resourcev1.DeviceAllocationModeAll, 0
	}
	first := func(models ...string) resourcev1.DeviceRequest {
		r := resourcev1.DeviceRequest{Name: "r"}
		for _, m := range models {
			r.FirstAvailable = append(r.FirstAvailable, resourcev1.DeviceSubRequest{
				Name: m, DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1,
				Selectors: selector(`device.attributes["dra.example.com"].model == "` + m + `"`),
			})
		}
		return r
	}
	matching := func(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
		c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: ptr.To(resourcev1.FullyQualifiedName("dra.example.com/model"))}}
		return c
	}
	counters := func(left string) func(*resourcev1.Device) {
		return func(d *resourcev1.Device) {
			d.ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "mem", Counters: map[string]resourcev1.Counter{"b": {Value: resource.MustParse(left)}}}}
		}
	}
	whole := slice("n1", device("d1", "half", counters("4")), device("d2", "half", counters("4")), device("d3", "whole", counters("8")))
	whole.Spec.Pool.ResourceSliceCount = 2
	set := slice("n1")
	set.Name = "counters"
	set.Spec.Pool.ResourceSliceCount = 2
	set.Spec.SharedCounters = []resourcev1.CounterSet{{Name: "mem", Counters: map[string]resourcev1.Counter{"b": {Value: resource.MustParse("8")}}}}
	shared := device("d1", "net", func(d *resourcev1.Device) {
		d.AllowMultipleAllocations = ptr.To(true)
		d.Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"bw": {Value: resource.MustParse("10")}}
	})
	capacity := func(q string) func(*resourcev1.ExactDeviceRequest) {
		return func(r *resourcev1.ExactDeviceRequest) {
			r.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"bw": resource.MustParse(q)}}
		}
	}
	used := having(claim("other", exactly("r")), "n1/d1")
	used.Status.Allocation.Devices.Results[0].ShareID = ptr.To(types.UID("share"))
	used.Status.Allocation.Devices.Results[0].ConsumedCapacity = map[resourcev1.QualifiedName]resource.Quantity{"bw": resource.MustParse("6")}
	onLabel := slice("net", device("d1", "small"))
	onLabel.Spec.NodeName = nil
	onLabel.Spec.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "rack", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}}}}
	newer := slice("n1", device("d9", "small"))
	newer.Name, newer.Spec.Pool.Generation = "newer", 2
	half := slice("n1", device("d1", "small"))
	half.Spec.Pool.ResourceSliceCount = 2
	perDevice := slice("n1", device("d1", "small", func(d *resourcev1.Device) { d.NodeName = ptr.To("n2") }), device("d2", "small", func(d *resourcev1.Device) { d.AllNodes = ptr.To(true) }))
	perDevice.Spec.NodeName, perDevice.Spec.PerDeviceNodeSelection = nil, ptr.To(true)
	full := having(claim("c", exactly("r")), "n1/d1")
	for i := range resourcev1.ResourceClaimReservedForMaxSize {
		full.Status.ReservedFor = append(full.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "x", UID: types.UID(fmt.Sprint(i))})
	}
	away := having(claim("c", exactly("r")), "n2/d1")
	away.Status.Allocation.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}}}}}}
	leaving := claim("c", exactly("r"))
	leaving.DeletionTimestamp = &metav1.Time{}
	for _, c := range []struct {
		name    string
		objects []any
		want    string
	}{
		{"one device", []any{gpu, both, claim("c", exactly("r"))}, "r=n1/d1"},
		{"by selector", []any{gpu, both, claim("c", exactly("r", model("large")))}, "r=n1/d2"},
		{"by the class's selector", []any{class("gpu", func(c *resourcev1.DeviceClass) {
			c.Spec.Selectors = selector(`device.attributes["dra.example.com"].model == "large"`)
		}), both, claim("c", exactly("r"))}, "r=n1/d2"},
		{"two", []any{gpu, both, claim("c", exactly("r", count(2)))}, "r=n1/d1 r=n1/d2"},
		{"three of two", []any{gpu, both, claim("c", exactly("r", count(3)))}, cannotAllocate},
		{"all", []any{gpu, both, claim("c", exactly("r", all))}, "r=n1/d1 r=n1/d2"},
		{"all, of which one is taken", []any{gpu, both, claim("c", exactly("r", all)), having(claim("other", exactly("r")), "n1/d1")}, cannotAllocate},
		{"what others have is taken", []any{gpu, both, claim("c", exactly("r")), having(claim("other", exactly("r")), "n1/d1")}, "r=n1/d2"},
		{"constraint", []any{gpu, both, matching(claim("c", exactly("r", count(2))))}, cannotAllocate},
		{"the first alternative", []any{gpu, both, claim("c", first("large", "small"))}, "r/large=n1/d2"},
		{"the second alternative", []any{gpu, both, claim("c", first("huge", "small"))}, "r/small=n1/d1"},
		{"tainted", []any{gpu, slice("n1", device("d1", "small", taint(resourcev1.DeviceTaintEffectNoSchedule))), claim("c", exactly("r"))}, cannotAllocate},
		{"tolerated", []any{gpu, slice("n1", device("d1", "small", taint(resourcev1.DeviceTaintEffectNoExecute))), claim("c", exactly("r", func(r *resourcev1.ExactDeviceRequest) {
			r.Tolerations = []resourcev1.DeviceToleration{{Key: "sick", Operator: resourcev1.DeviceTolerationOpExists}}
		}))}, "r=n1/d1"},
		{"for administrators, though taken", []any{gpu, slice("n1", device("d1", "small")), having(claim("other", exactly("r")), "n1/d1"), claim("c", exactly("r", func(r *resourcev1.ExactDeviceRequest) {
			r.AdminAccess = ptr.To(true)
		}))}, "r=n1/d1"},
		{"partitions", []any{gpu, whole, set, claim("c", exactly("a", model("half")), exactly("b", model("half")))}, "a=n1/d1 b=n1/d2"},
		{"a partition of what is used whole", []any{gpu, whole, set, claim("c", exactly("a", model("half")), exactly("b", model("whole")))}, cannotAllocate},
		{"a share", []any{gpu, slice("n1", shared), used, claim("c", exactly("r", capacity("4")))}, "r=n1/d1"},
		{"too large a share", []any{gpu, slice("n1", shared), used, claim("c", exactly("r", capacity("5")))}, cannotAllocate},
		{"not on this node", []any{gpu, slice("n2", device("d1", "small")), claim("c", exactly("r"))}, cannotAllocate},
		{"not for these labels", []any{gpu, onLabel, claim("c", exactly("r"))}, cannotAllocate},
		{"selection by device", []any{gpu, perDevice, claim("c", exactly("r"))}, "r=n1/d2"},
		{"the newer generation", []any{gpu, slice("n1", device("d1", "small")), newer, claim("c", exactly("r"))}, "r=n1/d9"},
		{"an incomplete pool", []any{gpu, half, claim("c", exactly("r"))}, cannotAllocate},
		{"no class", []any{both, claim("c", exactly("r"))}, "request r: device class gpu does not exist"},
		{"no class of an alternative", []any{both, claim("c", first("large"))}, "request r/large: device class gpu does not exist"},
		{"no claim", []any{gpu, both}, `resourceclaim "c" not found`},
		{"claim on its way out", []any{gpu, both, leaving}, `resourceclaim "c" is being deleted`},
		{"allocated", []any{gpu, having(claim("c", exactly("r")), "n1/d1")}, "c as it is"},
		{"allocated elsewhere", []any{gpu, away}, notThere},
		{"reserved by too many", []any{gpu, full}, "resourceclaim in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if have := got(ledger(t, c.objects...).Attempt(pod("c"), nil), node("n1")); have != c.want {
				t.Errorf("got %q, want %q", have, c.want)
			}
		})
	}
}

func TestFaultySelector(t *testing.T) {
	l := ledger(t, class("gpu"), slice("n1", device("d1", "small")), claim("c", exactly("r", func(r *resourcev1.ExactDeviceRequest) {
		r.Selectors = selector(`device.attributes["dra.example.com"].nothing`)
	})))
	if out := l.Attempt(pod("c"), nil).On(node("n1")); !out.Fault || !strings.Contains(out.Refusal, "runtime error") {
		t.Errorf("%+v", out)
	}
}

// The pod's own claim is a template's as soon as the status names it.
func TestMissing(t *testing.T) {
	p := pod()
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "e", ResourceClaimTemplateName: ptr.To("t")}}
	l := ledger(t, class("gpu"), claim("made", exactly("r")))
	if why := l.Missing(p); !strings.Contains(why, "not created yet") {
		t.Error(why)
	}
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "e", ResourceClaimName: ptr.To("made")}}
	if why := l.Missing(p); !strings.Contains(why, "is not owner") {
		t.Error(why)
	}
	c := claim("made", exactly("r"))
	c.ResourceVersion, c.OwnerReferences = "2", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "p", Controller: ptr.To(true)}}
	l.SetClaim(c)
	if why := l.Missing(p); why != "" {
		t.Error(why)
	}
	p.Status.ResourceClaimStatuses[0].ResourceClaimName = nil // none was needed
	if why := l.Missing(p); why != "" {
		t.Error(why)
	}
}

func TestRankOfAlternatives(t *testing.T) {
	r := resourcev1.DeviceRequest{Name: "r"}
	for _, m := range []string{"large", "small"} {
		r.FirstAvailable = append(r.FirstAvailable, resourcev1.DeviceSubRequest{Name: m, DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1,
			Selectors: selector(`device.attributes["dra.example.com"].model == "` + m + `"`)})
	}
	l := ledger(t, class("gpu"), slice("n1", device("d", "small")), slice("n2", device("d", "large")), claim("c", r))
	a := l.Attempt(pod("c"), nil)
	if x, y := a.On(node("n1")).Rank, a.On(node("n2")).Rank; !a.Ranked || x != 7 || y != 8 {
		t.Errorf("ranked %v: %d and %d", a.Ranked, x, y)
	}
}
