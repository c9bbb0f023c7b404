package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func resourceClaimKind() *api.Kind {
	gvk := resourcev1.SchemeGroupVersion.WithKind("ResourceClaim")
	return &api.Kind{
		Hub: gvk, HubListKind: "ResourceClaimList",
		Resource: "resourceclaims", Singular: "resourceclaim", Namespaced: true,
		Prefix: "resourceclaims", ReturnDeleted: true,
		New: api.New[resourcev1.ResourceClaim](), NewList: api.New[resourcev1.ResourceClaimList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultClaim),
			PrepareCreate: func(o runtime.Object) {
				o.(*resourcev1.ResourceClaim).Status = resourcev1.ResourceClaimStatus{}
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				prev.(*resourcev1.ResourceClaim).Status.DeepCopyInto(&o.(*resourcev1.ResourceClaim).Status)
			},
			Validate:       api.Check(validateClaim),
			ValidateUpdate: api.Check2(validateClaimUpdate),
			Warnings: func(o, _ runtime.Object) []string {
				return claimWarnings(&o.(*resourcev1.ResourceClaim).Spec.Devices, field.NewPath("spec", "devices"))
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Untabled: true, Object: &api.Strategy{
				Resets:         []string{"spec", "metadata"},
				PrepareUpdate:  api.On2(prepareClaimStatus),
				ValidateUpdate: api.Check2(validateClaimStatus),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(c *resourcev1.ResourceClaim) []any {
			return []any{c.Name, state(c), printing.Age(c.CreationTimestamp)}
		}),
	}
}

func state(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	if len(c.Status.ReservedFor) > 0 {
		states = append(states, "reserved")
	}
	return strings.Join(states, ",")
}

func defaultClaim(c *resourcev1.ResourceClaim) {
	defaultDevices(&c.Spec.Devices)
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			defaultTolerations(a.Devices.Results[i].Tolerations)
		}
	}
}

// defaultDevices makes a request without a mode one for exactly one device.
func defaultDevices(d *resourcev1.DeviceClaim) {
	for i := range d.Requests {
		r := &d.Requests[i]
		if e := r.Exactly; e != nil {
			defaultMode(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range r.FirstAvailable {
			s := &r.FirstAvailable[j]
			defaultMode(&s.AllocationMode, &s.Count)
			defaultTolerations(s.Tolerations)
		}
	}
}

func defaultMode(mode *resourcev1.DeviceAllocationMode, count *int64) {
	api.DefaultValue(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		api.DefaultValue(count, 1)
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		api.DefaultValue(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// prepareClaimStatus keeps the spec, and drops what drivers say of devices
// that are allocated no more.
func prepareClaimStatus(c, old *resourcev1.ResourceClaim) {
	old.Spec.DeepCopyInto(&c.Spec)
	if c.Status.Allocation == nil {
		c.Status.Devices = nil
		return
	}
	if old.Status.Allocation == nil {
		return
	}
	now := allocated(c.Status.Allocation)
	before := allocated(old.Status.Allocation)
	kept := c.Status.Devices[:0:0]
	for _, d := range c.Status.Devices {
		if id := statusID(&d); !before[id] || now[id] {
			kept = append(kept, d)
		}
	}
	if len(kept) < len(c.Status.Devices) {
		c.Status.Devices = kept
	}
}

// deviceID identifies an allocated device, or a share of one, in a claim. Its
// fields' names are those that errors show.
type deviceID struct{ Driver, Pool, Device, ShareID string }

func allocated(a *resourcev1.AllocationResult) map[deviceID]bool {
	ids := map[deviceID]bool{}
	for _, r := range a.Devices.Results {
		id := deviceID{Driver: r.Driver, Pool: r.Pool, Device: r.Device}
		if r.ShareID != nil {
			id.ShareID = string(*r.ShareID)
		}
		ids[id] = true
	}
	return ids
}

func statusID(d *resourcev1.AllocatedDeviceStatus) deviceID {
	id := deviceID{Driver: d.Driver, Pool: d.Pool, Device: d.Device}
	if d.ShareID != nil {
		id.ShareID = *d.ShareID
	}
	return id
}
