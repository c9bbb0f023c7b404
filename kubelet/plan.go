package kubelet

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/probes"
)

// containerKind is the role of a container in its pod.
type containerKind int

const (
	appContainer containerKind = iota
	initContainer
	ephemeralContainer
)

// startAction makes and starts a container.
type startAction struct {
	Container *corev1.Container
	Kind      containerKind
	Attempt   int
	// Restart says that an earlier instance ended: the back-off rises.
	Restart bool
	// Target is the container whose process namespace an ephemeral container
	// joins, by name.
	Target string
}

// killAction stops a running container.
type killAction struct {
	ID, Name string
	Grace    time.Duration
	// Why is shown in an event when its message is set; the reason goes to
	// the preStop hook's log only. Grace 0 leaves that hook out.
	Why reason
}

// plan is what to do about a pod now. All of it may be done at the same time.
type plan struct {
	Mount         bool
	CreateSandbox bool
	Attempt       uint32 // of the sandbox
	Start         []startAction
	Kill          []killAction
	// Resize changes what running containers may use; Resizing says that
	// there is something left to change.
	Resize   *resizeAction
	Resizing bool
	growing  bool // the pod's cgroup is still too small for its containers
	// Restart is why all containers are ended and removed, to be started anew;
	// Restarted says that all are gone.
	Restart   *reason
	Restarted bool
	// StopSandboxes and Drop name sandboxes to stop and dead containers and
	// sandboxes to remove.
	StopSandboxes, DropContainers, DropSandboxes []string
	// Release gives back what the pod holds although it has ended: network,
	// volumes, cgroup. Remove takes every trace off the node.
	Release, Remove bool

	// Ending says that the pod is stopping or has stopped; End is the verdict
	// where it is not the containers' own.
	Ending bool
	End    *reason
	// Waiting is why containers do not run, by name.
	Waiting map[string]reason
	// InitDone says that the pod got past its init containers.
	InitDone bool
	// Wake is when to plan again if nothing happens before; zero for never.
	Wake time.Time
}

func (p *plan) wake(at time.Time) {
	if p.Wake.IsZero() || at.Before(p.Wake) {
		p.Wake = at
	}
}

// makePlan decides what to do about a pod. It is a pure function of s.
func makePlan(s *podState) plan {
	p := plan{Waiting: map[string]reason{}}
	p.InitDone = initDone(s)
	p.collectGarbage(s)
	if p.Ending, p.End = ending(s, &p); p.Ending {
		p.end(s)
		return p
	}
	if s.Admitting {
		return p
	}
	if p.restartAll(s) {
		return p
	}
	p.volumes(s)
	sb := s.sandbox()
	if sb == nil {
		p.needSandbox(s)
		return p
	}
	p.dropOldSandboxes(s, sb)
	p.resizes(s)
	if p.restartsLater(s) {
		return p
	}
	if !p.initContainers(s, sb) {
		return p
	}
	p.InitDone = true
	for i := range s.Pod.Spec.Containers {
		p.keepRunning(s, sb, &s.Pod.Spec.Containers[i], appContainer)
	}
	for i := range s.Pod.Spec.EphemeralContainers {
		e := &s.Pod.Spec.EphemeralContainers[i]
		if s.latest(e.Name) == nil {
			p.start(s, startAction{Container: ephemeral(e), Kind: ephemeralContainer, Target: e.TargetContainerName})
		}
	}
	return p
}

// ending says whether the pod is over, and why if not by itself.
func ending(s *podState, p *plan) (bool, *reason) {
	switch {
	case s.Rejected != nil:
		return true, s.Rejected
	case s.Ended != nil:
		return true, s.Ended
	case s.deleting(), s.Pod.Status.Phase == corev1.PodFailed, s.Pod.Status.Phase == corev1.PodSucceeded:
		return true, nil
	}
	if d := s.Pod.Spec.ActiveDeadlineSeconds; d != nil && s.Pod.Status.StartTime != nil {
		at := s.Pod.Status.StartTime.Add(time.Duration(*d) * time.Second)
		if !s.Now.Before(at) {
			return true, &reason{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}
		}
		p.wake(at)
	}
	if s.Restarting != nil || s.EndingSince.IsZero() && s.asksRestart() != nil {
		return false, nil // those that have ended start anew with the others
	}
	return initFailed(s) || appsDone(s), nil
}

// initDone says that the current sandbox holds or held an app container, so
// that its init containers must have succeeded.
func initDone(s *podState) bool {
	if len(s.Pod.Spec.InitContainers) == 0 {
		return true
	}
	sb := s.sandbox()
	for i := range s.Pod.Spec.Containers {
		c := s.latest(s.Pod.Spec.Containers[i].Name)
		if c != nil && (sb == nil || c.SandboxID == sb.Id) {
			return true
		}
	}
	return false
}

func initFailed(s *podState) bool {
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		st := s.latest(c.Name)
		if !isSidecar(c) && st.exited() && st.ExitCode != 0 && !s.restarts(c, true, st.ExitCode) && !s.Starting[c.Name] {
			return true
		}
	}
	return false
}

func appsDone(s *podState) bool {
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		st := s.latest(c.Name)
		if !st.exited() || s.Starting[c.Name] || s.restarts(c, false, st.ExitCode) {
			return false
		}
	}
	return len(s.Pod.Spec.Containers) > 0
}

// end stops the containers (sidecars last, in reverse order: KEP-753), then
// gives everything back.
func (p *plan) end(s *podState) {
	since := s.EndingSince
	if since.IsZero() {
		since = s.Now
	}
	if s.Draining {
		return
	}
	deadline := since.Add(s.grace())
	sidecar := map[string]int{}
	for i := range s.Pod.Spec.InitContainers {
		if c := &s.Pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecar[c.Name] = i + 1
		}
	}
	var last *instance
	alive, main := len(s.Starting) > 0, false
	for _, c := range s.Containers {
		if !c.running() {
			continue
		}
		alive = true
		if n := sidecar[c.name()]; n > 0 {
			if last == nil || n > sidecar[last.name()] {
				last = c
			}
			continue
		}
		main = true
		p.killBy(s, c, deadline)
	}
	if !main && last != nil {
		p.killBy(s, last, deadline)
	}
	if alive || len(s.Killing) > 0 || s.Admitting || s.Mounting || s.Sandboxing || s.Releasing || s.Removing || len(s.Dropping) > 0 {
		return
	}
	if !s.Released {
		p.Release = true
		return
	}
	p.Remove = s.deleting()
	if s.Purge && !p.Remove {
		for _, c := range s.Containers {
			p.DropContainers = append(p.DropContainers, c.Id)
		}
	}
}

// minGrace is what a container gets to stop even when its pod's grace period
// is used up.
const minGrace = 2 * time.Second

// killBy stops a container by deadline; one that is being stopped already is
// told again only when it now has less time.
func (p *plan) killBy(s *podState, c *instance, deadline time.Time) {
	grace := max(deadline.Sub(s.Now), min(minGrace, s.grace()))
	if due, ok := s.Killing[c.Id]; ok && !s.Now.Add(grace).Before(due.Add(-time.Second)) {
		return
	}
	p.Kill = append(p.Kill, killAction{ID: c.Id, Name: c.name(), Grace: grace})
}

// volumes puts the volumes in place, and fresh content into them.
func (p *plan) volumes(s *podState) {
	refresh := !s.VolumesRefresh.IsZero() && !s.Now.Before(s.VolumesRefresh)
	switch {
	case s.Mounting:
	case s.VolumesMounted && !s.VolumesStale && !refresh:
		if !s.VolumesRefresh.IsZero() {
			p.wake(s.VolumesRefresh)
		}
	case s.Now.Before(s.VolumesRetry):
		p.wake(s.VolumesRetry)
	default:
		p.Mount = true
	}
}

// needSandbox stops what runs in a broken sandbox and makes a new one.
func (p *plan) needSandbox(s *podState) {
	for _, c := range s.Containers {
		if _, killing := s.Killing[c.Id]; c.running() && !killing {
			p.Kill = append(p.Kill, killAction{ID: c.Id, Name: c.name(), Grace: s.grace()})
		}
	}
	if len(p.Kill) > 0 || len(s.Killing) > 0 || len(s.Starting) > 0 || s.Sandboxing || !s.VolumesMounted {
		return
	}
	if s.Now.Before(s.SandboxRetry) {
		p.wake(s.SandboxRetry)
		return
	}
	p.CreateSandbox = true
	if len(s.Sandboxes) > 0 {
		p.Attempt = s.Sandboxes[0].GetMetadata().GetAttempt() + 1
	}
}

// dropOldSandboxes stops further ready sandboxes and removes stopped ones
// that hold no container any more.
func (p *plan) dropOldSandboxes(s *podState, current *runtimeapi.PodSandboxStatus) {
	for _, sb := range s.Sandboxes {
		if sb.Id == current.Id || s.Dropping[sb.Id] {
			continue
		}
		holds := false
		for _, c := range s.Containers {
			holds = holds || c.SandboxID == sb.Id
		}
		switch {
		case sb.State == runtimeapi.PodSandboxState_SANDBOX_READY:
			p.StopSandboxes = append(p.StopSandboxes, sb.Id)
		case !holds:
			p.DropSandboxes = append(p.DropSandboxes, sb.Id)
		}
	}
}

// initContainers brings the init containers on; true means that all have
// finished, or started in the case of sidecars.
func (p *plan) initContainers(s *podState, sb *runtimeapi.PodSandboxStatus) bool {
	done := p.InitDone
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		if isSidecar(c) {
			p.keepRunning(s, sb, c, initContainer)
			if !done && !sidecarStarted(s, sb, c) {
				return false
			}
			continue
		}
		if done {
			continue
		}
		st := s.latest(c.Name)
		if st.exited() && st.SandboxID == sb.Id && st.ExitCode == 0 && !s.Starting[c.Name] {
			continue
		}
		if st.exited() && st.SandboxID != sb.Id && !s.Starting[c.Name] {
			// A new sandbox runs its init containers anew.
			p.start(s, startAction{Container: c, Kind: initContainer, Attempt: s.nextAttempt(c.Name)})
		} else {
			p.keepRunning(s, sb, c, initContainer)
		}
		return false
	}
	return true
}

func sidecarStarted(s *podState, sb *runtimeapi.PodSandboxStatus, c *corev1.Container) bool {
	st := s.latest(c.Name)
	return st.running() && st.SandboxID == sb.Id && !s.Starting[c.Name] && isStarted(s, c, st)
}

// isStarted says that a running container's startup probe, if any, has
// succeeded.
func isStarted(s *podState, c *corev1.Container, st *instance) bool {
	return c.StartupProbe == nil || s.Probes[st.Id].Startup == probes.Success
}

// keepRunning starts a container that should run and does not, and kills one
// that must be replaced.
func (p *plan) keepRunning(s *podState, sb *runtimeapi.PodSandboxStatus, c *corev1.Container, kind containerKind) {
	st := s.latest(c.Name)
	switch {
	case st == nil:
		p.start(s, startAction{Container: c, Kind: kind, Attempt: s.nextAttempt(c.Name)})
	case st.running() && st.SandboxID == sb.Id:
		p.replace(s, c, st)
	case st.running():
		p.killBy(s, st, s.Now.Add(s.grace()))
	case st.created():
		if !s.Starting[c.Name] && !s.Dropping[st.Id] {
			p.DropContainers = append(p.DropContainers, st.Id)
		}
	case s.restarts(c, kind == initContainer && !isSidecar(c), st.ExitCode):
		p.start(s, startAction{Container: c, Kind: kind, Attempt: s.nextAttempt(c.Name), Restart: true})
	}
}

// nextAttempt continues the restart count, also when the runtime has lost its
// records.
func (s *podState) nextAttempt(name string) int {
	if c := s.latest(name); c != nil {
		return c.attempt() + 1
	}
	if last := s.memory(name).Last; last != nil {
		return last.attempt() + 1
	}
	if old := findStatus(&s.Pod.Status, name); old != nil && old.ContainerID != "" {
		return int(old.RestartCount) + 1
	}
	return 0
}

// replace kills a running container whose probes failed or whose definition
// changed.
func (p *plan) replace(s *podState, c *corev1.Container, st *instance) {
	if _, killing := s.Killing[st.Id]; killing {
		return
	}
	r, grace := s.Probes[st.Id], s.grace()
	var why reason
	override := func(probe *corev1.Probe) {
		if probe != nil && probe.TerminationGracePeriodSeconds != nil {
			grace = time.Duration(max(*probe.TerminationGracePeriodSeconds, 1)) * time.Second
		}
	}
	switch hash := st.Annotations[annotationSpecHash]; {
	case hash != "" && hash != specHash(c):
		why = reason{"Changed", fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)}
	case r.Startup == probes.Failure:
		why = reason{"StartupProbe", fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name)}
		override(c.StartupProbe)
	case r.Live == probes.Failure:
		why = reason{"LivenessProbe", fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name)}
		override(c.LivenessProbe)
	case s.memory(c.Name).Killed.Reason != "":
		why = s.memory(c.Name).Killed
	default:
		was := s.actual(st)
		if was == nil || !resizeRestarts(c, was) {
			return
		}
		why = reason{resizeRestart, fmt.Sprintf("Container %s resize requires restart", c.Name)}
	}
	p.Kill = append(p.Kill, killAction{ID: st.Id, Name: c.Name, Grace: grace, Why: why})
}

// start adds a start action unless something stands against it: then it says
// what, and when to try again.
func (p *plan) start(s *podState, a startAction) {
	name := a.Container.Name
	m := s.memory(name)
	if s.Starting[name] || m.Resized && p.growing {
		return
	}
	if s.Now.Before(m.RetryAt) {
		p.Waiting[name] = m.Waiting
		p.wake(m.RetryAt)
		if m.Waiting.Reason == errImagePull {
			if at := m.FailedAt.Add(pullShown); s.Now.Before(at) {
				p.wake(at)
			} else {
				p.Waiting[name] = reason{imagePullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", m.Pull, errImagePull, m.Waiting.Message)}
			}
		}
		return
	}
	if a.Restart && !m.Resized && !s.redefined(a.Container) {
		finished := time.Unix(0, s.latest(name).FinishedAt)
		if at := m.restartAt(finished); s.Now.Before(at) {
			p.Waiting[name] = reason{crashLoopBackOff, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", m.CrashDelay, name, podTitle(s.Pod))}
			p.wake(at)
			return
		}
	}
	if m.Waiting.Reason != "" {
		p.Waiting[name] = m.Waiting
	}
	if s.VolumesMounted {
		p.Start = append(p.Start, a)
	}
}

// podTitle is how upstream names a pod in messages: name_namespace(uid).
func podTitle(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// collectGarbage removes all but the two newest instances of each container.
func (p *plan) collectGarbage(s *podState) {
	seen := map[string]int{}
	for _, c := range s.Containers {
		seen[c.name()]++
		if _, killing := s.Killing[c.Id]; seen[c.name()] > 2 && !c.running() && !killing && !s.Dropping[c.Id] {
			p.DropContainers = append(p.DropContainers, c.Id)
		}
	}
}
