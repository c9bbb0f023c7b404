package resource

import (
	"fmt"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

// validateClaimStatus checks a changed status: an allocation is made once and
// stays until it is taken back, and only what is allocated can be reserved.
func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	path := field.NewPath("status")
	s := &c.Status
	errs := listed(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, path.Child("reservedFor"),
		func(r *resourcev1.ResourceClaimConsumerReference) (types.UID, any) { return r.UID, string(r.UID) }, validateConsumer)
	devices := map[deviceID]bool{}
	if s.Allocation != nil {
		devices = allocated(s.Allocation)
	}
	errs = append(errs, listed(s.Devices, -1, path.Child("devices"),
		func(d *resourcev1.AllocatedDeviceStatus) (deviceID, any) { id := statusID(d); return id, id },
		func(d *resourcev1.AllocatedDeviceStatus, p *field.Path) field.ErrorList {
			return validateDeviceStatus(d, devices, p)
		})...)
	if len(s.ReservedFor) > 0 {
		p := path.Child("reservedFor")
		if s.Allocation == nil {
			errs = append(errs, field.Forbidden(p, "may not be specified when `allocated` is not set"))
		} else if c.DeletionTimestamp != nil && added(s.ReservedFor, old.Status.ReservedFor) {
			errs = append(errs, field.Forbidden(p, "new entries may not be added while `deletionTimestamp` is set"))
		}
	}
	p := path.Child("allocation")
	switch {
	case s.Allocation == nil:
	case old.Status.Allocation == nil:
		errs = append(errs, validateAllocation(s.Allocation, namesOf(&c.Spec.Devices), p)...)
	default:
		errs = append(errs, immutable(s.Allocation, old.Status.Allocation, p)...)
	}
	return errs
}

func added(list, old []resourcev1.ResourceClaimConsumerReference) bool {
	known := sets.New(old...)
	for _, r := range list {
		if !known.Has(r) {
			return true
		}
	}
	return false
}

func validateConsumer(r *resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	return errs
}

func validateAllocation(a *resourcev1.AllocationResult, names requestNames, path *field.Path) field.ErrorList {
	p := path.Child("devices")
	errs := listed[resourcev1.DeviceRequestAllocationResult, string](a.Devices.Results, resourcev1.AllocationResultsMaxSize, p.Child("results"), nil,
		func(r *resourcev1.DeviceRequestAllocationResult, p *field.Path) field.ErrorList {
			return validateResult(r, names, p)
		})
	errs = append(errs, listed[resourcev1.DeviceAllocationConfiguration, string](a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, p.Child("config"), nil,
		func(c *resourcev1.DeviceAllocationConfiguration, p *field.Path) field.ErrorList {
			return validateAllocationConfig(c, names, p)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, validateOneTerm(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}

// validateOneTerm wants a node selector of exactly one term.
func validateOneTerm(s *corev1.NodeSelector, path *field.Path) field.ErrorList {
	errs := podspec.ValidateNodeSelector(s, path)
	if len(s.NodeSelectorTerms) != 1 {
		errs = append(errs, field.Invalid(path.Child("nodeSelectorTerms"), check.Shown(s.NodeSelectorTerms), "must have exactly one node selector term"))
	}
	return errs
}

func validateResult(r *resourcev1.DeviceRequestAllocationResult, names requestNames, path *field.Path) field.ErrorList {
	errs := validateRef(r.Request, path.Child("request"))
	if !names.hasResult(r.Request) {
		errs = append(errs, field.Invalid(path.Child("request"), r.Request, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
	}
	errs = append(errs, validateDriver(r.Driver, path.Child("driver"))...)
	errs = append(errs, validatePool(r.Pool, path.Child("pool"))...)
	errs = append(errs, validateLabel(r.Device, path.Child("device"))...)
	if r.ShareID != nil {
		errs = append(errs, validateUUID(string(*r.ShareID), path.Child("shareID"))...)
	}
	errs = append(errs, validateTolerations(r.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateBinding(r.BindingConditions, resourcev1.BindingConditionsMaxSize, path.Child("bindingConditions"))...)
	return append(errs, validateBinding(r.BindingFailureConditions, resourcev1.BindingFailureConditionsMaxSize, path.Child("bindingFailureConditions"))...)
}

func validateBinding(list []string, most int, path *field.Path) field.ErrorList {
	return listed(list, most, path, self, func(c *string, p *field.Path) field.ErrorList {
		return metavalidation.ValidateLabelName(*c, p)
	})
}

func validateAllocationConfig(c *resourcev1.DeviceAllocationConfiguration, names requestNames, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Source == "" {
		errs = append(errs, field.Required(path.Child("source"), ""))
	} else {
		errs = append(errs, check.OneOf(c.Source, path.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)...)
	}
	errs = append(errs, validateRefs(c.Requests, names, path.Child("requests"))...)
	return append(errs, validateConfiguration(&c.DeviceConfiguration, path)...)
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, devices map[deviceID]bool, path *field.Path) field.ErrorList {
	errs := validateDriver(d.Driver, path.Child("driver"))
	errs = append(errs, validatePool(d.Pool, path.Child("pool"))...)
	errs = append(errs, validateLabel(d.Device, path.Child("device"))...)
	if d.ShareID != nil {
		errs = append(errs, validateUUID(*d.ShareID, path.Child("shareID"))...)
	}
	if id := statusID(d); !devices[id] {
		errs = append(errs, field.Invalid(path, id, "must be an allocated device in the claim"))
	}
	conditions := path.Child("conditions")
	if len(d.Conditions) > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(conditions, len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(append([]metav1.Condition(nil), d.Conditions...), conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateRaw(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	return append(errs, validateNetworkData(d.NetworkData, path.Child("networkData"))...)
}

func validateNetworkData(n *resourcev1.NetworkDeviceData, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	var errs field.ErrorList
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	return append(errs, listed(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, path.Child("ips"), self,
		func(ip *string, p *field.Path) field.ErrorList { return validation.IsValidInterfaceAddress(p, *ip) })...)
}

func validateUUID(v string, path *field.Path) field.ErrorList {
	id, err := uuid.Parse(v)
	if err != nil {
		return field.ErrorList{field.Invalid(path, v, fmt.Sprintf("error validating uid: %v", err))}
	}
	if id.String() != v {
		return field.ErrorList{field.Invalid(path, v, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}
