package core

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// containerStatuses calls f with each kind of container status and its path.
func containerStatuses(s *corev1.PodStatus, f func(list []corev1.ContainerStatus, path *field.Path)) {
	f(s.ContainerStatuses, statusPath.Child("containerStatuses"))
	f(s.InitContainerStatuses, statusPath.Child("initContainerStatuses"))
	f(s.EphemeralContainerStatuses, statusPath.Child("ephemeralContainerStatuses"))
}

// validateResourcesStatus checks the health of devices (KEP-4680): of
// resources that the container asks for, each device once.
func validateResourcesStatus(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
		path       *field.Path
	}{
		{p.Status.ContainerStatuses, p.Spec.Containers, statusPath.Child("containerStatuses")},
		{p.Status.InitContainerStatuses, p.Spec.InitContainers, statusPath.Child("initContainerStatuses")},
	} {
		for i := range l.statuses {
			n := slices.IndexFunc(l.containers, func(c corev1.Container) bool { return c.Name == l.statuses[i].Name })
			if n >= 0 {
				errs = append(errs, validateDeviceHealth(l.statuses[i].AllocatedResourcesStatus, &l.containers[n], l.path.Index(i).Child("allocatedResourcesStatus"))...)
			}
		}
	}
	for i := range p.Status.EphemeralContainerStatuses {
		if p.Status.EphemeralContainerStatuses[i].AllocatedResourcesStatus != nil {
			errs = append(errs, field.Forbidden(statusPath.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status"))
		}
	}
	return errs
}

func validateDeviceHealth(list []corev1.ResourceStatus, c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range list {
		at := path.Index(i)
		if strings.HasPrefix(string(s.Name), "claim:") {
			if !slices.ContainsFunc(c.Resources.Claims, func(r corev1.ResourceClaim) bool {
				name := "claim:" + r.Name
				if r.Request != "" {
					name += "/" + r.Request
				}
				return name == string(s.Name)
			}) {
				errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"))
			}
		} else if _, ok := c.Resources.Requests[s.Name]; !ok {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match one of the container's resource requests"))
		}
		seen := sets.New[corev1.ResourceID]()
		for k, r := range s.Resources {
			errs = append(errs, check.OneOf(r.Health, at.Child("resources").Index(k).Child("health"),
				corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
			if seen.Has(r.ResourceID) {
				errs = append(errs, field.Duplicate(at.Child("resources").Index(k).Child("resourceID"), r.ResourceID))
			}
			seen.Insert(r.ResourceID)
		}
	}
	return errs
}

// validateUsers checks the identities that containers began with (KEP-3619).
func validateUsers(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	id := func(n int64, path *field.Path) {
		if n < 0 || n > math.MaxInt32 {
			errs = append(errs, field.Invalid(path, n, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	containerStatuses(&p.Status, func(list []corev1.ContainerStatus, path *field.Path) {
		for i := range list {
			if list[i].User == nil || list[i].User.Linux == nil {
				continue
			}
			u, at := list[i].User.Linux, path.Index(i).Child("user", "linux")
			id(u.UID, at.Child("uid"))
			id(u.GID, at.Child("gid"))
			for k, g := range u.SupplementalGroups {
				id(g, at.Child("supplementalGroups").Index(k))
			}
		}
	})
	return errs
}

// validateExtendedClaim checks the claim that the scheduler made for a pod's
// extended resources (KEP-5004): which request of it serves which container.
func validateExtendedClaim(p *corev1.Pod) field.ErrorList {
	s, path := p.Status.ExtendedResourceClaimStatus, statusPath.Child("extendedResourceClaimStatus")
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	mappings := path.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	containers := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range s.RequestMappings {
		at := mappings.Index(i)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
		if n := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == m.ContainerName }); n < 0 {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if q, ok := containers[n].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok || q.IsZero() {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, invalid(path.Child("requestName"), m.RequestName, validation.IsDNS1123Label(m.RequestName))...)
	}
	if s.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	return append(errs, invalid(path.Child("resourceClaimName"), s.ResourceClaimName, validation.IsDNS1123Subdomain(s.ResourceClaimName))...)
}
