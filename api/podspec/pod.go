package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// DefaultPod sets a pod's defaults: those of every spec, and those that only
// pods get, not templates.
func DefaultPod(p *corev1.Pod) {
	DropInitContainerAnnotations(&p.Annotations)
	Default(&p.Spec)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			requestsFromLimits(&list[i].Resources)
			if p.Spec.HostNetwork {
				for j := range list[i].Ports {
					def(&list[i].Ports[j].HostPort, list[i].Ports[j].ContainerPort)
				}
			}
		}
	}
	defPtr(&p.Spec.EnableServiceLinks, true)
	if p.Spec.Resources != nil {
		defaultPodResources(p)
	}
	defaultPodStatus(&p.Status)
}

// requestsFromLimits requests what is limited, where nothing is said.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	for name, q := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			if r.Requests == nil {
				r.Requests = corev1.ResourceList{}
			}
			r.Requests[name] = q.DeepCopy()
		}
	}
}

// defaultPodResources completes the resources of a whole pod (KEP 2837): what
// the containers together request, else the pod's own limit; and a limit on
// huge pages, which cannot be overcommitted, from what the containers have.
func defaultPodResources(p *corev1.Pod) {
	r := p.Spec.Resources
	opts := resource.PodResourcesOptions{SkipPodLevelResources: true, ExcludeOverhead: true}
	if !resource.IsPodLevelResourcesSet(p) {
		return
	}
	huge := func(n corev1.ResourceName) bool { return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix) }
	containers := resource.AggregateContainerLimits(p, opts)
	for name, q := range containers {
		if _, ok := r.Limits[name]; !ok && huge(name) {
			if r.Limits == nil {
				r.Limits = corev1.ResourceList{}
			}
			r.Limits[name] = q.DeepCopy()
		}
	}
	for name, q := range resource.AggregateContainerRequests(p, opts) {
		if _, ok := r.Requests[name]; !ok && !huge(name) && resource.IsSupportedPodLevelResource(name) {
			if r.Requests == nil {
				r.Requests = corev1.ResourceList{}
			}
			r.Requests[name] = q.DeepCopy()
		}
	}
	requestsFromLimits(r)
}

// defaultPodStatus keeps podIP and podIPs in step: the single one wins.
func defaultPodStatus(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// QOSClass is the quality of service that a pod's resources amount to:
// Guaranteed when everything has equal requests and limits of both CPU and
// memory, BestEffort when nothing has any, else Burstable. Resources of the
// whole pod, where set, decide alone. See the API page "Pod Quality of
// Service Classes".
func QOSClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	if r := spec.Resources; r != nil {
		return qosOf([]*corev1.ResourceRequirements{r})
	}
	var all []*corev1.ResourceRequirements
	for i := range spec.Containers {
		all = append(all, &spec.Containers[i].Resources)
	}
	for i := range spec.InitContainers {
		all = append(all, &spec.InitContainers[i].Resources)
	}
	return qosOf(all)
}

func qosOf(all []*corev1.ResourceRequirements) corev1.PodQOSClass {
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := r.Limits[name], r.Requests[name]
			any = any || limit.Sign() > 0 || request.Sign() > 0
			guaranteed = guaranteed && limit.Sign() > 0 && limit.Cmp(request) == 0
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// VisitPodAffinityTerms calls f for every required and preferred term of pod
// affinity and anti-affinity; f may change the term.
func VisitPodAffinityTerms(spec *corev1.PodSpec, f func(*corev1.PodAffinityTerm)) {
	a := spec.Affinity
	if a == nil {
		return
	}
	visit := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			f(&required[i])
		}
		for i := range preferred {
			f(&preferred[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		visit(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		visit(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// aggregateRequests sums what the containers of a spec request, as the
// scheduler would.
func aggregateRequests(spec *corev1.PodSpec) corev1.ResourceList {
	return resource.AggregateContainerRequests(&corev1.Pod{Spec: *spec}, resource.PodResourcesOptions{})
}
