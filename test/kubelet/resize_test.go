package kubelet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// resize asks for other resources of container c.
func (w *world) resize(name, resources string) *corev1.Pod {
	w.t.Helper()
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"c","resources":%s}]}}`, resources)
	p, err := client.Pods.In(w.root, "default").Patch(w.t.Context(), name, types.StrategicMergePatchType, []byte(patch), client.Sub("resize"))
	w.must(err)
	return p
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// resized says that a pod of one generation shows cpu and memory limits and
// has no resize left.
func resized(generation int64, cpu, memory string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		if p == nil {
			return false
		}
		st := status(p, "c")
		return p.Status.ObservedGeneration >= generation && st.State.Running != nil && st.Resources != nil &&
			st.Resources.Limits.Cpu().String() == cpu && st.Resources.Limits.Memory().String() == memory &&
			condition(p, corev1.PodResizePending) == nil && condition(p, corev1.PodResizeInProgress) == nil
	}
}

// memoryLimit reads what the kernel holds a pod and its container to, in
// bytes.
func (w *world) memoryLimits(p *corev1.Pod) (pod, container string) {
	w.t.Helper()
	class := ""
	if p.Status.QOSClass == corev1.PodQOSBurstable {
		class = "burstable"
	}
	for _, l := range []struct{ root, file string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		dir := filepath.Join(l.root, w.rtCfg.CgroupRoot, "kubepods", class, "pod"+string(p.UID))
		b, err := os.ReadFile(filepath.Join(dir, l.file))
		if err != nil {
			continue
		}
		id := strings.TrimPrefix(status(p, "c").ContainerID, "containerd://")
		c, err := os.ReadFile(filepath.Join(dir, id, l.file))
		w.must(err)
		return strings.TrimSpace(string(b)), strings.TrimSpace(string(c))
	}
	w.t.Fatal("the pod has no memory cgroup")
	return "", ""
}

func TestResize(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("r", "sleep 1000", `
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 20m, memory: 32Mi}}
resizePolicy: [{resourceName: memory, restartPolicy: NotRequired}]
`, "terminationGracePeriodSeconds: 1"))
	w.until("r", "ready", isReady)

	p := w.resize("r", `{"requests":{"cpu":"15m","memory":"24Mi"},"limits":{"cpu":"30m","memory":"64Mi"}}`)
	p = w.until("r", "resized", resized(p.Generation, "30m", "64Mi"))
	if st := status(p, "c"); st.RestartCount != 0 || st.AllocatedResources.Cpu().String() != "15m" || st.AllocatedResources.Memory().String() != "24Mi" {
		t.Errorf("after the resize: %+v", st)
	}
	if pod, c := w.memoryLimits(p); pod != fmt.Sprint(64<<20) || c != fmt.Sprint(64<<20) {
		t.Errorf("limits of memory: pod %s, container %s", pod, c)
	}

	// What the node has not is refused for good and leaves all as it is.
	w.resize("r", `{"requests":{"cpu":"5000"},"limits":{"cpu":"5000"}}`)
	p = w.until("r", "infeasible", func(p *corev1.Pod) bool {
		c := condition(p, corev1.PodResizePending)
		return c != nil && c.Reason == corev1.PodReasonInfeasible && c.ObservedGeneration == p.Generation
	})
	if m := condition(p, corev1.PodResizePending).Message; !strings.HasPrefix(m, "Node didn't have enough capacity: cpu, requested: 5000000, capacity: ") {
		t.Errorf("message %q", m)
	}
	if st := status(p, "c"); st.Resources.Limits.Cpu().String() != "30m" || st.AllocatedResources.Cpu().String() != "15m" {
		t.Errorf("a refused resize shows as granted: %+v", st)
	}

	// A kubelet that comes anew knows what it had granted, and grants less.
	w.stop()
	w.startKubelet()
	p = w.resize("r", `{"requests":{"cpu":"10m"},"limits":{"cpu":"20m","memory":"48Mi"}}`)
	p = w.until("r", "resized after a restart of the kubelet", resized(p.Generation, "20m", "48Mi"))
	if status(p, "c").RestartCount != 0 {
		t.Error("restarted")
	}
	if pod, c := w.memoryLimits(p); pod != fmt.Sprint(48<<20) || c != fmt.Sprint(48<<20) {
		t.Errorf("limits of memory: pod %s, container %s", pod, c)
	}
	for _, e := range []string{"ResizeStarted", "ResizeCompleted", "ResizeInfeasible"} {
		if !hasEvent(w, "r", e) {
			t.Errorf("no event %s: %q", e, w.events("r"))
		}
	}
	w.delete("r", 1)
	w.until("r", "gone", gone)
	w.empty()
}

func TestResizeByRestart(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("r", "sleep 1000", `
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 20m, memory: 32Mi}}
resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
`, "terminationGracePeriodSeconds: 1"))
	w.until("r", "ready", isReady)
	p := w.resize("r", `{"requests":{"memory":"24Mi"},"limits":{"memory":"64Mi"}}`)
	p = w.until("r", "resized", resized(p.Generation, "20m", "64Mi"))
	if n := status(p, "c").RestartCount; n != 1 {
		t.Errorf("%d restarts", n)
	}
	if pod, c := w.memoryLimits(p); pod != fmt.Sprint(64<<20) || c != fmt.Sprint(64<<20) {
		t.Errorf("limits of memory: pod %s, container %s", pod, c)
	}
	if !hasEvent(w, "r", "Container c resize requires restart") {
		t.Errorf("events %q", w.events("r"))
	}
	// The pod's group is widened before the container starts: cgroups v1 takes
	// no larger share of CPU time in a group than above it.
	w.pod(shell("cpu", "sleep 1000", `
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 20m, memory: 32Mi}}
resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]
`, "terminationGracePeriodSeconds: 1"))
	w.until("cpu", "ready", isReady)
	p = w.resize("cpu", `{"limits":{"cpu":"50m"}}`)
	p = w.until("cpu", "resized", resized(p.Generation, "50m", "32Mi"))
	if n := status(p, "c").RestartCount; n != 1 || hasEvent(w, "cpu", "Failed") {
		t.Errorf("%d restarts, events %q", n, w.events("cpu"))
	}
}

// TestResizeDeferred: what another pod has is waited for.
func TestResizeDeferred(t *testing.T) {
	w := newWorld(t)
	n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
	w.must(err)
	most := n.Status.Allocatable.Cpu().MilliValue()
	w.pod(shell("big", "sleep 1000", fmt.Sprintf("resources: {requests: {cpu: %dm}}", most-200), "terminationGracePeriodSeconds: 1"))
	w.pod(shell("r", "sleep 1000", "resources: {requests: {cpu: 10m}, limits: {cpu: 1, memory: 32Mi}}", "terminationGracePeriodSeconds: 1"))
	w.until("big", "ready", isReady)
	w.until("r", "ready", isReady)
	p := w.resize("r", `{"requests":{"cpu":"300m"}}`)
	w.until("r", "deferred", func(p *corev1.Pod) bool {
		c := condition(p, corev1.PodResizePending)
		return c != nil && c.Reason == corev1.PodReasonDeferred && strings.HasPrefix(c.Message, "Node didn't have enough resource: cpu, requested: 300, used: ")
	})
	w.delete("big", 0)
	p = w.until("r", "resized", resized(p.Generation, "1", "32Mi"))
	if a := status(p, "c").AllocatedResources.Cpu().String(); a != "300m" {
		t.Errorf("allocated %s", a)
	}
}

// TestResizeInit: an init container that runs is resized too, and what one
// gets that has not run yet counts when it does.
func TestResizeInit(t *testing.T) {
	w := newWorld(t)
	w.pod(`
metadata: {name: r}
spec:
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: c
    image: cox.local/busybox:1
    command: [sh, -c, "while ! [ -e /v/go ]; do sleep 0.1; done"]
    volumeMounts: [{name: v, mountPath: /v}]
    resources: {requests: {memory: 16Mi}, limits: {memory: 32Mi}}
  - name: later
    image: cox.local/busybox:1
    command: [sh, -c, "sleep 1000"]
    resources: {requests: {memory: 16Mi}, limits: {memory: 32Mi}}
  containers: [{name: app, image: "cox.local/busybox:1", command: [sh, -c, "true"]}]
`)
	running := func(name string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool { return p != nil && status(p, name).State.Running != nil }
	}
	w.until("r", "initializing", running("c"))
	patch := `{"spec":{"initContainers":[{"name":"c","resources":{"limits":{"memory":"48Mi"}}},{"name":"later","resources":{"limits":{"memory":"64Mi"}}}]}}`
	p, err := client.Pods.In(w.root, "default").Patch(t.Context(), "r", types.StrategicMergePatchType, []byte(patch), client.Sub("resize"))
	w.must(err)
	p = w.until("r", "resized", resized(p.Generation, "0", "48Mi"))
	if _, c := w.memoryLimits(p); c != fmt.Sprint(48<<20) {
		t.Errorf("limit of memory of the first: %s", c)
	}
	if _, err := w.exec(p, "c", "sh", "-c", "> /v/go"); err != nil {
		t.Fatal(err)
	}
	p = w.until("r", "at the second", running("later"))
	if l := status(p, "later").Resources.Limits.Memory().String(); l != "64Mi" || status(p, "c").RestartCount != 0 {
		t.Errorf("limit of memory of the second: %s; first: %+v", l, status(p, "c"))
	}
}

// TestResizePod: a container without a limit of its own has that of the pod as
// a whole, and gets the new one with it (KEP-2837, KEP-5419).
func TestResizePod(t *testing.T) {
	w := newWorld(t)
	w.pod(`
metadata: {name: r}
spec:
  terminationGracePeriodSeconds: 1
  resources: {requests: {memory: 16Mi}, limits: {memory: 32Mi}}
  containers: [{name: c, image: "cox.local/busybox:1", command: [sh, -c, "sleep 1000"]}]
`)
	p := w.until("r", "ready", isReady)
	check := func(when string, bytes int64) {
		t.Helper()
		if pod, c := w.memoryLimits(p); pod != fmt.Sprint(bytes) || c != fmt.Sprint(bytes) {
			t.Errorf("%s: limits of memory: pod %s, container %s, want %d", when, pod, c, bytes)
		}
	}
	check("at first", 32<<20)
	for _, mebi := range []int64{64, 48} {
		patch := fmt.Sprintf(`{"spec":{"resources":{"limits":{"memory":"%dMi"}}}}`, mebi)
		asked, err := client.Pods.In(w.root, "default").Patch(t.Context(), "r", types.StrategicMergePatchType, []byte(patch), client.Sub("resize"))
		w.must(err)
		p = w.until("r", "resized", func(p *corev1.Pod) bool {
			return p.Status.ObservedGeneration >= asked.Generation && p.Status.Resources != nil &&
				p.Status.Resources.Limits.Memory().Value() == mebi<<20 && condition(p, corev1.PodResizeInProgress) == nil
		})
		check("resized", mebi<<20)
	}
	if n := status(p, "c").RestartCount; n != 0 {
		t.Errorf("%d restarts", n)
	}
}
