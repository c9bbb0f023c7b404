package core

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/coxswain/cox/api/podspec"
)

var statusPath = field.NewPath("status")

// validatePodStatus checks what a kubelet or the scheduler reports.
func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	errs := validateMirror(p, old)
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(statusPath.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" {
		for _, msg := range apivalidation.NameIsDNSSubdomain(n, false) {
			errs = append(errs, field.Invalid(statusPath.Child("nominatedNodeName"), n, msg))
		}
		if p.Spec.NodeName != "" && n != old.Status.NominatedNodeName {
			errs = append(errs, field.Forbidden(statusPath.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	if n := p.Status.ObservedGeneration; n < 0 {
		errs = append(errs, field.Invalid(statusPath.Child("observedGeneration"), n, "must be a non-negative integer"))
	}
	if old.Status.QOSClass != "" {
		errs = append(errs, immutable(p.Status.QOSClass, old.Status.QOSClass, statusPath.Child("qosClass"))...)
	}
	errs = append(errs, transitions(p.Status.ContainerStatuses, old.Status.ContainerStatuses, &old.Spec, false, statusPath.Child("containerStatuses"))...)
	errs = append(errs, transitions(p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, &old.Spec, true, statusPath.Child("initContainerStatuses"))...)
	errs = append(errs, validateResourcesStatus(p)...)
	errs = append(errs, validateUsers(p)...)
	podIPs, hostIPs := addresses(p.Status.PodIPs, podAddress), addresses(p.Status.HostIPs, hostAddress)
	errs = append(errs, validateStatusIPs(p.Status.PodIPs, podIPs, addresses(old.Status.PodIPs, podAddress), statusPath.Child("podIPs"))...)
	if len(hostIPs) > 0 && hostIPs[0] != p.Status.HostIP {
		errs = append(errs, field.Invalid(statusPath.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`"))
	}
	errs = append(errs, validateStatusIPs(p.Status.HostIPs, hostIPs, addresses(old.Status.HostIPs, hostAddress), statusPath.Child("hostIPs"))...)
	for i, c := range p.Status.Conditions {
		path := statusPath.Child("conditions").Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(string(c.Type), path.Child("Type"))...)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(path.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
	}
	errs = append(errs, validateClaimStatuses(p)...)
	return append(errs, validateExtendedClaim(p)...)
}

// transitions refuses that a container which ended for good comes back.
func transitions(now, old []corev1.ContainerStatus, spec *corev1.PodSpec, init bool, path *field.Path) field.ErrorList {
	if spec.RestartPolicy == corev1.RestartPolicyAlways || restartsAll(spec) {
		return nil
	}
	restarts := map[string]bool{}
	list := spec.Containers
	if init {
		list = spec.InitContainers
	}
	for _, c := range list {
		if c.RestartPolicy != nil && *c.RestartPolicy != corev1.ContainerRestartPolicyNever || len(c.RestartPolicyRules) > 0 {
			restarts[c.Name] = true
		}
	}
	var errs field.ErrorList
	for i, before := range old {
		t := before.State.Terminated
		if t == nil || restarts[before.Name] || t.ExitCode != 0 && spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			continue
		}
		for _, c := range now {
			if c.Name == before.Name && c.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// restartsAll says that the exit of one of a pod's containers may restart all
// (KEP-5532).
func restartsAll(spec *corev1.PodSpec) bool {
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		}) {
			return true
		}
	}
	return false
}

func podAddress(a corev1.PodIP) string   { return a.IP }
func hostAddress(a corev1.HostIP) string { return a.IP }

func addresses[T any](list []T, of func(T) string) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = of(a)
	}
	return out
}

// validateStatusIPs wants at most one address of each family; list is the field
// that the addresses stand in, as errors show it.
func validateStatusIPs(list any, ips, stored []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, stored)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%v", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func validateClaimStatuses(p *corev1.Pod) field.ErrorList {
	names := sets.New[string]()
	for _, c := range p.Spec.ResourceClaims {
		names.Insert(c.Name)
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range p.Status.ResourceClaimStatuses {
		path := statusPath.Child("resourceClaimStatuses").Index(i)
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if !names.Has(s.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if n := s.ResourceClaimName; n != nil {
			for _, msg := range validation.IsDNS1123Subdomain(*n) {
				errs = append(errs, field.Invalid(path.Child("resourceClaimName"), *n, msg))
			}
		}
	}
	return errs
}

// validateEphemeralUpdate lets ephemeral containers be added and nothing else.
func validateEphemeralUpdate(p, old *corev1.Pod) field.ErrorList {
	path := specPath.Child("ephemeralContainers")
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := podspec.Validate(&p.Spec, &p.ObjectMeta, specPath, podspec.ForUpdate(&old.Spec))
	now := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		now[p.Spec.EphemeralContainers[i].Name] = &p.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		before := &old.Spec.EphemeralContainers[i]
		switch c := now[before.Name]; {
		case c == nil:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name)))
		case !equal(c, before):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", before.Name)))
		}
	}
	return errs
}

// validatePodResize checks an in-place change of CPU and memory (KEP 1287).
func validatePodResize(p, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	errs := podspec.Validate(&p.Spec, &p.ObjectMeta, specPath, podspec.ForUpdate(&old.Spec))
	if podspec.QOSClass(&p.Spec) != podspec.QOSClass(&old.Spec) {
		errs = append(errs, field.Invalid(specPath, cmp.Or(old.Status.QOSClass, podspec.QOSClass(&p.Spec)), "Pod QOS Class may not change as a result of resizing"))
	}
	others := append(sameContainers("containers", p.Spec.Containers, old.Spec.Containers), sameContainers("initContainers", p.Spec.InitContainers, old.Spec.InitContainers)...)
	if len(others) > 0 {
		return append(errs, others...)
	}
	errs = append(errs, validatePodLevelResize(p.Spec.Resources, old.Spec.Resources)...)
	if !slices.EqualFunc(p.Spec.Containers, old.Spec.Containers, onlyResized) {
		others = append(others, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
	}
	for i := range p.Spec.Containers {
		errs = append(errs, keepsResources(&p.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources, specPath.Child("containers").Index(i).Child("resources"), "")...)
	}
	for i := range p.Spec.InitContainers {
		path, a, b := specPath.Child("initContainers").Index(i), &p.Spec.InitContainers[i], &old.Spec.InitContainers[i]
		errs = append(errs, keepsResources(&a.Resources, &b.Resources, path.Child("resources"), "")...)
		if !onlyResized(*a, *b) {
			others = append(others, field.Forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
	}
	return append(errs, others...)
}

// sameContainers refuses others than the pod has.
func sameContainers(kind string, now, old []corev1.Container) field.ErrorList {
	path := specPath.Child(kind)
	if len(now) != len(old) {
		return field.ErrorList{field.Forbidden(path, kind+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range now {
		if now[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), kind+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

func validatePodLevelResize(now, old *corev1.ResourceRequirements) field.ErrorList {
	path := specPath.Child("resources")
	switch {
	case old == nil:
		return nil
	case now == nil:
		return field.ErrorList{field.Forbidden(path, "pod-level resources cannot be removed")}
	}
	errs := keepsResources(now, old, path, "pod-level ")
	if !onlyCPUAndMemory(now.Limits, old.Limits) || !onlyCPUAndMemory(now.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

// keepsResources refuses that a request or limit is taken away.
func keepsResources(now, old *corev1.ResourceRequirements, path *field.Path, level string) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name     string
		now, old corev1.ResourceList
	}{{"requests", now.Requests, old.Requests}, {"limits", now.Limits, old.Limits}} {
		for name := range l.old {
			if _, ok := l.now[name]; !ok {
				errs = append(errs, field.Forbidden(path.Child(l.name), fmt.Sprintf("%sresource %s cannot be removed", level, l.name)))
				break
			}
		}
	}
	return errs
}

// onlyResized says that of a container nothing else has changed than its CPU and
// memory, and claims that are new.
func onlyResized(now, old corev1.Container) bool {
	for _, c := range old.Resources.Claims {
		if !slices.Contains(now.Resources.Claims, c) {
			return false
		}
	}
	return equal(now.ResizePolicy, old.ResizePolicy) &&
		onlyCPUAndMemory(now.Resources.Limits, old.Resources.Limits) && onlyCPUAndMemory(now.Resources.Requests, old.Resources.Requests)
}

// onlyCPUAndMemory says that nothing else differs.
func onlyCPUAndMemory(now, old corev1.ResourceList) bool {
	same := func(a, b corev1.ResourceList) bool {
		for name, q := range a {
			if other, ok := b[name]; name != corev1.ResourceCPU && name != corev1.ResourceMemory && (!ok || q.Cmp(other) != 0) {
				return false
			}
		}
		return true
	}
	return same(now, old) && same(old, now)
}
