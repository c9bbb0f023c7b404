package kubelet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coxswain/cox/kubelet"
)

// nodeCondition says that the node has a condition, for a reason.
func (w *world) nodeCondition(t corev1.NodeConditionType, status corev1.ConditionStatus, reason string) func() bool {
	return func() bool {
		for _, c := range w.node().Status.Conditions {
			if c.Type == t {
				return c.Status == status && c.Reason == reason
			}
		}
		return false
	}
}

// TestMemoryPressure: pods that use up what the node has for pods make it evict
// the one that uses more than it asked for, and take none that asks for none.
func TestMemoryPressure(t *testing.T) {
	w := newWorld(t)
	w.stop()
	var info unix.Sysinfo_t
	w.must(unix.Sysinfo(&info))
	total := int64(info.Totalram) * int64(info.Unit)
	w.change = func(c *kubelet.Config) {
		// What others on this machine use decides nothing.
		c.Reserved = corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(total-400<<20, resource.BinarySI)}
		c.Eviction = kubelet.Eviction{
			Thresholds: []kubelet.Threshold{{Signal: kubelet.SignalAllocatableMemory, Limit: kubelet.Amount{Quantity: 100 << 20}}}, Transition: time.Hour,
		}
	}
	w.startKubelet()
	takes := func(mega int) string {
		return fmt.Sprintf("head -c %dm /dev/zero > /memory/x; echo full; sleep 1000", mega)
	}
	const volume = "\nvolumes: [{name: m, emptyDir: {medium: Memory}}]"
	const mount = "volumeMounts: [{name: m, mountPath: /memory}]"
	w.pod(shell("modest", takes(70), mount+"\nresources: {requests: {memory: 100Mi}}", "terminationGracePeriodSeconds: 1"+volume))
	w.logSays(w.until("modest", "ready", isReady), "c", 0, "full")
	w.pod(shell("hog", takes(260), mount, "terminationGracePeriodSeconds: 1"+volume))
	p := w.until("hog", "evicted", wasEvicted)
	for _, want := range []string{"The node was low on resource: memory. Threshold quantity: 100Mi, available: ", "Container c was using ", "request is 0, has larger consumption of memory. "} {
		if !strings.Contains(p.Status.Message, want) {
			t.Errorf("message %q, want %q", p.Status.Message, want)
		}
	}
	w.eventually("the node is short of memory", w.nodeCondition(corev1.NodeMemoryPressure, corev1.ConditionTrue, "KubeletHasInsufficientMemory"))
	w.pod(shell("late", waits, "", "terminationGracePeriodSeconds: 1"))
	if p = w.until("late", "refused", wasEvicted); p.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("message %q", p.Status.Message)
	}
	w.pod(shell("asking", waits, "resources: {requests: {memory: 1Mi}}", "terminationGracePeriodSeconds: 1"))
	w.honest("asking")
	w.honest("modest")
}

// TestPIDPressure: a pod that takes the machine's last process ids is evicted,
// the one beside it is not, and then the node takes pods again.
func TestPIDPressure(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("beside", waits, "", "terminationGracePeriodSeconds: 1"))
	w.until("beside", "ready", isReady)
	w.stop()
	most, tasks := processIDs(t)
	w.change = func(c *kubelet.Config) {
		c.Eviction = kubelet.Eviction{
			Thresholds: []kubelet.Threshold{{Signal: kubelet.SignalPIDs, Limit: kubelet.Amount{Quantity: most - tasks - 1500}}}, Transition: time.Second,
		}
	}
	w.startKubelet()
	w.pod(shell("hog", "mkfifo /tmp/never; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); (: < /tmp/never) & done; sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	p := w.until("hog", "evicted", wasEvicted)
	if !strings.HasPrefix(p.Status.Message, "The node was low on resource: pids. Threshold quantity: ") {
		t.Errorf("message %q", p.Status.Message)
	}
	w.eventually("the node is short of nothing", w.nodeCondition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"))
	w.pod(shell("late", waits, "", "terminationGracePeriodSeconds: 1"))
	w.honest("late")
	w.honest("beside")
}

// processIDs is how many there are, and how many tasks have one.
func processIDs(t *testing.T) (most, tasks int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err == nil {
		most, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile("/proc/sys/kernel/threads-max"); err == nil {
		n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		most = min(most, n)
	}
	text, err = os.ReadFile("/proc/loadavg")
	if err == nil {
		_, all, _ := strings.Cut(strings.Fields(string(text))[3], "/")
		tasks, err = strconv.ParseInt(all, 10, 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	return most, tasks
}

// TestHugePagesOfPods: a pod has the huge pages that it asks for and no more.
func TestHugePagesOfPods(t *testing.T) {
	const knob = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	was, err := os.ReadFile(knob)
	if err != nil {
		t.Skip("this kernel has no huge pages of 2 MiB")
	}
	w := newWorld(t)
	t.Cleanup(func() { w.must(os.WriteFile(knob, was, 0)) })
	w.must(os.WriteFile(knob, []byte("16"), 0))
	if now, err := os.ReadFile(knob); err != nil || strings.TrimSpace(string(now)) != "16" {
		t.Skip("the machine's memory is too much in pieces for huge pages")
	}
	w.stop()
	w.startKubelet()
	if q := w.node().Status.Capacity["hugepages-2Mi"]; q.Value() != 32<<20 {
		t.Errorf("the node has huge pages of %s in all", &q)
	}
	w.pod(shell("p", "fallocate -l 4m /huge/a && echo has; fallocate -l 2m /huge/b 2>/dev/null || echo refused; rm /huge/*; sleep 1000",
		"volumeMounts: [{name: h, mountPath: /huge}]\nresources: {requests: {memory: 16Mi}, limits: {memory: 32Mi, hugepages-2Mi: 4Mi}}",
		"terminationGracePeriodSeconds: 1\nvolumes: [{name: h, emptyDir: {medium: HugePages}}]"))
	p := w.until("p", "ready", isReady)
	w.logSays(p, "c", 0, "has", "refused")
	w.delete("p", 1)
	w.until("p", "gone", gone)
	w.noLeaks()
}

// TestProcMount: the kernel's timers and settings are hidden from a container
// unless it asks to see /proc as it is (KEP-4265). The API allows that only with
// users of the pod's own, which not every runtime can give: so the pod that
// asks is a static one.
func TestProcMount(t *testing.T) {
	w := newWorld(t)
	out := t.TempDir()
	script := "[ -c /proc/timer_list ] && echo hidden > /out/$KIND; [ -f /proc/timer_list ] && echo shown > /out/$KIND; grep -q ' /proc/sys .*ro,' /proc/mounts && echo fixed >> /out/$KIND; sleep 1000"
	more := func(kind, mount string) string {
		return "env: [{name: KIND, value: " + kind + "}]\nvolumeMounts: [{name: out, mountPath: /out}]\nsecurityContext: {procMount: " + mount + "}"
	}
	spec := "terminationGracePeriodSeconds: 1\nvolumes: [{name: out, hostPath: {path: " + out + "}}]"
	w.pod(shell("masked", script, more("masked", "Default"), spec))
	tmp := filepath.Join(w.static, ".tmp")
	w.must(os.WriteFile(tmp, []byte("apiVersion: v1\nkind: Pod\n"+shell("unmasked", script, more("unmasked", "Unmasked"), spec)), 0o600))
	w.must(os.Rename(tmp, filepath.Join(w.static, "unmasked.yaml")))
	for kind, want := range map[string]string{"masked": "hidden\nfixed\n", "unmasked": "shown\n"} {
		var got []byte
		w.eventually(kind+" has looked", func() bool {
			got, _ = os.ReadFile(filepath.Join(out, kind))
			return string(got) == want
		})
	}
	w.must(os.Remove(filepath.Join(w.static, "unmasked.yaml")))
	w.delete("masked", 1)
	w.until("masked", "gone", gone)
	w.noLeaks()
}
