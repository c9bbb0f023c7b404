package kubelet_test

import (
	"fmt"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestKilledShimMidway kills shims while their pods start, and while they end.
func TestKilledShimMidway(t *testing.T) {
	w := newWorld(t)
	const n = 3
	w.several(n)
	w.eventually("a shim", func() bool { return len(w.shims()) > 0 })
	w.kill(w.shims().first())
	for i := range n {
		w.honest(fmt.Sprintf("p%d", i))
	}
	// These wait for the grace period's end, and so for the shims' death.
	w.pod(shell("stubborn", "trap '' TERM; while :; do sleep 0.1; done", "", "terminationGracePeriodSeconds: 60"))
	w.until("stubborn", "ready", isReady)
	for i := range n {
		w.delete(fmt.Sprintf("p%d", i), 2)
	}
	w.delete("stubborn", 60)
	w.untilEvent("stubborn", "Stopping container")
	for _, pid := range w.shims() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // some have ended by now
	}
	for i := range n {
		w.until(fmt.Sprintf("p%d", i), "gone", gone)
	}
	w.until("stubborn", "gone", gone)
	w.noLeaks()
}

// TestKilledProcessMidway kills a container's first process while its postStart
// hook runs, which starts the container anew, and while its preStop hook runs,
// which ends the pod long before its grace period does.
func TestKilledProcessMidway(t *testing.T) {
	w := newWorld(t)
	const mainly = "trap '' TERM; while :; do sleep 0.1; done"
	w.pod(shell("p0", mainly, `lifecycle:
  postStart: {exec: {command: [sh, -c, "touch /data/began; test -e /data/again && exit; touch /data/again; while :; do sleep 0.1; done"]}}
  preStop: {exec: {command: [sh, -c, "touch /data/ending; while :; do sleep 0.1; done"]}}
volumeMounts: [{name: data, mountPath: /data}]`, "terminationGracePeriodSeconds: 600\nvolumes: [{name: data, emptyDir: {}}]"))
	w.eventually("a postStart hook that runs", func() bool {
		return w.process("touch /data/began; test -e /data/again && exit; touch /data/again; while :; do sleep 0.1; done") != 0
	})
	w.kill(w.process(mainly))
	p := w.until("p0", "ready after a restart", func(p *corev1.Pod) bool { return isReady(p) && status(p, "c").RestartCount > 0 })
	w.honest(p.Name)
	w.delete("p0", 600)
	w.eventually("a preStop hook that runs", func() bool { return w.process("touch /data/ending; while :; do sleep 0.1; done") != 0 })
	w.kill(w.process(mainly))
	w.until("p0", "gone", gone)
	w.noLeaks()
}

// TestHung has containers of which nothing ends when it is told to: not the
// first process, not one that left its session, not the hook, not the probe.
// The grace period ends them all, whoever is there to see it.
func TestHung(t *testing.T) {
	w := newWorld(t)
	const deaf = "trap '' TERM INT HUP; while :; do sleep 0.1; done"
	for i := range 2 {
		w.pod(shell(fmt.Sprintf("p%d", i), "setsid sh -c \""+deaf+"\" & "+deaf, `livenessProbe: {exec: {command: [sh, -c, "`+deaf+`"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1000}
lifecycle: {preStop: {exec: {command: [sh, -c, "touch /ending; `+deaf+`"]}}}`, ""))
	}
	for i := range 2 {
		w.until(fmt.Sprintf("p%d", i), "ready", isReady)
	}
	w.delete("p0", 2)
	w.until("p0", "gone", gone)
	w.delete("p1", 4)
	w.eventually("a preStop hook that hangs", func() bool { return w.process("touch /ending; "+deaf) != 0 })
	w.stop()
	w.kill(w.containerd())
	w.startKubelet()
	w.until("p1", "gone", gone)
	w.noLeaks()
}
