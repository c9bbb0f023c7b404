package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/probes"
)

// inspect asks the runtime about one container of the pod and plans anew.
func (w *worker) inspect(ctx context.Context, id, sandboxID string) {
	w.refresh(ctx, id, sandboxID)
	w.sync()
}

// refresh asks the runtime about one container. A container only ever moves
// from created over running to exited, so that answers may arrive in any
// order.
func (w *worker) refresh(ctx context.Context, id, sandboxID string) {
	res, err := w.k.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if isGone(err) {
		w.lost(id)
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			w.k.log.Warn("cannot inspect a container", "id", id, "error", err)
		}
		return
	}
	c := newInstance(res.Status, sandboxID)
	if c.exited() {
		c.Termination = w.k.terminationMessage(c)
	}
	w.observe(c)
}

// observe takes a container's state in.
func (w *worker) observe(c *instance) {
	w.mu.Lock()
	old := w.containers[c.Id]
	if old != nil {
		if old.State > c.State {
			w.mu.Unlock()
			return
		}
		if c.SandboxID == "" {
			c.SandboxID = old.SandboxID
		}
	}
	w.containers[c.Id] = c
	if c.exited() && (old == nil || !old.exited()) {
		w.k.probes.Remove(c.Id)
		if m := w.state.Memory[c.name()]; m != nil {
			m.Killed = reason{}
		}
		if old != nil {
			w.k.counts.exited(&w.state.Pod.Spec, c)
		}
	}
	if c.running() && (old == nil || !old.running()) {
		w.probe(c)
	}
	w.mu.Unlock()
}

// lost forgets a container that the runtime no longer has.
func (w *worker) lost(id string) {
	w.k.probes.Remove(id)
	w.mu.Lock()
	delete(w.containers, id)
	w.mu.Unlock()
}

// probe begins to probe a running container. Call with the lock held.
func (w *worker) probe(c *instance) {
	pod := w.state.Pod
	spec, kind := findContainer(&pod.Spec, c.name())
	if spec == nil || kind == ephemeralContainer || kind == initContainer && !isSidecar(spec) || !w.state.EndingSince.IsZero() {
		return
	}
	t := &probes.Target{Pod: pod, Container: spec, ContainerID: c.Id, StartedAt: time.Unix(0, c.StartedAt)}
	if sb := w.sandboxes[c.SandboxID]; sb != nil {
		t.PodIP = podIP(pod, sb, w.k.facts.IPs)
	}
	if st := findStatus(&pod.Status, c.name()); st != nil && strings.HasSuffix(st.ContainerID, "://"+c.Id) {
		t.WasReady, t.WasStarted = st.Ready, st.Started != nil && *st.Started
	}
	w.k.probes.Add(w.ctx, t)
}

func (w *worker) refreshSandbox(ctx context.Context, id string) {
	res, err := w.k.cfg.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case isGone(err):
		delete(w.sandboxes, id)
	case err == nil:
		// A stopped sandbox has no address any more; it stays in the status
		// of an ended pod.
		w.sandboxes[id] = res.Status
	case ctx.Err() == nil:
		w.k.log.Warn("cannot inspect a sandbox", "id", id, "error", err)
	}
}

// relist asks the runtime for everything it has of the pod.
func (w *worker) relist(ctx context.Context) {
	byUID := map[string]string{labelUID: string(w.uid)}
	found, err := w.k.list(ctx, byUID)
	if err != nil {
		w.k.log.Warn("cannot list a pod's containers", "uid", w.uid, "error", err)
		return
	}
	w.adopt(found[w.uid])
}

// adopt takes over what the runtime has of the pod.
func (w *worker) adopt(f *foundPod) {
	if f == nil {
		f = &foundPod{}
	}
	have := map[string]bool{}
	w.mu.Lock()
	for _, sb := range f.sandboxes {
		w.sandboxes[sb.Id] = sb
		have[sb.Id] = true
	}
	for id := range w.sandboxes {
		if !have[id] && !w.state.Sandboxing {
			delete(w.sandboxes, id)
		}
	}
	var lost []string
	for _, c := range f.containers {
		have[c.Id] = true
	}
	for id, c := range w.containers {
		if !have[id] && !w.state.Starting[c.name()] {
			lost = append(lost, id)
		}
	}
	w.mu.Unlock()
	for _, id := range lost {
		w.lost(id)
	}
	for _, c := range f.containers {
		w.observe(c)
	}
}

// foundPod is what the runtime has of one pod.
type foundPod struct {
	name, namespace string
	sandboxes       []*runtimeapi.PodSandboxStatus
	containers      []*instance
}

// list asks the runtime for all sandboxes and containers with the labels.
func (k *Kubelet) list(ctx context.Context, labels map[string]string) (map[types.UID]*foundPod, error) {
	out := map[types.UID]*foundPod{}
	at := func(l map[string]string) *foundPod {
		uid := types.UID(l[labelUID])
		if out[uid] == nil {
			out[uid] = &foundPod{name: l[labelPod], namespace: l[labelNamespace]}
		}
		return out[uid]
	}
	sbs, err := k.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, sb := range sbs.Items {
		if sb.Labels[labelUID] == "" {
			continue // not a kubelet's
		}
		st, err := k.cfg.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sb.Id})
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("inspect sandbox %s: %w", sb.Id, err)
		}
		f := at(sb.Labels)
		f.sandboxes = append(f.sandboxes, st.Status)
	}
	cs, err := k.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range cs.Containers {
		if c.Labels[labelUID] == "" {
			continue
		}
		st, err := k.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("inspect container %s: %w", c.Id, err)
		}
		in := newInstance(st.Status, c.PodSandboxId)
		if in.exited() {
			in.Termination = k.terminationMessage(in)
		}
		f := at(c.Labels)
		f.containers = append(f.containers, in)
	}
	return out, nil
}

// follow turns the runtime's events into observations until ctx ends. begun is
// called each time the stream is open: what happened before it must be listed.
func (k *Kubelet) follow(ctx context.Context, begun func()) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		err := k.followOnce(ctx, func() { pause = 50 * time.Millisecond; begun() })
		if ctx.Err() != nil {
			return
		}
		k.log.Warn("the runtime's event stream ended, will open it again", "error", err)
		k.nudgeNode()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func (k *Kubelet) followOnce(ctx context.Context, begun func()) error {
	asked := k.cfg.Clock.Now()
	stream, err := k.cfg.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		k.counts.streamsFailed.Inc()
		return err
	}
	// The stream is open once the runtime answers other calls made after it;
	// gRPC gives no earlier sign.
	if _, err := k.cfg.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		k.counts.streamsFailed.Inc()
		return err
	}
	k.counts.streams.Inc()
	k.counts.streamTook.Observe(k.cfg.Clock.Since(asked).Seconds())
	k.counts.heard(k.cfg.Clock.Now())
	begun()
	for {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		k.event(ctx, e)
	}
}

// event handles one event of the runtime. Its own snapshot of the pod may be
// older than what the kubelet knows, so that only the id is used.
func (k *Kubelet) event(ctx context.Context, e *runtimeapi.ContainerEventResponse) {
	k.counts.heard(k.cfg.Clock.Now())
	uid := types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())
	w := k.worker(uid)
	if w == nil {
		return
	}
	id, sandboxID := e.ContainerId, e.GetPodSandboxStatus().GetId()
	sandbox := id == sandboxID
	switch e.ContainerEventType {
	case runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT:
		return // only the kubelet creates, and it knows
	case runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT:
		if sandbox {
			return
		}
	}
	k.ops.Go(func() {
		k.guard("event", func() {
			if sandbox {
				w.refreshSandbox(ctx, id)
				w.sync()
				return
			}
			w.inspect(ctx, id, sandboxID)
		})
	})
}

// Bounds of termination messages (API documentation of
// terminationMessagePath and terminationMessagePolicy).
const (
	maxTermination      = 4096
	maxTerminationLog   = 2048
	maxTerminationLines = 80
)

// terminationMessage reads what an exited container left as its last words.
func (k *Kubelet) terminationMessage(c *instance) string {
	path := c.Annotations[annotationTerminationPath]
	for _, m := range c.Mounts {
		if path == "" || m.ContainerPath != path {
			continue
		}
		b, err := readRegular(m.HostPath, maxTermination)
		if err != nil {
			return fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err)
		}
		if len(b) > 0 {
			return string(b)
		}
	}
	if c.Annotations[annotationTerminationPolicy] != string(corev1.TerminationMessageFallbackToLogsOnError) || c.ExitCode == 0 || c.LogPath == "" {
		return ""
	}
	b, err := tailLog(c.LogPath, maxTerminationLines, maxTerminationLog)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return string(b)
}

// readRegular reads at most n bytes of a regular file. The container could
// have put a link or a pipe in its place.
func readRegular(path string, n int64) ([]byte, error) {
	f, err := openRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}

// tailLog returns the text of the last lines of a CRI log.
func tailLog(path string, lines, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const window = 64 << 10
	b := make([]byte, min(fi.Size(), window))
	if _, err := f.ReadAt(b, fi.Size()-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if fi.Size() > window {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	all := bytes.SplitAfter(b, []byte("\n"))
	if n := len(all); n > 0 && len(all[n-1]) == 0 {
		all = all[:n-1]
	}
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	var out []byte
	for _, l := range all {
		// <time> <stream> <tags> <text>
		parts := bytes.SplitN(l, []byte(" "), 4)
		if len(parts) < 4 {
			continue
		}
		text := parts[3]
		if string(parts[2]) == "P" {
			text = bytes.TrimSuffix(text, []byte("\n"))
		}
		out = append(out, text...)
	}
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return out, nil
}

// ownsPath says that a path lies in the pod's folder.
func (k *Kubelet) ownsPath(pod *corev1.Pod, path string) bool {
	rel, err := filepath.Rel(k.volumes.PodDir(pod.UID), path)
	return err == nil && filepath.IsLocal(rel)
}
