package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/probes"
)

// nodeFacts is what a pod's status needs to know about its node.
type nodeFacts struct {
	IPs     []string
	Runtime string // "containerd"
}

// makeStatus computes the status that the API should show of a pod, from its
// state and the plan made of it. Conditions that are not the kubelet's are
// kept as they are in s.Pod.
func makeStatus(s *podState, p *plan, node nodeFacts) *corev1.PodStatus {
	old := &s.Pod.Status
	st := &corev1.PodStatus{
		ObservedGeneration: s.Pod.Generation,
		QOSClass:           qosClass(s.Pod),
		StartTime:          old.StartTime,
		NominatedNodeName:  old.NominatedNodeName,
		Resize:             old.Resize, ResourceClaimStatuses: old.ResourceClaimStatuses,
		Reason: old.Reason, Message: old.Message,
	}
	if st.StartTime == nil {
		t := metav1.NewTime(s.Now.Truncate(time.Second))
		st.StartTime = &t
	}
	if s.Rejected != nil {
		st.Phase, st.Reason, st.Message = corev1.PodFailed, s.Rejected.Reason, "Pod was rejected: "+s.Rejected.Message
		st.Conditions = keepConditions(old.Conditions)
		return st
	}
	spec := &s.Pod.Spec
	if r := spec.Resources; r != nil {
		st.AllocatedResources = r.Requests.DeepCopy()
		st.Resources = actualOfPod(s)
	}
	for i := range spec.InitContainers {
		st.InitContainerStatuses = append(st.InitContainerStatuses, containerStatus(s, p, &spec.InitContainers[i], initContainer, node))
	}
	for i := range spec.Containers {
		st.ContainerStatuses = append(st.ContainerStatuses, containerStatus(s, p, &spec.Containers[i], appContainer, node))
	}
	for i := range spec.EphemeralContainers {
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, containerStatus(s, p, ephemeral(&spec.EphemeralContainers[i]), ephemeralContainer, node))
	}
	setAddresses(s, st, node)
	st.Phase = phase(s, p, st)
	if p.End != nil {
		st.Reason, st.Message = p.End.Reason, p.End.Message
	}
	if p.Ending {
		settleUnknown(st)
	}
	st.Conditions = conditions(s, p, st)
	// In the order of their names, as observed of upstream's kubelet 1.36; only
	// init containers keep that of the specification.
	slices.SortFunc(st.ContainerStatuses, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	return st
}

func setAddresses(s *podState, st *corev1.PodStatus, node nodeFacts) {
	for _, ip := range node.IPs {
		st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(node.IPs) > 0 {
		st.HostIP = node.IPs[0]
	}
	ips := node.IPs
	if !s.Pod.Spec.HostNetwork {
		ips = nil
		if sb := s.sandbox(); sb != nil {
			ips = sandboxIPs(sb)
		} else if len(s.Sandboxes) > 0 && keepsAddress(s) {
			for _, ip := range s.Pod.Status.PodIPs {
				ips = append(ips, ip.IP)
			}
		}
	} else if len(s.Sandboxes) == 0 {
		ips = nil
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		st.PodIP = ips[0]
	}
}

// keepsAddress says that a pod which has lost its sandbox still shows its
// last address: one that has ended does.
func keepsAddress(s *podState) bool { return appsDone(s) || s.deleting() || s.Ended != nil }

func sandboxIPs(sb *runtimeapi.PodSandboxStatus) []string {
	var out []string
	if ip := sb.GetNetwork().GetIp(); ip != "" {
		out = append(out, ip)
	}
	for _, ip := range sb.GetNetwork().GetAdditionalIps() {
		out = append(out, ip.Ip)
	}
	return out
}

// containerStatus computes the status of one container.
func containerStatus(s *podState, p *plan, c *corev1.Container, kind containerKind, node nodeFacts) corev1.ContainerStatus {
	insts := s.history(c.Name)
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, AllocatedResourcesStatus: s.Devices[c.Name]}
	started := false
	if kind != ephemeralContainer {
		st.Started = &started
	}
	waiting := defaultWaiting(s)
	if len(insts) == 0 {
		lostStatus(s, p, c, &st, waiting)
		return st
	}
	cur := insts[0]
	st.ContainerID = node.Runtime + "://" + cur.Id
	st.RestartCount = int32(cur.attempt())
	st.ImageID = cur.ImageRef
	if cur.GetImage().GetImage() != "" {
		st.Image = cur.GetImage().GetImage()
	}
	if cur.GetImage().GetUserSpecifiedImage() != "" {
		st.Image = cur.GetImage().GetUserSpecifiedImage()
	}
	if len(insts) > 1 && insts[1].exited() {
		st.LastTerminationState = terminatedState(insts[1], node)
	}
	why, stuck := p.Waiting[c.Name]
	switch {
	case cur.running():
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: nanos(cur.StartedAt)}
		started = isStarted(s, c, cur) && !(s.Starting[c.Name] && c.Lifecycle != nil && c.Lifecycle.PostStart != nil)
		st.Ready = isReady(s, c, kind, cur, started)
		setRunning(&st, c, cur, s.actual(cur))
	case cur.exited() && stuck && !p.Ending:
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}
		st.LastTerminationState = terminatedState(cur, node)
	case cur.exited():
		st.State = terminatedState(cur, node)
		st.Ready = kind == initContainer && !isSidecar(c) && cur.ExitCode == 0
	default:
		if stuck {
			waiting = why
		}
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
	}
	return st
}

func defaultWaiting(s *podState) reason {
	if len(s.Pod.Spec.InitContainers) > 0 {
		return reason{Reason: podInitializing}
	}
	return reason{Reason: containerCreating}
}

// lostStatus fills the status of a container of which the runtime knows
// nothing: it waits, or its record was lost.
func lostStatus(s *podState, p *plan, c *corev1.Container, st *corev1.ContainerStatus, waiting reason) {
	old := findStatus(&s.Pod.Status, c.Name)
	if old != nil && old.ContainerID != "" {
		st.RestartCount, st.ContainerID, st.ImageID, st.Image = old.RestartCount, old.ContainerID, old.ImageID, old.Image
		st.LastTerminationState = old.LastTerminationState
		switch {
		case old.State.Terminated != nil && (p.Ending || p.InitDone):
			st.State, st.Ready = old.State, old.Ready
			return
		case old.State.Running != nil:
			gone := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID, StartedAt: old.State.Running.StartedAt,
				Message: "The container could not be located when the pod was terminated",
			}}
			if p.Ending {
				st.State = gone
				return
			}
			st.LastTerminationState = gone
		}
	}
	if why, ok := p.Waiting[c.Name]; ok && !p.Ending {
		waiting = why
	}
	st.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
}

func isReady(s *podState, c *corev1.Container, kind containerKind, cur *instance, started bool) bool {
	switch {
	case kind == ephemeralContainer, kind == initContainer && !isSidecar(c), !started:
		return false
	case c.ReadinessProbe != nil:
		return s.Probes[cur.Id].Ready == probes.Success
	}
	return true
}

// setRunning adds what only running containers show.
func setRunning(st *corev1.ContainerStatus, c *corev1.Container, cur *instance, actual *corev1.ResourceRequirements) {
	if actual == nil {
		actual = &c.Resources
	}
	if len(c.Resources.Requests) > 0 {
		st.AllocatedResources = c.Resources.Requests.DeepCopy()
	}
	st.Resources = &corev1.ResourceRequirements{}
	if len(actual.Requests) > 0 || len(actual.Limits) > 0 {
		st.Resources = &corev1.ResourceRequirements{Requests: actual.Requests.DeepCopy(), Limits: actual.Limits.DeepCopy()}
	}
	if u := cur.GetUser().GetLinux(); u != nil {
		st.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil && cur.GetStopSignal() != runtimeapi.Signal_RUNTIME_DEFAULT {
		s := corev1.Signal(cur.GetStopSignal().String())
		st.StopSignal = &s
	}
	for _, m := range c.VolumeMounts {
		vm := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if mountedRecursively(cur, m.MountPath) {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			vm.RecursiveReadOnly = &mode
		}
		st.VolumeMounts = append(st.VolumeMounts, vm)
	}
}

// mountedRecursively says that the runtime has mounted what is at a path
// read-only to its depths (KEP-3857).
func mountedRecursively(c *instance, path string) bool {
	return slices.ContainsFunc(c.Mounts, func(m *runtimeapi.Mount) bool { return m.ContainerPath == path && m.RecursiveReadOnly })
}

func terminatedState(c *instance, node nodeFacts) corev1.ContainerState {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		StartedAt: nanos(c.StartedAt), FinishedAt: nanos(c.FinishedAt),
		ContainerID: node.Runtime + "://" + c.Id,
	}
	if c.Termination != "" {
		if t.Message != "" {
			t.Message += ": "
		}
		t.Message += c.Termination
	}
	switch {
	case t.Reason != "":
	case c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		t.Reason = "ContainerStatusUnknown"
		if t.ExitCode == 0 {
			t.ExitCode = 137
		}
	case t.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	return corev1.ContainerState{Terminated: t}
}

func nanos(n int64) metav1.Time {
	if n == 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(0, n).Truncate(time.Second))
}

// phase sums the containers up (API documentation of PodPhase). A pod becomes
// Succeeded or Failed only when nothing of it runs any more.
func phase(s *podState, p *plan, st *corev1.PodStatus) corev1.PodPhase {
	if old := s.Pod.Status.Phase; old == corev1.PodFailed || old == corev1.PodSucceeded {
		return old
	}
	running, waiting, stopped, failed := 0, 0, 0, 0
	for i := range st.ContainerStatuses {
		c := &st.ContainerStatuses[i]
		t := c.State.Terminated
		switch {
		case c.State.Running != nil:
			running++
			continue
		case t == nil && c.LastTerminationState.Terminated == nil:
			waiting++
			continue
		case t == nil:
			t = c.LastTerminationState.Terminated
		}
		stopped++
		if t.ExitCode != 0 {
			failed++
		}
	}
	alive := running > 0
	for _, c := range s.Containers {
		alive = alive || c.running()
	}
	switch {
	case p.Ending && !alive && len(s.Starting) == 0:
		if p.End == nil && failed == 0 && waiting == 0 && stopped > 0 && !initFailed(s) {
			return corev1.PodSucceeded
		}
		// Also of a pod that never began: controllers whose finalizer it has wait
		// for its end.
		return corev1.PodFailed
	case waiting > 0, !p.InitDone && running == 0 && stopped == 0, p.Restart != nil, restartedAnew(s, p):
		return corev1.PodPending // Running says that every container has begun
	case running > 0, stopped > 0:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

// keepConditions returns the conditions that others own.
func keepConditions(old []corev1.PodCondition) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range old {
		if !slices.Contains(ownConditions, c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// ownConditions are the conditions that the kubelet sets.
var ownConditions = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady,
	corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting,
	corev1.PodScheduled, // which is true of every pod that it has
}

func conditions(s *podState, p *plan, st *corev1.PodStatus) []corev1.PodCondition {
	ready := containersReady(s, st)
	sandboxed := corev1.ConditionFalse
	if sb := s.sandbox(); sb != nil && (s.Pod.Spec.HostNetwork || len(sandboxIPs(sb)) > 0) {
		sandboxed = corev1.ConditionTrue
	}
	own := []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: sandboxed},
		initialized(s, p, st),
		podReady(s, ready),
		ready,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	out := append(own, resizeConditions(s, p)...)
	out = append(out, restartConditions(s, p)...)
	if s.disrupted() {
		out = append(out, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: s.Ended.Message,
			ObservedGeneration: s.Pod.Generation,
		})
	}
	for _, c := range keepConditions(s.Pod.Status.Conditions) {
		if findCondition(out, c.Type) == nil {
			out = append(out, c)
		}
	}
	for i := range out {
		c := &out[i]
		old := findCondition(s.Pod.Status.Conditions, c.Type)
		if i < len(own) || old == nil && c.ObservedGeneration == 0 {
			c.ObservedGeneration = s.Pod.Generation
		}
		switch {
		case old == nil, old.Status != c.Status:
			c.LastTransitionTime = metav1.NewTime(s.Now.Truncate(time.Second))
		default:
			c.LastTransitionTime = old.LastTransitionTime
			c.LastProbeTime = old.LastProbeTime
		}
	}
	return out
}

func findCondition(l []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range l {
		if l[i].Type == t {
			return &l[i]
		}
	}
	return nil
}

func initialized(s *podState, p *plan, st *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if st.Phase == corev1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	if p.InitDone {
		return c
	}
	if restartedAnew(s, p) {
		return c // once is enough
	}
	var names []string
	for i := range st.InitContainerStatuses {
		cs := &st.InitContainerStatuses[i]
		done := cs.Ready
		if isSidecar(&s.Pod.Spec.InitContainers[i]) {
			done = cs.Started != nil && *cs.Started
		}
		if !done {
			names = append(names, cs.Name)
		}
	}
	if len(names) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", names)
	}
	return c
}

func containersReady(s *podState, st *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch st.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i := range st.InitContainerStatuses {
		if cs := &st.InitContainerStatuses[i]; !cs.Ready && isSidecar(&s.Pod.Spec.InitContainers[i]) {
			unready = append(unready, cs.Name)
		}
	}
	for i := range st.ContainerStatuses {
		if cs := &st.ContainerStatuses[i]; !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

func podReady(s *podState, containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	for _, g := range s.Pod.Spec.ReadinessGates {
		msg := ""
		if have := findCondition(s.Pod.Status.Conditions, g.ConditionType); have == nil {
			msg = fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(g.ConditionType))
		} else if have.Status != corev1.ConditionTrue {
			msg = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(g.ConditionType), have.Status)
		} else {
			continue
		}
		if c.Message != "" {
			c.Message += ", "
		}
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", c.Message+msg
	}
	return c
}
