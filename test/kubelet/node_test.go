package kubelet_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// TestRestart ends the kubelet and starts another: containers run on and are
// found again, what happened meanwhile is caught up with.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("stays", "sleep 1000", "readinessProbe: {exec: {command: ['true']}}", "terminationGracePeriodSeconds: 1"))
	w.pod(shell("deleted", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	w.pod(shell("forced", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	w.pod(shell("ends", "while ! test -e /data/end; do sleep 0.1; done", "volumeMounts: [{name: data, mountPath: /data}]", "restartPolicy: Never\nvolumes: [{name: data, emptyDir: {}}]"))
	stays := w.until("stays", "ready", isReady)
	w.until("deleted", "ready", isReady)
	w.until("forced", "ready", isReady)
	ends := w.until("ends", "ready", isReady)
	w.stop()

	w.must(os.WriteFile(filepath.Join(w.dir, "kubelet/pods", string(ends.UID), "volumes/kubernetes.io~empty-dir/data/end"), nil, 0o644))
	w.delete("deleted", 1)
	w.delete("forced", 0)
	w.startKubelet()
	w.until("deleted", "gone", gone)
	w.until("ends", "done", inPhase(corev1.PodSucceeded))
	p := w.until("stays", "ready", isReady)
	if a, b := status(stays, "c"), status(p, "c"); a.ContainerID != b.ContainerID || b.RestartCount != 0 || !isReady(p) {
		t.Errorf("before %+v, after %+v", a, b)
	}
	for _, c := range p.Status.Conditions {
		for _, o := range stays.Status.Conditions {
			if c.Type == o.Type && !c.LastTransitionTime.Equal(&o.LastTransitionTime) {
				t.Errorf("condition %s changed at %v, was %v", c.Type, c.LastTransitionTime, o.LastTransitionTime)
			}
		}
	}
	w.delete("stays", 1)
	w.delete("ends", 1)
	w.until("stays", "gone", gone)
	w.until("ends", "gone", gone)
	w.empty()
}

// TestContent changes what a running pod's volumes show.
func TestContent(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	cms := client.ConfigMaps.In(w.root, "default")
	_, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default"}, Data: map[string]string{"a": "one", "gone": "x"}})
	w.must(err)
	w.pod(shell("content", "while ! grep -q two /v/a; do sleep 0.05; done; test -e /v/gone || echo clean; cat /labels/labels; while ! grep -q more /labels/labels; do sleep 0.05; done; echo seen", `volumeMounts:
- {name: cm, mountPath: /v}
- {name: d, mountPath: /labels}`, `restartPolicy: Never
volumes:
- {name: cm, configMap: {name: cm}}
- {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}`))
	w.pod(shell("late", "cat /v/k", "volumeMounts: [{name: s, mountPath: /v}]", "restartPolicy: Never\nvolumes: [{name: s, secret: {secretName: late}}]"))
	w.until("content", "running", isReady)
	_, err = cms.Mutate(ctx, "cm", "", func(cm *corev1.ConfigMap) (bool, error) {
		cm.Data = map[string]string{"a": "two"}
		return true, nil
	})
	w.must(err)
	_, err = client.Pods.In(w.root, "default").Mutate(ctx, "content", "", func(p *corev1.Pod) (bool, error) {
		p.Labels = map[string]string{"more": "yes"}
		return true, nil
	})
	w.must(err)
	p := w.until("content", "done", inPhase(corev1.PodSucceeded))
	wantLog("clean\n", "seen\n")(t, w, p)
	// A pod that waits for an object goes on as soon as it is there.
	_, err = client.Secrets.In(w.root, "default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "default"}, Data: map[string][]byte{"k": []byte("here")}})
	w.must(err)
	wantLog("here")(t, w, w.until("late", "done", inPhase(corev1.PodSucceeded)))
}

// TestStatic runs a pod from the folder, with its mirror in the API.
func TestStatic(t *testing.T) {
	w := newWorld(t)
	write := func(script string) {
		manifest := "apiVersion: v1\nkind: Pod\n" + shell("fixed", script, "", "terminationGracePeriodSeconds: 1")
		tmp := filepath.Join(w.static, ".tmp")
		w.must(os.WriteFile(tmp, []byte(manifest), 0o600))
		w.must(os.Rename(tmp, filepath.Join(w.static, "fixed.yaml")))
	}
	write("sleep 1000")
	name := "fixed-" + nodeName
	p := w.until(name, "ready", isReady)
	if p.Annotations["kubernetes.io/config.source"] != "file" || p.Annotations["kubernetes.io/config.mirror"] == "" {
		t.Errorf("annotations %v", p.Annotations)
	}
	id := status(p, "c").ContainerID
	// Deleting the mirror does nothing to the pod.
	w.delete(name, 0)
	p = w.until(name, "back", func(n *corev1.Pod) bool { return n != nil && n.UID != p.UID && isReady(n) })
	if got := status(p, "c").ContainerID; got != id {
		t.Errorf("container %s, was %s", got, id)
	}
	// A changed manifest is another pod.
	write("sleep 2000")
	w.until(name, "replaced", func(n *corev1.Pod) bool {
		return n != nil && n.UID != p.UID && isReady(n) && status(n, "c").ContainerID != id
	})
	w.must(os.Remove(filepath.Join(w.static, "fixed.yaml")))
	w.until(name, "gone", gone)
	w.empty()
}

// TestEphemeral adds a debugging container to a running pod.
func TestEphemeral(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("target", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	w.until("target", "ready", isReady)
	_, err := client.Pods.In(w.root, "default").Mutate(t.Context(), "target", "ephemeralcontainers", func(p *corev1.Pod) (bool, error) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
			TargetContainerName:      "c",
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "cox.local/busybox:1", Command: []string{"sh", "-c", "cat /proc/1/cmdline"}},
		}}
		return true, nil
	})
	w.must(err)
	p := w.until("target", "debugged", func(p *corev1.Pod) bool { return status(p, "debug").State.Terminated != nil })
	w.logSays(p, "debug", 0, "sleep")
	if !isReady(p) {
		t.Error("the pod is no longer ready")
	}
}

// TestGrace kills a process that does not want to end, and is told in the
// middle to hurry.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("stubborn", "trap '' TERM; while :; do sleep 0.1; done", "", "terminationGracePeriodSeconds: 60"))
	w.until("stubborn", "ready", isReady)
	begin := time.Now()
	w.delete("stubborn", 60)
	p := w.until("stubborn", "terminating", func(p *corev1.Pod) bool { return p != nil && p.DeletionTimestamp != nil })
	if status(p, "c").State.Running == nil {
		t.Errorf("state %+v", status(p, "c").State)
	}
	w.delete("stubborn", 1)
	w.until("stubborn", "gone", gone)
	if d := time.Since(begin); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
	w.empty()
}
