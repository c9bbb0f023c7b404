package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/csi"
)

// isGone says that the runtime does not know an id (any more).
func isGone(err error) bool { return status.Code(err) == codes.NotFound }

// apply sets a plan's operations going. It is called with the worker's lock
// held and does not block.
func (w *worker) apply(p *plan) {
	s := &w.state
	if p.Mount {
		w.mount()
	}
	if p.CreateSandbox {
		w.createSandbox(p.Attempt)
	}
	for _, id := range p.StopSandboxes {
		w.drop(id, func(ctx context.Context) error { return w.stopSandbox(ctx, id) })
	}
	for _, id := range p.DropContainers {
		w.drop(id, func(ctx context.Context) error { return w.removeContainer(ctx, id) })
	}
	for _, id := range p.DropSandboxes {
		w.drop(id, func(ctx context.Context) error { return w.removeSandbox(ctx, id) })
	}
	for _, a := range p.Start {
		w.start(a)
	}
	for _, a := range p.Kill {
		w.kill(a)
	}
	if p.Resize != nil {
		w.resize(p.Resize)
	}
	switch {
	case p.Release:
		s.Releasing = true
		pod := s.Pod
		var err error
		w.run("release", false, func(ctx context.Context) { err = w.release(ctx, pod) }, func() {
			s.Releasing = false
			s.Released = err == nil
			w.k.ops.Go(w.k.retryResizes)
			w.retry("release", err, &s.Releasing)
		})
	case p.Remove:
		s.Removing = true
		pod, static, gone := s.Pod, w.static, s.Gone
		var err error
		w.run("remove", false, func(ctx context.Context) { err = w.remove(ctx, pod, static, gone) }, func() {
			s.Removing = false
			if err == nil {
				w.finish()
			}
			w.retry("remove", err, &s.Removing)
		})
	}
}

// hold is a failed operation that waits for its next try; its busy stays set
// meanwhile.
type hold struct {
	busy  *bool
	timer clock.Timer
}

// retry keeps a failed operation from being tried again for a while: the
// longer the more often it failed, if it is a driver's fault, who may never
// come back; if he does, driverCame ends the wait. Call with the lock held.
func (w *worker) retry(what string, err error, busy *bool) {
	if err == nil {
		w.endGap = 0
		return
	}
	if w.ctx.Err() != nil {
		return
	}
	w.endGap = endDelay(w.endGap, err)
	w.k.log.Warn("a pod's operation failed, will retry", "operation", what, "pod", podTitle(w.state.Pod), "in", w.endGap, "error", err)
	*busy = true
	w.held = &hold{busy, w.k.cfg.Clock.AfterFunc(w.endGap, w.tryAgain)}
}

// endDelay is the time between two tries to end a pod, after the one before
// that and the error of the last.
func endDelay(before time.Duration, err error) time.Duration {
	var driver *csi.Error
	if !errors.As(err, &driver) {
		return endDelayInitial
	}
	return doubled(before, endDelayInitial, endDelayMax)
}

// tryAgain ends the wait of a failed operation, if one waits.
func (w *worker) tryAgain() {
	w.mu.Lock()
	h := w.held
	if h != nil {
		h.timer.Stop()
		*h.busy, w.held = false, nil
	}
	w.mu.Unlock()
	if h != nil {
		w.sync()
	}
}

func (w *worker) mount() {
	s := &w.state
	s.Mounting, s.VolumesStale = true, false
	pod := s.Pod
	var refresh time.Time
	var err error
	w.run("volumes", true, func(ctx context.Context) {
		// A missing object must not hold the pod's other volumes for long.
		if err = os.MkdirAll(w.k.volumes.PodDir(pod.UID), 0o750); err == nil {
			refresh, err = w.k.volumes.Mount(ctx, pod, w.k.volumeSource(ctx, w, pod))
		}
	}, func() {
		s.Mounting = false
		if err == nil {
			s.VolumesMounted, s.VolumesRefresh, w.volumesGap = true, refresh, 0
			return
		}
		if s.EndingSince.IsZero() {
			w.k.recorder.Event(pod, corev1.EventTypeWarning, "FailedMount", err.Error())
		}
		w.volumesGap = doubled(w.volumesGap, 500*time.Millisecond, 2*time.Minute+2*time.Second)
		s.VolumesRetry = w.k.cfg.Clock.Now().Add(w.volumesGap)
		s.VolumesStale = s.VolumesMounted
	})
}

func (w *worker) createSandbox(attempt uint32) {
	s := &w.state
	s.Sandboxing = true
	pod := s.Pod
	if attempt > 0 {
		w.k.recorder.Event(pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	var old []string
	for id := range w.sandboxes {
		old = append(old, id)
	}
	var sb *runtimeapi.PodSandboxStatus
	var err error
	told := false // by an event of its own
	w.run("sandbox", true, func(ctx context.Context) {
		for _, id := range old {
			if err = w.stopSandbox(ctx, id); err != nil {
				return
			}
		}
		if err = w.k.prepareClaims(ctx, pod); err != nil {
			told = true
			return
		}
		if sb, err = w.k.runSandbox(ctx, pod, attempt); err != nil {
			// What was made of it must not be forgotten.
			w.relist(context.WithoutCancel(ctx))
		}
	}, func() {
		s.Sandboxing = false
		if err == nil || s.EndingSince.IsZero() { // what its end cut off is no failure
			w.k.counts.sandbox(pod, err)
		}
		if err == nil {
			w.sandboxes[sb.Id] = sb
			w.sandboxGap = 0
			return
		}
		if s.EndingSince.IsZero() && !told {
			w.k.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		}
		w.sandboxGap = doubled(w.sandboxGap, retryInitial, retryMax)
		s.SandboxRetry = w.k.cfg.Clock.Now().Add(w.sandboxGap)
	})
}

func (w *worker) start(a startAction) {
	s := &w.state
	sb := s.sandbox()
	if sb == nil {
		return
	}
	name := a.Container.Name
	s.Starting[name] = true
	m := w.memoryOf(name)
	if s.redefined(a.Container) {
		m.CrashDelay = 0 // it was another container that crashed
	}
	if a.Restart && !m.Resized {
		m.crashed(s.Now, w.k.cfg.Containers.CrashDelay)
	}
	pod := s.Pod
	var err error
	w.run("start/"+name, true, func(ctx context.Context) {
		if err = w.k.launch(ctx, w, pod, a, sb); err != nil {
			// What there is of it, maybe from before a restart, must be known
			// before the next try, in whose way it is.
			w.relist(context.WithoutCancel(ctx))
		}
	}, func() {
		delete(s.Starting, name)
		if err == nil {
			w.k.counts.launched(pod, a.Kind, "")
			m.Resized = false
			m.Waiting, m.RetryAt, m.PullDelay, m.RetryDelay = reason{}, time.Time{}, 0, 0
			return
		}
		w.startFailed(pod, a, m, err)
	})
}

// startFailed remembers why a container did not start and when to try again.
func (w *worker) startFailed(pod *corev1.Pod, a startAction, m *memory, err error) {
	var se *startError
	if !errors.As(err, &se) {
		se = &startError{reason: reason{createContainerError, err.Error()}}
	}
	now := w.k.cfg.Clock.Now()
	m.Waiting, m.FailedAt, m.Pull = se.reason, now, se.Pull
	if !w.state.EndingSince.IsZero() {
		return // what the pod's end cut off is no failure
	}
	w.k.counts.launched(pod, a.Kind, se.Reason)
	switch {
	case se.Reason == postStartHookError:
		m.Killed = reason{postStartHookError, "FailedPostStartHook"}
		return
	case se.Pull != "" || se.Reason == errImageNeverPull || se.Reason == invalidImageName:
		m.PullDelay = doubled(m.PullDelay, pullDelayInitial, pullDelayMax)
		m.RetryAt = now.Add(m.PullDelay)
	default:
		m.RetryDelay = doubled(m.RetryDelay, retryInitial, retryMax)
		m.RetryAt = now.Add(m.RetryDelay)
	}
	text := se.Message
	switch se.Reason {
	case errImagePull, errImageNeverPull, invalidImageName, imageInspectError:
		text = se.Reason
	}
	w.k.containerEvent(pod, a.Kind, a.Container.Name, corev1.EventTypeWarning, "Failed", "Error: %s", text)
}

func (w *worker) kill(a killAction) {
	s := &w.state
	due := s.Now.Add(a.Grace)
	again := false
	if _, again = s.Killing[a.ID]; again {
		if cancel := w.kills[a.ID]; cancel != nil {
			cancel() // the earlier, more patient one
		}
	}
	s.Killing[a.ID] = due
	if a.Why.Reason != "" {
		m := w.memoryOf(a.Name)
		m.Killed, m.Resized = a.Why, a.Why.Reason == resizeRestart
	}
	w.k.probes.StopHealth(a.ID)
	pod := s.Pod
	ip, sandboxID := "", ""
	if sb := s.sandbox(); sb != nil {
		ip = podIP(pod, sb, w.k.facts.IPs)
	}
	if c := w.containers[a.ID]; c != nil {
		sandboxID = c.SandboxID
	}
	ctx, cancel := context.WithCancel(w.ctx)
	w.kills[a.ID] = cancel
	w.k.ops.Go(func() {
		defer cancel()
		var err error
		if again {
			_, err = w.k.cfg.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: a.ID, Timeout: int64(a.Grace / time.Second)})
		} else {
			err = w.k.stopContainer(ctx, pod, a, ip)
		}
		if ctx.Err() != nil {
			return // another kill has taken over, or the kubelet stops
		}
		if err != nil && !isGone(err) {
			w.k.log.Warn("cannot stop a container, will retry", "pod", podTitle(pod), "container", a.Name, "error", err)
			t := w.k.cfg.Clock.NewTimer(2 * time.Second)
			defer t.Stop()
			select {
			case <-t.C():
			case <-ctx.Done():
				return
			}
		}
		w.refresh(ctx, a.ID, sandboxID)
		w.mu.Lock()
		if s.Killing[a.ID].Equal(due) {
			delete(s.Killing, a.ID)
			delete(w.kills, a.ID)
		}
		w.mu.Unlock()
		w.sync()
	})
}

// drop runs an operation on a dead container or sandbox.
func (w *worker) drop(id string, op func(context.Context) error) {
	s := &w.state
	if s.Dropping[id] {
		return
	}
	s.Dropping[id] = true
	var err error
	w.run("drop/"+id, false, func(ctx context.Context) { err = op(ctx) }, func() {
		if err == nil || isGone(err) {
			delete(s.Dropping, id)
			return
		}
		w.k.log.Warn("cannot remove from the runtime, will retry", "pod", podTitle(s.Pod), "id", id, "error", err)
		w.k.cfg.Clock.AfterFunc(5*time.Second, func() {
			w.mu.Lock()
			delete(s.Dropping, id)
			w.mu.Unlock()
			w.sync()
		})
	})
}

func (w *worker) stopSandbox(ctx context.Context, id string) error {
	defer w.k.turns.take(ctx, turnEnd, maxTurn)()
	_, err := w.k.cfg.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	if err != nil && !isGone(err) {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	w.refreshSandbox(ctx, id)
	return nil
}

func (w *worker) removeContainer(ctx context.Context, id string) error {
	w.mu.Lock()
	c, pod := w.containers[id], w.state.Pod
	w.mu.Unlock()
	defer w.k.turns.take(ctx, turnEnd, maxTurn)()
	_, err := w.k.cfg.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove container: %w", err)
	}
	if c != nil {
		os.Remove(filepath.Join(w.k.podLogDir(pod), containerLog(c.name(), c.attempt())))
		if w.k.cfg.ContainerLogDir != "" {
			os.Remove(w.k.containerLink(pod.Name, pod.Namespace, c.name(), id))
		}
		w.k.images.use(c.ImageRef, w.k.cfg.Clock.Now())
		for _, m := range c.Mounts {
			if m.ContainerPath == c.Annotations[annotationTerminationPath] && w.k.ownsPath(pod, m.HostPath) {
				os.Remove(m.HostPath)
			}
		}
	}
	w.mu.Lock()
	delete(w.containers, id)
	w.mu.Unlock()
	return nil
}

func (w *worker) removeSandbox(ctx context.Context, id string) error {
	defer w.k.turns.take(ctx, turnEnd, maxTurn)()
	_, err := w.k.cfg.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	w.mu.Lock()
	delete(w.sandboxes, id)
	w.mu.Unlock()
	return nil
}

// ids lists what the runtime has of the pod.
func (w *worker) ids() (sandboxes, containers []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.sandboxes {
		sandboxes = append(sandboxes, id)
	}
	for id := range w.containers {
		containers = append(containers, id)
	}
	return sandboxes, containers
}

// release gives back what an ended pod holds: its network, volumes and
// cgroup. Containers and logs stay until the pod is deleted.
func (w *worker) release(ctx context.Context, pod *corev1.Pod) error {
	sandboxes, _ := w.ids()
	for _, id := range sandboxes {
		if err := w.stopSandbox(ctx, id); err != nil {
			return err
		}
	}
	if err := w.k.volumes.Unmount(ctx, pod); err != nil {
		return err
	}
	if err := w.k.claims.Unprepare(ctx, pod.UID); err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	w.k.exclusive.Release(pod.UID)
	w.k.shareCPUs()
	class, group := podCgroup(pod)
	defer w.k.counts.cgroup("destroy", time.Now())
	return w.k.cgroups.RemovePod(class, group)
}

// remove takes a deleted pod off the API and every trace of it off the node.
func (w *worker) remove(ctx context.Context, pod *corev1.Pod, static, gone bool) error {
	if !static && !gone {
		if err := w.k.status.flush(ctx, pod.UID); err != nil {
			return err
		}
		zero := int64(0)
		err := client.Pods.In(w.k.cfg.Client, pod.Namespace).Delete(ctx, pod.Name, client.Options{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete the pod: %w", err)
		}
	}
	sandboxes, containers := w.ids()
	for _, id := range containers {
		if err := w.removeContainer(ctx, id); err != nil {
			return err
		}
	}
	for _, id := range sandboxes {
		if err := w.removeSandbox(ctx, id); err != nil {
			return err
		}
	}
	if err := w.k.volumes.Remove(ctx, pod.UID); err != nil {
		return err
	}
	return os.RemoveAll(w.k.podLogDir(pod))
}
