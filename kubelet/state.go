package kubelet

import (
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/probes"
)

// reason is a structured "no": a CamelCase word for machines and a sentence
// for people.
type reason struct{ Reason, Message string }

// instance is one container as the runtime knows it.
type instance struct {
	*runtimeapi.ContainerStatus
	SandboxID string
	// Termination is the termination message, read once the container has
	// exited.
	Termination string
	// Launched is what resources it was launched with, nil if unknown.
	Launched *corev1.ResourceRequirements
}

func newInstance(st *runtimeapi.ContainerStatus, sandboxID string) *instance {
	return &instance{ContainerStatus: st, SandboxID: sandboxID, Launched: launchedResources(st)}
}

func (c *instance) name() string { return c.Labels[labelContainer] }

// attempt is how often the container had been restarted when this instance
// was made.
func (c *instance) attempt() int {
	if n, err := strconv.Atoi(c.Annotations[annotationRestarts]); err == nil {
		return n
	}
	return int(c.GetMetadata().GetAttempt())
}

func (c *instance) running() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

func (c *instance) exited() bool {
	return c != nil && (c.State == runtimeapi.ContainerState_CONTAINER_EXITED || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN)
}

func (c *instance) created() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_CREATED
}

// memory is what the kubelet remembers about a container between attempts to
// start it. It does not survive a restart of the kubelet, as upstream's does
// not.
type memory struct {
	// Waiting is why the last attempt failed; the zero value when it did not.
	Waiting reason
	// FailedAt and RetryAt are when that was and when the next attempt may
	// be made.
	FailedAt, RetryAt time.Time
	// Pull is the image that could not be pulled, and PullDelay its current
	// back-off.
	Pull      string
	PullDelay time.Duration
	// RetryDelay is the current back-off of other failures to start.
	RetryDelay time.Duration
	// CrashDelay and CrashedAt are the restart back-off and when it was last
	// raised.
	CrashDelay time.Duration
	CrashedAt  time.Time
	// Killed says why the running instance is being killed.
	Killed reason
	// Resized says that the instance was ended to be resized: it starts
	// again at once, whatever the restart policy.
	Resized bool
	// Last is the last instance before all containers were started anew: the
	// runtime has it no more.
	Last *instance
}

// podState is everything that a decision about a pod is made on. The maps and
// objects are read only.
type podState struct {
	// Asked is the pod as its source shows it, Pod the same with the
	// resources that the node has granted.
	Asked, Pod *corev1.Pod
	Now        time.Time
	// Rules is how this node treats containers.
	Rules *Containers
	// Sandboxes and Containers are newest first.
	Sandboxes  []*runtimeapi.PodSandboxStatus
	Containers []*instance

	// Actual are the resources of instances that were resized, by id.
	Actual map[string]corev1.ResourceRequirements
	Resize resize

	Memory map[string]*memory // by container name
	Probes map[string]probes.Result

	// VolumesMounted says that every volume is in place; after a failure the
	// next attempt is due at VolumesRetry.
	VolumesMounted bool
	VolumesRetry   time.Time
	// VolumesStale says that what the volumes show has changed, and
	// VolumesRefresh is when it will have (zero for never).
	VolumesStale   bool
	VolumesRefresh time.Time
	SandboxRetry   time.Time

	// Operations in flight.
	Admitting, Mounting, Sandboxing, Resizing, Releasing, Removing bool

	Starting map[string]bool      // by container name
	Killing  map[string]time.Time // by container id: when SIGKILL is due
	Dropping map[string]bool      // containers and sandboxes being removed, by id

	// Restarting: all containers are being ended and removed, to be started
	// anew (restartall.go). Until RestartAt nothing is started then.
	Restarting *reason
	RestartAt  time.Time

	// Devices are those that containers have, and how they are, by container.
	Devices map[string][]corev1.ResourceStatus

	// Rejected: the node did not admit the pod. Ended: the pod was stopped
	// for a reason of the node's own (deadline, eviction).
	Rejected, Ended *reason
	// Overran: it was ended because it passed a limit of its own.
	Overran bool
	// Gone: the pod is no longer in its source (API or static pod folder).
	Gone bool
	// EndingSince is when the pod was first found to be ending. While it is
	// Draining its containers are left running, so that proxies can take it
	// out of their rules.
	EndingSince time.Time
	Draining    bool
	// EndGrace bounds the grace period of a pod that the node ended; 0 leaves
	// the pod's own.
	EndGrace time.Duration
	// Purge: the containers of the ended pod are to go although the pod is
	// still in its source.
	Purge bool
	// Released: sandbox stopped, volumes and cgroup gone.
	Released bool
}

// instances returns the containers of a name, newest first.
func (s *podState) instances(name string) []*instance {
	var out []*instance
	for _, c := range s.Containers {
		if c.name() == name {
			out = append(out, c)
		}
	}
	return out
}

// latest returns the newest container of a name, or nil.
func (s *podState) latest(name string) *instance {
	for _, c := range s.Containers {
		if c.name() == name {
			return c
		}
	}
	return nil
}

// redefined says that a container's newest instance was made from another
// definition of it.
func (s *podState) redefined(c *corev1.Container) bool {
	was := s.latest(c.Name)
	return was != nil && was.Annotations[annotationSpecHash] != "" && was.Annotations[annotationSpecHash] != specHash(c)
}

// sandbox returns the newest sandbox that is ready, or nil.
func (s *podState) sandbox() *runtimeapi.PodSandboxStatus {
	for _, sb := range s.Sandboxes {
		if sb.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return sb
		}
	}
	return nil
}

// memory returns what is remembered about a container.
func (s *podState) memory(name string) memory {
	if m := s.Memory[name]; m != nil {
		return *m
	}
	return memory{}
}

// deleting says that the pod is to vanish from the node.
func (s *podState) deleting() bool { return s.Gone || s.Pod.DeletionTimestamp != nil }

// grace is how long the pod's containers get between SIGTERM and SIGKILL.
func (s *podState) grace() time.Duration {
	g := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if t := s.Pod.Spec.TerminationGracePeriodSeconds; t != nil {
		g = *t
	}
	if t := s.Pod.DeletionGracePeriodSeconds; t != nil && s.deleting() {
		g = *t
	}
	out := time.Duration(max(g, 1)) * time.Second
	if s.EndGrace > 0 {
		out = min(out, s.EndGrace)
	}
	return out
}

// sortNewestFirst orders what the runtime listed.
func sortNewestFirst(sandboxes []*runtimeapi.PodSandboxStatus, containers []*instance) {
	slices.SortStableFunc(sandboxes, func(a, b *runtimeapi.PodSandboxStatus) int {
		if d := int(b.GetMetadata().GetAttempt()) - int(a.GetMetadata().GetAttempt()); d != 0 {
			return d
		}
		return compare(b.CreatedAt, a.CreatedAt)
	})
	slices.SortStableFunc(containers, func(a, b *instance) int {
		if d := compare(b.CreatedAt, a.CreatedAt); d != 0 {
			return d
		}
		return b.attempt() - a.attempt()
	})
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// isSidecar says that an init container keeps running beside the others
// (KEP-753).
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// ephemeral views an ephemeral container as an ordinary one.
func ephemeral(e *corev1.EphemeralContainer) *corev1.Container {
	c := corev1.Container(e.EphemeralContainerCommon)
	return &c
}

// restarts says whether an exited container of the pod is started again.
func (s *podState) restarts(c *corev1.Container, init bool, code int32) bool {
	return s.memory(c.Name).Resized || restarts(s.Pod, c, init, code)
}

// restarts says whether a container that ended with code is started again,
// given that the pod goes on. init names an init container that is no
// sidecar: one that succeeded is done under every policy.
func restarts(pod *corev1.Pod, c *corev1.Container, init bool, code int32) bool {
	if restartRule(c, code) != nil {
		return true
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return !init || code != 0
}

// restartRule returns the first of a container's rules that an exit code
// matches, nil for none (KEP-5307).
func restartRule(c *corev1.Container, code int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, code)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return r
		}
	}
	return nil
}
