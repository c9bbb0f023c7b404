package devicetaint

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func slice(generation int64, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{
		Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: generation}, Devices: devices,
	}}
}

var added = time.Unix(1e9, 0)

func taint(key, value string, effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: key, Value: value, Effect: effect, TimeAdded: &metav1.Time{Time: added}}
}

func TestCollect(t *testing.T) {
	no, soft := taint("a", "", resourcev1.DeviceTaintEffectNoExecute), taint("b", "", resourcev1.DeviceTaintEffectNoSchedule)
	got := Collect([]*resourcev1.ResourceSlice{
		slice(1, resourcev1.Device{Name: "old", Taints: []resourcev1.DeviceTaint{no}}),
		slice(2, resourcev1.Device{Name: "x", Taints: []resourcev1.DeviceTaint{no, soft}}, resourcev1.Device{Name: "y"}),
		slice(2, resourcev1.Device{Name: "z", Taints: []resourcev1.DeviceTaint{soft}}),
	})
	if len(got) != 1 || len(got[device{"d", "p", "x"}]) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestEvictAt(t *testing.T) {
	const exists, equal = resourcev1.DeviceTolerationOpExists, resourcev1.DeviceTolerationOpEqual
	no := func(key, value string) resourcev1.DeviceTaint {
		return taint(key, value, resourcev1.DeviceTaintEffectNoExecute)
	}
	timeless := resourcev1.DeviceTaint{Key: "a", Effect: resourcev1.DeviceTaintEffectNoExecute}
	for name, c := range map[string]struct {
		taints []resourcev1.DeviceTaint
		tols   []resourcev1.DeviceToleration
		want   time.Duration // after the taint; -1 never
	}{
		"healthy":            {want: -1},
		"not tolerated":      {taints: []resourcev1.DeviceTaint{no("a", "")}, want: 0},
		"without a time":     {taints: []resourcev1.DeviceTaint{timeless}, want: time.Minute},
		"for ever":           {taints: []resourcev1.DeviceTaint{no("a", "")}, tols: []resourcev1.DeviceToleration{{Key: "a", Operator: exists}}, want: -1},
		"everything":         {taints: []resourcev1.DeviceTaint{no("a", ""), no("b", "")}, tols: []resourcev1.DeviceToleration{{Operator: exists}}, want: -1},
		"another key":        {taints: []resourcev1.DeviceTaint{no("a", "")}, tols: []resourcev1.DeviceToleration{{Key: "b", Operator: exists}}, want: 0},
		"another effect":     {taints: []resourcev1.DeviceTaint{no("a", "")}, tols: []resourcev1.DeviceToleration{{Key: "a", Operator: exists, Effect: "NoSchedule"}}, want: 0},
		"same value":         {taints: []resourcev1.DeviceTaint{no("a", "v")}, tols: []resourcev1.DeviceToleration{{Key: "a", Operator: equal, Value: "v"}}, want: -1},
		"another value":      {taints: []resourcev1.DeviceTaint{no("a", "v")}, tols: []resourcev1.DeviceToleration{{Key: "a", Value: "w"}}, want: 0},
		"for a while":        {taints: []resourcev1.DeviceTaint{no("a", "")}, tols: []resourcev1.DeviceToleration{{Key: "a", Operator: exists, TolerationSeconds: ptr.To[int64](30)}}, want: 30 * time.Second},
		"the shorter of two": {taints: []resourcev1.DeviceTaint{no("a", ""), no("b", "")}, tols: []resourcev1.DeviceToleration{{Key: "a", Operator: exists, TolerationSeconds: ptr.To[int64](30)}, {Key: "b", Operator: exists, TolerationSeconds: ptr.To[int64](-5)}}, want: 0},
	} {
		claim := &resourcev1.ResourceClaim{}
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Driver: "d", Pool: "p", Device: "other"}, {Driver: "d", Pool: "p", Device: "x", Tolerations: c.tols},
		}}}
		at, ok := EvictAt(claim, Taints{{"d", "p", "x"}: c.taints}, added.Add(time.Minute))
		if ok != (c.want >= 0) || ok && at.Sub(added) != c.want {
			t.Errorf("%s: %v %v, want %v", name, at.Sub(added), ok, c.want)
		}
	}
	if _, ok := EvictAt(&resourcev1.ResourceClaim{}, Taints{{"d", "p", "x"}: {no("a", "")}}, added); ok {
		t.Error("a claim without devices is evicted")
	}
}
