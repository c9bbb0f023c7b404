package kubelet

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Restarting all containers of a pod because one ended with a certain code
// (KEP-5532). First all of them, but for ephemeral ones, are killed and removed
// from the runtime; the pod's condition AllContainersRestarting is True until
// then, so that another kubelet goes on with it. Then the pod starts as a new
// one does, in the sandbox that it has, init containers first.

// restartAll plans the first part; true means that there is nothing else to do
// meanwhile.
func (p *plan) restartAll(s *podState) bool {
	p.Restart = s.Restarting
	if p.Restart == nil {
		p.Restart = s.asksRestart()
	}
	if p.Restart == nil {
		return false
	}
	left := len(s.Starting) > 0
	for _, c := range s.Containers {
		if _, kind := findContainer(&s.Pod.Spec, c.name()); kind == ephemeralContainer {
			continue
		}
		left = true
		_, killing := s.Killing[c.Id]
		switch {
		case killing, s.Dropping[c.Id]:
		case c.running():
			p.Kill = append(p.Kill, killAction{ID: c.Id, Name: c.name(), Why: *p.Restart})
		case !s.Starting[c.name()]:
			p.DropContainers = append(p.DropContainers, c.Id)
		}
	}
	p.Restarted = !left
	return true
}

// asksRestart returns why all containers are to be restarted, nil if they are
// not.
func (s *podState) asksRestart() *reason {
	c, st := s.restarter()
	if c == nil {
		return nil
	}
	return &reason{"ContainerExited", fmt.Sprintf("Container %s exited with code %d, triggering pod restart", c.Name, st.ExitCode)}
}

// restarter is a container that has ended in a way of which one of its rules
// says that all are to be restarted, nil for none.
func (s *podState) restarter() (*corev1.Container, *instance) {
	for _, l := range [][]corev1.Container{s.Pod.Spec.InitContainers, s.Pod.Spec.Containers} {
		for i := range l {
			st := s.latest(l[i].Name)
			if !st.exited() {
				continue
			}
			if r := restartRule(&l[i], st.ExitCode); r != nil && r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return &l[i], st
			}
		}
	}
	return nil, nil
}

// restartsLater says that the pod, all of whose containers were removed, has
// to wait before it starts anew: who restarts again and again does so ever
// less often.
func (p *plan) restartsLater(s *podState) bool {
	if !s.Now.Before(s.RestartAt) {
		return false
	}
	p.wake(s.RestartAt)
	for _, l := range [][]corev1.Container{s.Pod.Spec.InitContainers, s.Pod.Spec.Containers} {
		for i := range l {
			if name := l[i].Name; s.latest(name) == nil {
				p.Waiting[name] = reason{crashLoopBackOff, fmt.Sprintf("back-off restarting all containers of pod=%s", podTitle(s.Pod))}
			}
		}
	}
	return true
}

// takeRestart takes the plan's word on restarting all containers into the
// state. Call with the lock held.
func (w *worker) takeRestart(p *plan) {
	s := &w.state
	if p.Restart == nil {
		return
	}
	if s.Restarting == nil {
		s.Restarting = p.Restart
		w.k.recorder.Event(s.Pod, corev1.EventTypeWarning, p.Restart.Reason, p.Restart.Message)
		w.delayRestart()
	}
	for _, id := range p.DropContainers {
		if c := w.containers[id]; c != nil {
			if m := w.memoryOf(c.name()); m.Last == nil || m.Last.attempt() <= c.attempt() {
				m.Last = c
			}
		}
	}
	if p.Restarted {
		s.Restarting = nil
		for _, m := range s.Memory {
			m.Killed, m.Waiting, m.RetryAt = reason{}, reason{}, time.Time{}
		}
	}
}

// delayRestart raises the back-off of the container that asks for the restart,
// and has the pod wait for it. Call with the lock held.
func (w *worker) delayRestart() {
	s := &w.state
	c, st := s.restarter()
	if c == nil {
		return // known from the pod's condition only
	}
	m := w.memoryOf(c.Name)
	s.RestartAt = m.restartAt(time.Unix(0, st.FinishedAt))
	m.crashed(s.Now, w.k.cfg.Containers.CrashDelay)
}

// restartingOf takes up from a pod's status that all of its containers were
// being restarted when the kubelet ended.
func restartingOf(pod *corev1.Pod) *reason {
	c := findCondition(pod.Status.Conditions, corev1.AllContainersRestarting)
	if c == nil || c.Status != corev1.ConditionTrue {
		return nil
	}
	return &reason{c.Reason, c.Message}
}

// restartConditions tells of a restart of all containers, under way or past.
func restartConditions(s *podState, p *plan) []corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse, ObservedGeneration: s.Pod.Generation}
	old := findCondition(s.Pod.Status.Conditions, c.Type)
	switch {
	case p.Restart != nil && !p.Restarted:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, p.Restart.Reason, p.Restart.Message
	case old == nil:
		return nil
	default:
		c.Reason, c.Message = old.Reason, old.Message
	}
	return []corev1.PodCondition{c}
}

// restartedAnew says that all containers were removed and the pod is on its
// way through its init containers again.
func restartedAnew(s *podState, p *plan) bool {
	if p.InitDone {
		return false
	}
	for i := range s.Pod.Spec.Containers {
		if s.memory(s.Pod.Spec.Containers[i].Name).Last != nil {
			return true
		}
	}
	return false
}

// history returns the instances of a container, newest first, and as the last
// one what the runtime had before all containers were restarted.
func (s *podState) history(name string) []*instance {
	out := s.instances(name)
	last := s.memory(name).Last
	if last == nil || slices.ContainsFunc(out, func(c *instance) bool { return c.Id == last.Id }) {
		return out
	}
	return append(out, last)
}
