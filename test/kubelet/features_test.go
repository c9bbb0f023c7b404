package kubelet_test

import (
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
)

// TestNamespaces: containers share their processes with each other, or with the
// machine, if the pod says so.
func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	own := func(kind string) string {
		s, err := os.Readlink("/proc/self/ns/" + kind)
		w.must(err)
		return s
	}
	w.pod(shell("shared", "tr '\\0' '\\n' < /proc/1/cmdline; sleep 1000", "", "shareProcessNamespace: true\nterminationGracePeriodSeconds: 1"))
	w.pod(shell("host", "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; sleep 1000", "", "hostPID: true\nhostIPC: true\nterminationGracePeriodSeconds: 1"))
	w.pod(shell("named", "hostname; sleep 1000", "", "hostname: me\nsubdomain: sub\nsetHostnameAsFQDN: true\nterminationGracePeriodSeconds: 1"))
	w.logSays(w.until("shared", "ready", isReady), "c", 0, "/pause")
	w.logSays(w.until("host", "ready", isReady), "c", 0, own("pid"), own("ipc"))
	w.logSays(w.until("named", "ready", isReady), "c", 0, "me.sub.default.svc.cluster.local")
}

// TestReadinessGate: a pod whose containers are ready waits for the condition
// that somebody else sets.
func TestReadinessGate(t *testing.T) {
	w := newWorld(t)
	const gate = corev1.PodConditionType("example.com/open")
	w.pod(shell("gated", waits, "", "readinessGates: [{conditionType: example.com/open}]\nterminationGracePeriodSeconds: 1"))
	p := w.until("gated", "ready but for its gate", func(p *corev1.Pod) bool {
		c := condition(p, corev1.ContainersReady)
		return c != nil && c.Status == corev1.ConditionTrue
	})
	if c := condition(p, corev1.PodReady); c == nil || c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" {
		t.Errorf("behind its gate: %+v", c)
	}
	_, err := client.Pods.In(w.root, "default").Mutate(t.Context(), "gated", "status", func(p *corev1.Pod) (bool, error) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: gate, Status: corev1.ConditionTrue})
		return true, nil
	})
	w.must(err)
	p = w.until("gated", "ready", isReady)
	if c := condition(p, gate); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("the gate's condition: %+v", c)
	}
}

// TestEnds: a hook that sleeps holds a container's end up, and a probe's own
// grace period takes the place of the pod's.
func TestEnds(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("sleeps", waits, "lifecycle: {preStop: {sleep: {seconds: 3}}}", "terminationGracePeriodSeconds: 20"))
	w.pod(shell("deaf", "trap '' TERM; while :; do sleep 1; done",
		"livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}", "terminationGracePeriodSeconds: 1000"))
	w.until("sleeps", "ready", isReady)
	begun := time.Now()
	w.delete("sleeps", 20)
	p := w.until("sleeps", "ended", func(p *corev1.Pod) bool { return p == nil || status(p, "c").State.Terminated != nil })
	if p == nil {
		t.Fatal("it went without saying how it ended")
	}
	// Times are told in whole seconds.
	if end := status(p, "c").State.Terminated; end.ExitCode != 0 || end.FinishedAt.Sub(begun) < 2*time.Second {
		t.Errorf("it ended %v after it was told to: %+v", end.FinishedAt.Sub(begun), end)
	}
	w.until("sleeps", "gone", gone)
	w.until("deaf", "killed for its probe", func(p *corev1.Pod) bool { return p != nil && status(p, "c").RestartCount >= 1 })
	w.delete("deaf", 0)
	w.until("deaf", "gone", gone)
}

// TestStopSignal: a container is stopped by the signal that it asks for, where
// the feature is on (KEP-4960).
func TestStopSignal(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("polite", "trap 'exit 7' USR1; trap '' TERM; while :; do sleep 0.1; done",
		"lifecycle: {stopSignal: SIGUSR1}", "os: {name: linux}\nterminationGracePeriodSeconds: 1000"))
	p := w.until("polite", "ready", isReady)
	if s := status(p, "c").StopSignal; s == nil || *s != corev1.SIGUSR1 {
		t.Errorf("the status tells of the signal %v", s)
	}
	w.delete("polite", 1000)
	p = w.until("polite", "ended", func(p *corev1.Pod) bool { return p == nil || status(p, "c").State.Terminated != nil })
	if p == nil || status(p, "c").State.Terminated.ExitCode != 7 {
		t.Errorf("it ended as %+v", p)
	}
	w.until("polite", "gone", gone)
}

// TestPidsLimit: a pod may have so many processes and no more.
func TestPidsLimit(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.change = func(c *kubelet.Config) { c.Containers.PidsLimit = 20 }
	w.startKubelet()
	p := w.pod(shell("many", "exec 2>&1; for i in $(seq 40); do sleep 1000 & done; sleep 1000", "", "restartPolicy: Never\nterminationGracePeriodSeconds: 1"))
	p = w.until(p.Name, "started", func(p *corev1.Pod) bool { return p != nil && (isReady(p) || status(p, "c").State.Terminated != nil) })
	w.logSays(p, "c", 0, "sh: can't fork: Resource temporarily unavailable")
}
