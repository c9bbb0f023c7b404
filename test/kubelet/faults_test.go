package kubelet_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
)

var crashing = flag.Int("crashing", 12, "how many pods TestCrashLoops runs")

const waits = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

// kill ends a process at once.
func (w *world) kill(pid int) {
	w.t.Helper()
	if pid == 0 {
		w.t.Fatal("there is no such process")
	}
	w.must(syscall.Kill(pid, syscall.SIGKILL))
}

// several makes pods p0..pn-1 that run until told to end.
func (w *world) several(n int) {
	for i := range n {
		w.pod(shell(fmt.Sprintf("p%d", i), waits, "", "terminationGracePeriodSeconds: 2"))
	}
}

// honest checks that a pod which is reported Running does run.
func (w *world) honest(name string) {
	w.t.Helper()
	p := w.until(name, "ready", isReady)
	out, err := w.exec(p, "c", "echo", "alive")
	for grpcstatus.Code(err) == codes.Unavailable && w.t.Context().Err() == nil { // a call that was under way when containerd was killed
		out, err = w.exec(p, "c", "echo", "alive")
	}
	if err != nil || out != "alive\n" {
		w.t.Errorf("%s is reported to run: %q, %v", name, out, err)
	}
}

// TestKilledContainerd kills containerd while pods start, while they run and
// while they end.
func TestKilledContainerd(t *testing.T) {
	w := newWorld(t)
	const n = 4
	w.several(n)
	w.until("p0", "underway", func(p *corev1.Pod) bool {
		return p != nil && len(w.shims()) > 0
	})
	w.kill(w.containerd())
	for i := range n {
		w.honest(fmt.Sprintf("p%d", i))
	}
	starts := map[string]string{}
	for i := range n {
		p := w.until(fmt.Sprintf("p%d", i), "ready", isReady)
		starts[p.Name] = status(p, "c").ContainerID
	}
	w.kill(w.containerd())
	for name, id := range starts {
		w.honest(name)
		if p := w.until(name, "ready", isReady); status(p, "c").ContainerID != id {
			t.Errorf("%s: another container runs after containerd was killed", name)
		}
	}
	for name := range starts {
		w.delete(name, 2)
	}
	w.until("p0", "ending", func(p *corev1.Pod) bool { return p == nil || p.DeletionTimestamp != nil })
	w.kill(w.containerd())
	for name := range starts {
		w.until(name, "gone", gone)
	}
	w.noLeaks()
}

// TestKilledShim kills the process that stands between containerd and a pod:
// its containers end with it and are started anew.
func TestKilledShim(t *testing.T) {
	w := newWorld(t)
	w.several(1)
	p := w.until("p0", "ready", isReady)
	was := status(p, "c").ContainerID
	main := w.process(waits)
	w.kill(w.shims().first())
	w.until("p0", "running another container", func(p *corev1.Pod) bool {
		return isReady(p) && status(p, "c").ContainerID != was
	})
	w.honest("p0")
	if state := stateOf(main); state != "" && state != "Z" { // nobody has waited for a Z yet
		t.Errorf("process %d of the container whose shim was killed still runs, in state %s", main, state)
	}
	w.delete("p0", 2)
	w.until("p0", "gone", gone)
	w.noLeaks()
}

// stateOf is what /proc says of a process, "" if it is gone.
func stateOf(pid int) string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(raw), ") ")
	state, _, _ := strings.Cut(after, " ")
	return state
}

// TestKilledProcess kills a container's first process, and a pod's sandbox.
func TestKilledProcess(t *testing.T) {
	w := newWorld(t)
	w.several(1)
	w.until("p0", "ready", isReady)
	w.kill(w.process(waits))
	p := w.until("p0", "ready again", func(p *corev1.Pod) bool { return isReady(p) && status(p, "c").RestartCount == 1 })
	if last := status(p, "c").LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("how it ended: %+v", last)
	}
	address := p.Status.PodIP
	w.kill(w.process("/pause"))
	p = w.until("p0", "in another sandbox", func(p *corev1.Pod) bool { return isReady(p) && status(p, "c").RestartCount == 2 })
	t.Logf("address before %s, after %s", address, p.Status.PodIP)
	w.honest("p0")
	w.delete("p0", 2)
	w.until("p0", "gone", gone)
	w.noLeaks()
}

// TestKubeletStopsMidway ends the kubelet while pods start and while they end;
// the next one finishes both.
func TestKubeletStopsMidway(t *testing.T) {
	w := newWorld(t)
	const n = 3
	w.several(n)
	w.until("p0", "underway", func(p *corev1.Pod) bool { return len(w.shims()) > 0 })
	w.stop()
	w.startKubelet()
	for i := range n {
		w.honest(fmt.Sprintf("p%d", i))
	}
	for i := range n {
		w.delete(fmt.Sprintf("p%d", i), 2)
	}
	w.until("p0", "ending", func(p *corev1.Pod) bool { return p == nil || p.DeletionTimestamp != nil })
	w.stop()
	w.startKubelet()
	for i := range n {
		w.until(fmt.Sprintf("p%d", i), "gone", gone)
	}
	w.noLeaks()
}

// TestCrashLoops has pods that end again and again: each gets its back-off,
// the node stays ready, and nothing of their many containers is left.
func TestCrashLoops(t *testing.T) {
	w := newWorld(t)
	// They all start at once: the first may be the last.
	w.patience += time.Duration(*crashing) * 3 * time.Second
	w.stop()
	w.change = func(c *kubelet.Config) { c.MaxPods = *crashing + 10 }
	w.startKubelet()
	for i := range *crashing {
		w.pod(shell(fmt.Sprintf("p%d", i), "exit 3", "", ""))
	}
	for i := range *crashing {
		p := w.until(fmt.Sprintf("p%d", i), "backing off", waiting("c", "CrashLoopBackOff"))
		if p.Status.Phase != corev1.PodRunning || isReady(p) {
			t.Errorf("%s: phase %s", p.Name, p.Status.Phase)
		}
	}
	n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
	w.must(err)
	if !nodeReady(n) {
		t.Errorf("the node: %+v", n.Status.Conditions)
	}
	w.pod(shell("fine", waits, "", "terminationGracePeriodSeconds: 2"))
	w.honest("fine")
	w.delete("fine", 2)
	for i := range *crashing {
		w.delete(fmt.Sprintf("p%d", i), 0)
	}
	for i := range *crashing {
		w.until(fmt.Sprintf("p%d", i), "gone", gone)
	}
	w.until("fine", "gone", gone)
	w.noLeaks()
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// jumpy is a clock that can be set.
type jumpy struct {
	clock.RealClock
	ahead atomic.Int64
}

func (j *jumpy) Now() time.Time { return j.RealClock.Now().Add(time.Duration(j.ahead.Load())) }

func (j *jumpy) Since(t time.Time) time.Duration { return j.Now().Sub(t) }

// TestClockJumps sets the clock an hour ahead and then two back: pods run on,
// and others start and end.
func TestClockJumps(t *testing.T) {
	w := newWorld(t)
	w.stop()
	c := &jumpy{}
	w.change = func(cfg *kubelet.Config) { cfg.Clock = c }
	w.startKubelet()
	w.pod(shell("before", waits, "livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}", "terminationGracePeriodSeconds: 2"))
	p := w.until("before", "ready", isReady)
	was := status(p, "c").ContainerID
	for i, jump := range []time.Duration{time.Hour, -time.Hour} {
		c.ahead.Store(int64(jump))
		name := fmt.Sprintf("after-%d", i)
		w.pod(shell(name, waits, "", "terminationGracePeriodSeconds: 2"))
		w.honest(name)
		w.delete(name, 2)
		w.until(name, "gone", gone)
	}
	if p := w.until("before", "ready", isReady); status(p, "c").ContainerID != was {
		t.Error("the container was replaced")
	}
	w.delete("before", 2)
	w.until("before", "gone", gone)
	w.noLeaks()
}

// TestFullDisk fills the file system of the pods' folders: a pod that needs
// room there says so, and starts once there is some; those that run go on.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.stop()
	pods := filepath.Join(w.dir, "kubelet", "pods")
	w.must(unix.Mount("tmpfs", pods, "tmpfs", 0, "size=256k"))
	w.must(unix.Mount("", pods, "", unix.MS_SHARED, ""))
	w.startKubelet()
	w.several(1)
	w.until("p0", "ready", isReady)
	hog := filepath.Join(pods, "hog")
	if err := os.WriteFile(hog, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk cannot be filled: %v", err)
	}
	w.pod(shell("late", waits, "", "terminationGracePeriodSeconds: 2"))
	w.untilEvent("late", "no space left on device")
	w.honest("p0")
	w.must(os.Remove(hog))
	w.honest("late")
	for _, name := range []string{"p0", "late"} {
		w.delete(name, 2)
	}
	for _, name := range []string{"p0", "late"} {
		w.until(name, "gone", gone)
	}
	w.noLeaks()
	w.stop()
	w.must(unix.Unmount(pods, unix.MNT_DETACH))
}

// exec runs a command in a container.
func (w *world) exec(p *corev1.Pod, container string, command ...string) (string, error) {
	w.t.Helper()
	cri, _ := w.rt.CRI()
	_, id, _ := strings.Cut(status(p, container).ContainerID, "://")
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	res, err := cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 20}, grpc.WaitForReady(true))
	return string(res.GetStdout()), err
}
