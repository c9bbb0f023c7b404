package kubelet_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestRestartAllContainers has a container's exit restart the whole pod in its
// sandbox: init containers again, the address and the volumes kept.
func TestRestartAllContainers(t *testing.T) {
	w := newWorld(t)
	w.pod(`
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 60
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: i
    image: cox.local/busybox:1
    command: [sh, -c, "echo x >> /v/inits; echo \"COUNT='$(wc -l < /v/inits)'\" > /v/env"]
    volumeMounts: [{name: v, mountPath: /v}]
  containers:
  - name: c
    image: cox.local/busybox:1
    command: [sh, -c, "[ $COUNT = 2 ] || exit 88; while :; do sleep 1; done"]
    env: [{name: COUNT, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: COUNT}}}]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]
  - name: hangs
    image: cox.local/busybox:1
    command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 50"]}}}
`)
	p := w.until("p", "restarted", func(p *corev1.Pod) bool {
		return isReady(p) && status(p, "c").RestartCount == 1 && status(p, "hangs").RestartCount == 1
	})
	if last := status(p, "c").LastTerminationState.Terminated; last == nil || last.ExitCode != 88 {
		t.Errorf("how the container ended that asked for it: %+v", last)
	}
	if i := p.Status.InitContainerStatuses[0]; i.RestartCount != 1 || i.State.Terminated == nil {
		t.Errorf("the init container: %+v", i)
	}
	var told *corev1.PodCondition
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.AllContainersRestarting {
			told = &p.Status.Conditions[i]
		}
	}
	if told == nil || told.Status != corev1.ConditionFalse || told.Message != "Container c exited with code 88, triggering pod restart" {
		t.Errorf("condition: %+v", told)
	}
	if n := len(w.shims()); n != 1 {
		t.Errorf("%d sandboxes", n)
	}
	w.delete("p", 1)
	w.until("p", "gone", gone)
	w.noLeaks()
}

// TestEnvFiles has variables come from files that others wrote (KEP-3721).
func TestEnvFiles(t *testing.T) {
	w := newWorld(t)
	pod := func(name, file, key, more string) {
		w.pod(`
metadata: {name: ` + name + `}
spec:
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: i, image: "cox.local/busybox:1", command: [sh, -c, ` + quote(file) + `], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: c
    image: cox.local/busybox:1
    command: [sh, -c, 'echo "[$X]"']
    env: [{name: X, valueFrom: {fileKeyRef: {volumeName: v, path: d/env, key: ` + key + more + `}}}]
`)
	}
	good := `mkdir /v/d; printf "A='1 2\n3'" > /v/d/env`
	pod("good", good, "A", "")
	pod("optional-key", good, "B", ", optional: true")
	pod("optional-file", "true", "B", ", optional: true")
	for name, want := range map[string]string{"good": "[1 2\n3]\n", "optional-key": "[]\n", "optional-file": "[]\n"} {
		p := w.until(name, "succeeded", inPhase(corev1.PodSucceeded))
		w.logSays(p, "c", 0, want)
	}
	pod("no-key", good, "B", "")
	pod("no-env", "mkdir /v/d; echo A=1 > /v/d/env", "A", "")
	pod("outside", "ln -s /etc /v/d; echo x > /v/env", "A", "")
	for name, want := range map[string]string{"no-key": `key "B" not found`, "no-env": "single quotes", "outside": "couldn't parse env file"} {
		p := w.until(name, "refused", waiting("c", "CreateContainerConfigError"))
		if got := status(p, "c").State.Waiting.Message; !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
