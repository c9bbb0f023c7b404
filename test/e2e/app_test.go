package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestGuestbook takes examples/guestbook through what a real application
// meets: a new version under load, a crash, a lost pod, and cox's own death.
// Its steps build on one another.
func TestGuestbook(t *testing.T) {
	c := sharedCluster(t)
	app := deployGuestbook(t, c)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *application)
	}{
		{"visitor", visitorWrites},
		{"new version under load", rollsUnderLoad},
		{"crash", crashIsRestarted},
		{"data survive a crash", redisKeepsItsData},
		{"lost pod", podIsReplaced},
		{"cox killed", servesWithoutCox},
		{"cox down and up", returnsAfterDown},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, app) }) {
			t.Logf("pods:\n%s", app.kubectl(t, "get", "pods", "-o", "wide"))
			t.Fatalf("the end of the server's log:\n%s", c.log())
		}
	}
}

// application is the guestbook in a cluster.
type application struct {
	*cluster
	url string // through the node port
}

func deployGuestbook(t *testing.T, c *cluster) *application {
	t.Helper()
	c.images(t)
	c.kubectl(t, "apply", "-f", "../../examples/guestbook")
	c.kubectl(t, "rollout", "status", "deployment/web", "deployment/redis", "--timeout=3m")
	port := c.kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	t.Cleanup(func() { _, _ = c.try("delete", "-f", "../../examples/guestbook", "--wait=false") })
	return &application{c, "http://127.0.0.1:" + port}
}

// plain makes a connection of its own for every request, and gives up one that
// leads to a pod that is gone.
var plain = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get fetches a page.
func (a *application) get(client *http.Client, path string) (string, error) {
	resp, err := client.Get(a.url + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// pods returns the pods of a tier that are not being deleted.
func (a *application) pods(t *testing.T, tier string) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(a.kubectl(t, "get", "pods", "-l", "app=guestbook,tier="+tier, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func visitorWrites(t *testing.T, a *application) {
	a.kubectl(t, "wait", "--for=condition=complete", "job/visitor", "--timeout=3m")
	logs := a.kubectl(t, "logs", "job/visitor")
	if !strings.Contains(logs, "hello from visitor-") || !strings.Contains(logs, "the book has it") {
		t.Errorf("the visitor found no book:\n%s", logs)
	}
	book, err := a.get(plain, "/book")
	if err != nil || !strings.Contains(book, "hello from visitor-") {
		t.Errorf("the book, from the host: %q, %v", book, err)
	}
}

// load asks for pages until it is stopped, over new and over kept connections.
type load struct {
	stop          context.CancelFunc
	done          sync.WaitGroup
	asked, failed atomic.Int64
	mu            sync.Mutex
	failures      []string
}

func (a *application) load() *load {
	l := &load{}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for i := range 4 {
		path := "/"
		if i == 3 {
			path = "/book"
		}
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		l.done.Go(func() {
			// A pace, since other tests need the processor too, and no port is
			// to be used again while the kernel remembers it.
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				begin := time.Now()
				_, err := a.get(client, path)
				l.asked.Add(1)
				if err != nil && l.failed.Add(1) <= 10 {
					l.mu.Lock()
					l.failures = append(l.failures, fmt.Sprintf("%s after %v: %v", begin.Format("15:04:05.000"), time.Since(begin), err))
					l.mu.Unlock()
				}
				<-pace.C
			}
		})
	}
	return l
}

// end stops the load and fails the test if one request failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	t.Logf("%d requests, %d failed", l.asked.Load(), l.failed.Load())
	if l.asked.Load() == 0 {
		t.Error("no request was made")
	}
	for _, f := range l.failures {
		t.Errorf("failed: %s", f)
	}
}

func rollsUnderLoad(t *testing.T, a *application) {
	l := a.load()
	defer l.end(t)
	for _, version := range []string{"2", "1", "2"} {
		var old []string
		for _, p := range a.pods(t, "web") {
			old = append(old, "pod/"+p.Name)
		}
		a.kubectl(t, "set", "image", "deployment/web", "nginx=example.local/web:"+version)
		a.kubectl(t, "rollout", "status", "deployment/web", "--timeout=3m")
		a.kubectl(t, append([]string{"wait", "--for=delete", "--timeout=3m"}, old...)...)
		if got, err := a.get(plain, "/"); err != nil || got != version+"\n" {
			t.Errorf("after the roll to version %s: %q, %v", version, got, err)
		}
	}
}

// hostPID is the process, as the host numbers it, of a container's first
// process. It is found by the container's cgroup and its number in there.
func (a *application) hostPID(t *testing.T, p *corev1.Pod, container string) int {
	t.Helper()
	for _, s := range p.Status.ContainerStatuses {
		if s.Name != container {
			continue
		}
		id := strings.TrimPrefix(s.ContainerID, "containerd://")
		out, err := exec.Command("sh", "-c", "grep -ls "+id+" /proc/[0-9]*/cgroup").Output()
		if err != nil && len(out) == 0 {
			t.Fatalf("no process is in container %s: %v", id, err)
		}
		for path := range strings.FieldsSeq(string(out)) {
			status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
			_, ids, _ := strings.Cut(string(status), "NSpid:")
			ids, _, _ = strings.Cut(ids, "\n")
			if f := strings.Fields(ids); len(f) > 1 && f[len(f)-1] == "1" {
				pid, err := strconv.Atoi(f[0])
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
		t.Fatalf("container %s has no first process", id)
	}
	t.Fatalf("pod %s has no container %s", p.Name, container)
	return 0
}

func crashIsRestarted(t *testing.T, a *application) {
	pod := &a.pods(t, "web")[0]
	pid := a.hostPID(t, pod, "nginx")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.kubectl(t, "wait", "--timeout=3m", "pod/"+pod.Name, `--for=jsonpath={.status.containerStatuses[0].restartCount}=1`)
	a.kubectl(t, "wait", "--timeout=3m", "pod/"+pod.Name, "--for=condition=Ready")
	last := a.kubectl(t, "get", "pod", pod.Name, "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}")
	if last != "137" {
		t.Errorf("exit code of the killed container: %q, want 137", last)
	}
}

func redisKeepsItsData(t *testing.T, a *application) {
	before, err := a.get(plain, "/book")
	if err != nil {
		t.Fatal(err)
	}
	pod := &a.pods(t, "data")[0]
	if err := syscall.Kill(a.hostPID(t, pod, "redis"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.kubectl(t, "wait", "--timeout=3m", "pod/"+pod.Name, `--for=jsonpath={.status.containerStatuses[0].restartCount}=1`)
	a.kubectl(t, "wait", "--timeout=3m", "pod/"+pod.Name, "--for=condition=Ready")
	eventually(t, "the book after the crash of Redis", func() (bool, string) {
		after, err := a.get(plain, "/book")
		return err == nil && after == before, fmt.Sprintf("%q, %v", after, err)
	})
}

func podIsReplaced(t *testing.T, a *application) {
	lost := a.pods(t, "web")[0]
	l := a.load()
	defer l.end(t)
	a.kubectl(t, "delete", "pod", lost.Name)
	a.kubectl(t, "rollout", "status", "deployment/web", "--timeout=3m")
	now := a.pods(t, "web")
	if len(now) != 3 || slices.ContainsFunc(now, func(p corev1.Pod) bool { return p.UID == lost.UID }) {
		t.Errorf("%d pods after one of 3 was deleted, want 3 with a new one", len(now))
	}
}

// state is what must be the same before and after cox's own troubles.
func (a *application) state(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, tier := range []string{"web", "data"} {
		for _, p := range a.pods(t, tier) {
			for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
				lines = append(lines, fmt.Sprintf("%s %s %s %s %s restarts %d", tier, p.Name, p.Status.PodIP, s.Name, s.ContainerID, s.RestartCount))
			}
		}
	}
	return strings.Join(lines, "\n")
}

func servesWithoutCox(t *testing.T, a *application) {
	before := a.state(t)
	l := a.load()
	defer l.end(t)
	killServer(t, a.cluster)
	if out, err := a.run("status"); err == nil {
		t.Errorf("cox status finds no fault with a dead server:\n%s", out)
	}
	// The load goes on: many more requests, of which none may fail.
	for until := l.asked.Load() + 500; l.asked.Load() < until; {
		time.Sleep(10 * time.Millisecond)
	}
	a.must(t, "up")
	a.kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=3m")
	// Watches are heard again, and everything that has to follow does.
	a.kubectl(t, "create", "deployment", "after", "--image=cox.local/demo:1")
	a.kubectl(t, "rollout", "status", "deployment/after", "--timeout=3m")
	a.kubectl(t, "delete", "deployment", "after")
	if after := a.state(t); after != before {
		t.Errorf("containers before:\n%s\nafter cox was killed and started:\n%s", before, after)
	}
}

func returnsAfterDown(t *testing.T, a *application) {
	names := func() string {
		var list []string
		for _, tier := range []string{"web", "data"} {
			for _, p := range a.pods(t, tier) {
				list = append(list, p.Name)
			}
		}
		return strings.Join(list, " ")
	}
	before := names()
	a.must(t, "down")
	if page, err := a.get(plain, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with its pods stopped, the application says %q, %v; want it to refuse", page, err)
	}
	out := a.must(t, "down")
	if !strings.Contains(out, "up") {
		t.Errorf("cox down, again: %q", out)
	}
	a.must(t, "up")
	a.kubectl(t, "rollout", "status", "deployment/redis", "--timeout=3m")
	eventually(t, "the application after cox down and up", func() (bool, string) {
		page, err := a.get(plain, "/book")
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(page, "hello from visitor-"), page
	})
	if after := names(); after != before {
		t.Errorf("pods before: %s\nafter: %s", before, after)
	}
}
