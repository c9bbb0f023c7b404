package kubelet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
)

// Resizing pods in place (KEP-1287). What a pod asks for, what the node has
// granted it and what its containers run with are three things: Asked is the
// pod as its source shows it, Pod the same with the granted resources, and
// each instance carries those it was launched with or has been given since.

// resize is what is going on with a pod's resources.
type resize struct {
	// Pending is why what is asked for has not been granted: reason Deferred
	// or Infeasible.
	Pending *reason
	// Generation is the one of the grant that is being carried out; 0 for
	// none.
	Generation int64
	// Failed is why the last attempt to carry it out failed, and Retry when
	// the next may be made.
	Failed string
	Retry  time.Time
	Gap    time.Duration
	// Cgroup is what the pod's cgroup has; nil for what Pod's resources say.
	Cgroup *cgroups.Resources
}

// resizeAction gives running containers, and the pod's cgroup, the resources
// that were granted.
type resizeAction struct {
	Containers map[string]*corev1.Container // by id
	// Final says that no container is left to be changed or restarted: the
	// pod's cgroup may then shrink.
	Final bool
}

// resizable lists the containers of a pod that can be resized, by name.
func resizable(spec *corev1.PodSpec) map[string]*corev1.Container {
	out := map[string]*corev1.Container{}
	for i := range spec.InitContainers {
		out[spec.InitContainers[i].Name] = &spec.InitContainers[i]
	}
	for i := range spec.Containers {
		out[spec.Containers[i].Name] = &spec.Containers[i]
	}
	return out
}

// resourcesOf lists the resources of a pod's resizable containers, and those
// of the pod as a whole under "".
func resourcesOf(pod *corev1.Pod) map[string]corev1.ResourceRequirements {
	out := map[string]corev1.ResourceRequirements{}
	if pod.Spec.Resources != nil {
		out[""] = *pod.Spec.Resources
	}
	for name, c := range resizable(&pod.Spec) {
		out[name] = c.Resources
	}
	return out
}

// withResources views a pod with other resources. It returns pod itself where
// there is no difference, and never changes it.
func withResources(pod *corev1.Pod, by map[string]corev1.ResourceRequirements) *corev1.Pod {
	differs := false
	for name, c := range resizable(&pod.Spec) {
		r, ok := by[name]
		differs = differs || ok && !sameResources(&r, &c.Resources)
	}
	whole, ok := by[""]
	ofPod := ok && pod.Spec.Resources != nil && !sameResources(&whole, pod.Spec.Resources)
	if !differs && !ofPod {
		return pod
	}
	out := *pod
	if ofPod {
		out.Spec.Resources = &whole
	}
	out.Spec.Containers = slices.Clone(pod.Spec.Containers)
	out.Spec.InitContainers = slices.Clone(pod.Spec.InitContainers)
	for name, c := range resizable(&out.Spec) {
		if r, ok := by[name]; ok {
			c.Resources = r
		}
	}
	return &out
}

// sameResources compares what can be resized.
func sameResources(a, b *corev1.ResourceRequirements) bool {
	return len(changedResources(a, b)) == 0
}

// changedResources lists which of CPU and memory differ.
func changedResources(a, b *corev1.ResourceRequirements) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		ra, rb, la, lb := a.Requests[name], b.Requests[name], a.Limits[name], b.Limits[name]
		if ra.Cmp(rb) != 0 || la.Cmp(lb) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// resizeRestarts says that a change of resources needs the container to be
// restarted (API documentation of resizePolicy).
func resizeRestarts(c *corev1.Container, from *corev1.ResourceRequirements) bool {
	for _, name := range changedResources(from, &c.Resources) {
		for _, p := range c.ResizePolicy {
			if p.ResourceName == name && p.RestartPolicy == corev1.RestartContainer {
				return true
			}
		}
	}
	return false
}

// resizes plans how the running containers get the resources granted to them.
func (p *plan) resizes(s *podState) {
	cgroup := false
	if has := s.Resize.Cgroup; has != nil {
		want := podResources(s.Pod, s.Rules)
		cgroup = *has != want
		// A container that restarts for more than the pod's group has must
		// wait until that has it.
		p.growing = wider(*has, want) != *has
	}
	restarting := false
	a := &resizeAction{Containers: map[string]*corev1.Container{}}
	inherit := map[string]*corev1.Container{} // whose own resources stay
	for name, c := range resizable(&s.Pod.Spec) {
		st := s.latest(name)
		if !st.running() {
			restarting = restarting || s.Resize.Generation != 0 && s.memory(name).Resized
			continue
		}
		was := s.actual(st)
		switch {
		case was == nil:
		case sameResources(was, &c.Resources):
			if cgroup && inheritsLimit(s.Pod, c) {
				inherit[st.Id] = c
			}
		case resizeRestarts(c, was):
			restarting = true
		default:
			a.Containers[st.Id] = c
		}
	}
	a.Final = !restarting
	if a.Final || p.growing {
		maps.Copy(a.Containers, inherit)
	}
	p.Resizing = restarting || len(a.Containers) > 0 || cgroup
	switch {
	case s.Resizing, len(a.Containers) == 0 && !p.growing && !(cgroup && a.Final):
	case s.Now.Before(s.Resize.Retry):
		p.wake(s.Resize.Retry)
	default:
		p.Resize = a
	}
}

// inheritsLimit says that a limit of the pod as a whole is one of the
// container's, for want of its own.
func inheritsLimit(pod *corev1.Pod, c *corev1.Container) bool {
	if pod.Spec.Resources == nil {
		return false
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		_, own := c.Resources.Limits[name]
		if _, whole := pod.Spec.Resources.Limits[name]; whole && !own {
			return true
		}
	}
	return false
}

// actual returns the resources that an instance runs with, nil if unknown.
func (s *podState) actual(c *instance) *corev1.ResourceRequirements {
	if r, ok := s.Actual[c.Id]; ok {
		return &r
	}
	return c.Launched
}

// resizeVerdict says whether the node can grant a pod what it asks for: nil
// for yes.
func resizeVerdict(asked *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *reason {
	if node == nil {
		return &reason{corev1.PodReasonDeferred, "the node is not registered yet"}
	}
	want := resourcehelper.PodRequests(asked, resourcehelper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, have := want[name], node.Status.Allocatable[name]
		if q.Cmp(have) > 0 {
			return &reason{corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, q), amount(name, have))}
		}
	}
	if r := fits(asked, node, others); r != nil {
		return &reason{corev1.PodReasonDeferred, r.Message}
	}
	return nil
}

// resizeBefore orders pods that ask for resources: by priority, class, age.
func resizeBefore(a, b *corev1.Pod) bool {
	if pa, pb := podPriority(a), podPriority(b); pa != pb {
		return pa > pb
	}
	rank := map[corev1.PodQOSClass]int{corev1.PodQOSGuaranteed: 0, corev1.PodQOSBurstable: 1, corev1.PodQOSBestEffort: 2}
	if ra, rb := rank[qosClass(a)], rank[qosClass(b)]; ra != rb {
		return ra < rb
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

func podPriority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// wider holds whatever fits into a or b; 0 is no limit.
func wider(a, b cgroups.Resources) cgroups.Resources {
	limit := func(x, y int64) int64 {
		if x == 0 || y == 0 {
			return 0
		}
		return max(x, y)
	}
	return cgroups.Resources{
		CPUShares: max(a.CPUShares, b.CPUShares), CPUQuota: limit(a.CPUQuota, b.CPUQuota), CPUPeriod: max(a.CPUPeriod, b.CPUPeriod),
		Memory: limit(a.Memory, b.Memory), Pids: limit(a.Pids, b.Pids),
	}
}

// resizeConditions are the conditions of a resize under way.
func resizeConditions(s *podState, p *plan) []corev1.PodCondition {
	var out []corev1.PodCondition
	if r := s.Resize.Pending; r != nil {
		out = append(out, corev1.PodCondition{
			Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: r.Reason, Message: r.Message, ObservedGeneration: s.Pod.Generation,
		})
	}
	if s.Resize.Generation != 0 && (p.Resizing || s.Resizing) {
		c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: s.Resize.Generation}
		if s.Resize.Failed != "" {
			c.Reason, c.Message = corev1.PodReasonError, s.Resize.Failed
		}
		out = append(out, c)
	}
	return out
}

// launchedResources reads what an instance was launched with; nil if another
// kubelet did not note it.
func launchedResources(st *runtimeapi.ContainerStatus) *corev1.ResourceRequirements {
	text := st.GetAnnotations()[annotationResources]
	if text == "" {
		return nil
	}
	r := &corev1.ResourceRequirements{}
	if json.Unmarshal([]byte(text), r) != nil {
		return nil
	}
	return r
}

func encodeResources(r *corev1.ResourceRequirements) string {
	b, _ := json.Marshal(r)
	return string(b)
}

// keepActual forgets what instances that are gone ran with.
func (s *podState) keepActual() {
	for id := range s.Actual {
		if !slices.ContainsFunc(s.Containers, func(c *instance) bool { return c.Id == id }) {
			delete(s.Actual, id)
		}
	}
}

// actualOfPod are the resources that the pod as a whole has: until its cgroup
// has what was granted, those that its status showed before.
func actualOfPod(s *podState) *corev1.ResourceRequirements {
	cg := s.Resize.Cgroup
	if old := s.Pod.Status.Resources; old != nil && cg != nil && *cg != podResources(s.Pod, s.Rules) {
		return old.DeepCopy()
	}
	r := s.Pod.Spec.Resources
	return &corev1.ResourceRequirements{Requests: r.Requests.DeepCopy(), Limits: r.Limits.DeepCopy()}
}
