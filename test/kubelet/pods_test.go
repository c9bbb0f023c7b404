package kubelet_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
)

func TestPodLife(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	p := w.pod(`
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: cox.local/busybox:1
    command: [sh, -c, "echo hello; mkdir /www; echo hi > /www/index.html; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {httpGet: {path: /, port: 8080}}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
`)
	p = w.until("web", "ready", isReady)
	t.Logf("create to Ready: %v", time.Since(begin))
	if p.Status.PodIP == "" || p.Status.HostIP != "10.244.77.1" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("status %+v", p.Status)
	}
	if got := w.podLog(p, "web", 0); got != "hello\n" {
		t.Errorf("log %q", got)
	}
	begin = time.Now()
	w.delete("web", 1)
	w.until("web", "gone", gone)
	t.Logf("delete to gone: %v", time.Since(begin))
	if left, _ := filepath.Glob(filepath.Join(w.dir, "kubelet", "pods", "*", "volumes")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNode(t *testing.T) {
	w := newWorld(t)
	n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
	w.must(err)
	if n.Labels["kubernetes.io/hostname"] != nodeName || n.Status.Capacity.Memory().IsZero() || !strings.HasPrefix(n.Status.NodeInfo.ContainerRuntimeVersion, "containerd://") {
		t.Errorf("node %+v", n)
	}
	l, err := client.Leases.In(w.root, "kube-node-lease").Get(t.Context(), nodeName)
	w.must(err)
	if *l.Spec.HolderIdentity != nodeName {
		t.Errorf("lease %+v", l.Spec)
	}
	_ = os.Getpid
}
