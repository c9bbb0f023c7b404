package kubelet_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
)

func wasEvicted(p *corev1.Pod) bool {
	return p != nil && p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted"
}

// TestStorageLimits: what writes more than it may is evicted.
func TestStorageLimits(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("volume", "head -c 3000000 /dev/zero > /data/x; sleep 1000", "volumeMounts: [{name: data, mountPath: /data}]", "volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]"))
	w.pod(shell("layer", "head -c 3000000 /dev/zero > /tmp/x; sleep 1000", "resources: {limits: {ephemeral-storage: 1Mi}}", ""))
	p := w.until("volume", "evicted", wasEvicted)
	if p.Status.Message != `Usage of EmptyDir volume "data" exceeds the limit "1Mi". ` {
		t.Errorf("message %q", p.Status.Message)
	}
	if c := condition(p, corev1.DisruptionTarget); c != nil {
		t.Errorf("condition %+v although the pod itself wrote too much", c)
	}
	p = w.until("layer", "evicted", wasEvicted)
	if !strings.Contains(p.Status.Message, "ephemeral local storage usage exceeds the total limit of containers 1Mi") {
		t.Errorf("message %q", p.Status.Message)
	}
	if !hasEvent(w, "volume", "Warning Evicted") {
		t.Errorf("events %q", w.events("volume"))
	}
}

// TestNodePressure: a node with too little disk left says so, evicts the
// least important pod, and takes none.
func TestNodePressure(t *testing.T) {
	w := newWorld(t)
	links := filepath.Join(w.dir, "containers")
	w.pod(shell("critical", "sleep 1000", "", "priority: 2000000000\nterminationGracePeriodSeconds: 1"))
	w.pod(shell("small", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	w.until("critical", "ready", isReady)
	w.until("small", "ready", isReady)
	w.stop()
	w.change = func(c *kubelet.Config) {
		c.Eviction = kubelet.Eviction{
			Thresholds: []kubelet.Threshold{{Signal: kubelet.SignalNodeFS, Limit: kubelet.Amount{Share: 0.9999}}}, Transition: time.Hour,
		}
		c.ContainerLogDir = links
	}
	w.startKubelet()
	p := w.until("small", "evicted", wasEvicted)
	if c := condition(p, corev1.DisruptionTarget); c == nil || c.Reason != corev1.PodReasonTerminationByKubelet || c.Status != corev1.ConditionTrue {
		t.Errorf("condition %+v", c)
	}
	if !strings.HasPrefix(p.Status.Message, "The node was low on resource: ephemeral-storage. Threshold quantity: ") {
		t.Errorf("message %q", p.Status.Message)
	}
	w.pod(shell("late", "sleep 1000", "", ""))
	p = w.until("late", "refused", wasEvicted)
	if p.Status.Message != "Pod was rejected: The node had condition: [DiskPressure]. " {
		t.Errorf("message %q", p.Status.Message)
	}
	n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
	w.must(err)
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeDiskPressure && (c.Status != corev1.ConditionTrue || c.Reason != "KubeletHasDiskPressure") {
			t.Errorf("%+v", c)
		}
	}
	// A critical pod is left alone, and a new one is let in; its log is linked.
	w.pod(shell("important", "echo hi; sleep 1000", "", "priority: 2000000000\nterminationGracePeriodSeconds: 1"))
	p = w.until("important", "ready", isReady)
	id := strings.TrimPrefix(status(p, "c").ContainerID, "containerd://")
	link := filepath.Join(links, "important_default_c-"+id+".log")
	if _, err := os.Stat(link); err != nil {
		t.Error(err)
	}
	if p := w.until("critical", "there", func(p *corev1.Pod) bool { return p != nil }); !isReady(p) {
		t.Errorf("critical: %+v", p.Status)
	}
	w.delete("important", 1)
	w.until("important", "gone", gone)
	for range 200 { // the API forgets the pod before the node does
		if _, err = os.Lstat(link); err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !os.IsNotExist(err) {
		t.Errorf("link of a log that is gone: %v", err)
	}
}

// TestInodePressure: a pod that takes the last inodes of the node's file system
// is evicted, not the one beside it, and when its files are gone the node takes
// pods again.
func TestInodePressure(t *testing.T) {
	w := newWorld(t)
	w.stop()
	root := filepath.Join(w.dir, "kubelet")
	w.must(unix.Mount("tmpfs", root, "tmpfs", 0, "nr_inodes=600"))
	w.must(unix.Mount("", root, "", unix.MS_SHARED, ""))
	w.change = func(c *kubelet.Config) {
		c.Eviction = kubelet.Eviction{
			Thresholds: []kubelet.Threshold{{Signal: kubelet.SignalNodeInodes, Limit: kubelet.Amount{Quantity: 200}}}, Transition: time.Second,
		}
	}
	w.startKubelet()
	w.pod(shell("beside", waits, "", "terminationGracePeriodSeconds: 1"))
	w.until("beside", "ready", isReady)
	w.pod(shell("hog", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); : > /data/$i; done; sleep 1000",
		"volumeMounts: [{name: data, mountPath: /data}]", "terminationGracePeriodSeconds: 1\nvolumes: [{name: data, emptyDir: {}}]"))
	p := w.until("hog", "evicted", wasEvicted)
	if !strings.HasPrefix(p.Status.Message, "The node was low on resource: inodes. Threshold quantity: 200, available: ") {
		t.Errorf("message %q", p.Status.Message)
	}
	w.delete("hog", 1)
	w.until("hog", "gone", gone)
	w.eventually("the node is short of nothing", func() bool {
		n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
		w.must(err)
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionFalse && c.Reason == "KubeletHasNoDiskPressure"
		})
	})
	w.pod(shell("late", waits, "", "terminationGracePeriodSeconds: 1"))
	w.honest("late")
	w.honest("beside")
	for _, name := range []string{"beside", "late"} {
		w.delete(name, 1)
		w.until(name, "gone", gone)
	}
	w.stop()
	w.must(unix.Unmount(root, unix.MNT_DETACH))
}
