package kubelet_test

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
	"github.com/coxswain/cox/runtime"
)

// valve stands between a kubelet and its runtime. While it is shut, nothing
// passes and nothing fails; each piece of an answer may be delayed.
type valve struct {
	mu    sync.Mutex
	open  chan struct{} // closed when bytes pass
	delay time.Duration
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = make(chan struct{})
}

func (v *valve) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.open)
}

func (v *valve) slow(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.delay = d
}

func (v *valve) pass() {
	v.mu.Lock()
	open, delay := v.open, v.delay
	v.mu.Unlock()
	<-open
	time.Sleep(delay)
}

// between makes a socket that leads to another one through a valve.
func between(t *testing.T, to string) (*valve, string) {
	t.Helper()
	v := &valve{open: make(chan struct{})}
	close(v.open)
	path := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", strings.TrimPrefix(to, "unix://"))
			if err != nil {
				conn.Close()
				continue
			}
			carry := func(to, from net.Conn) {
				defer to.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := from.Read(buf)
					v.pass()
					if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}
			go carry(far, conn)
			go carry(conn, far)
		}
	}()
	return v, path
}

// TestSlowRuntime has a runtime that answers late and then not at all: the node
// says so, nothing is reported that is not so, and when it answers again all is
// caught up with.
func TestSlowRuntime(t *testing.T) {
	w := newWorld(t)
	w.stop()
	v, socket := between(t, w.rt.Endpoint())
	far, err := runtime.DialWithin(socket, 2*time.Second)
	w.must(err)
	t.Cleanup(func() { far.Close() })
	w.change = func(c *kubelet.Config) { c.Runtime, c.Images = far.CRI() }
	v.slow(30 * time.Millisecond)
	w.startKubelet()
	w.several(2)
	w.honest("p0")
	w.honest("p1")
	v.slow(0)

	v.shut()
	w.delete("p1", 2)
	w.pod(shell("late", waits, "", "terminationGracePeriodSeconds: 2"))
	w.untilNode("not ready", func(n *corev1.Node) bool { return !nodeReady(n) })
	p, err := client.Pods.In(w.root, "default").Get(t.Context(), "late")
	w.must(err)
	if p.Status.Phase == corev1.PodRunning || isReady(p) {
		t.Errorf("a pod that cannot run: %+v", p.Status)
	}
	if _, err := client.Pods.In(w.root, "default").Get(t.Context(), "p1"); err != nil {
		t.Errorf("a pod that still runs: %v", err)
	}
	v.release()
	w.untilNode("ready", nodeReady)
	w.until("p1", "gone", gone)
	w.honest("late")
	w.honest("p0")
	for _, name := range []string{"p0", "late"} {
		w.delete(name, 2)
	}
	for _, name := range []string{"p0", "late"} {
		w.until(name, "gone", gone)
	}
	w.noLeaks()
}

// untilNode waits for the node to be as wanted.
func (w *world) untilNode(what string, want func(*corev1.Node) bool) {
	w.t.Helper()
	nodes := client.Nodes.In(w.root, "")
	wi, err := nodes.Watch(w.t.Context(), client.Options{ResourceVersion: "0"})
	w.must(err)
	defer wi.Stop()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case e := <-wi.ResultChan():
			if n, ok := e.Object.(*corev1.Node); ok && n.Name == nodeName && want(n) {
				return
			}
		case <-limit:
			w.t.Fatalf("the node did not become %s", what)
		}
	}
}
