// Package devicetaint deletes pods whose devices have NoExecute taints that
// their claims do not, or no longer, tolerate: claims and the devices' taints
// in, the time of a pod's eviction out (KEP-5055).
package devicetaint

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
)

// device names a device as allocation results do.
type device struct{ driver, pool, name string }

// Taints are the NoExecute taints of devices, of all pools' newest
// generations.
type Taints map[device][]resourcev1.DeviceTaint

// Collect gathers the taints. Slices of a pool's older generations do not
// count.
func Collect(slices []*resourcev1.ResourceSlice) Taints {
	newest := map[device]int64{}
	for _, s := range slices {
		pool := device{driver: s.Spec.Driver, pool: s.Spec.Pool.Name}
		newest[pool] = max(newest[pool], s.Spec.Pool.Generation)
	}
	out := Taints{}
	for _, s := range slices {
		at := device{driver: s.Spec.Driver, pool: s.Spec.Pool.Name}
		if s.Spec.Pool.Generation != newest[at] {
			continue
		}
		for i := range s.Spec.Devices {
			d := &s.Spec.Devices[i]
			at.name = d.Name
			for _, t := range d.Taints {
				if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
					out[at] = append(out[at], t)
				}
			}
		}
	}
	return out
}

// EvictAt is when the users of a claim have to go; ok is false when they may
// stay. added is when a taint without a time of its own counts as added.
func EvictAt(c *resourcev1.ResourceClaim, taints Taints, added time.Time) (at time.Time, ok bool) {
	if c.Status.Allocation == nil {
		return at, false
	}
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		for _, t := range taints[device{r.Driver, r.Pool, r.Device}] {
			seconds, tolerated := tolerates(r.Tolerations, &t)
			if tolerated && seconds == nil {
				continue
			}
			from := added
			if t.TimeAdded != nil {
				from = t.TimeAdded.Time
			}
			if tolerated {
				from = from.Add(time.Duration(max(*seconds, 0)) * time.Second)
			}
			if !ok || from.Before(at) {
				at, ok = from, true
			}
		}
	}
	return at, ok
}

// tolerates returns for how long the taint is tolerated: the shortest of the
// matching tolerations' times, nil for ever.
func tolerates(tolerations []resourcev1.DeviceToleration, t *resourcev1.DeviceTaint) (seconds *int64, ok bool) {
	for i := range tolerations {
		tol := &tolerations[i]
		if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
			continue
		}
		switch tol.Operator {
		case resourcev1.DeviceTolerationOpExists:
		case resourcev1.DeviceTolerationOpEqual, "":
			if tol.Key == "" || tol.Value != t.Value {
				continue
			}
		default:
			continue
		}
		ok = true
		if tol.TolerationSeconds != nil && (seconds == nil || *tol.TolerationSeconds < *seconds) {
			seconds = tol.TolerationSeconds
		}
	}
	return seconds, ok
}
