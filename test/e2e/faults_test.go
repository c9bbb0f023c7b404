package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coxswain/cox/test/programs"
)

// podTraces lists what there is of this cluster's pods on the machine: shims,
// mounts, routes, cgroups and folders.
func (c *cluster) podTraces(t *testing.T) []string {
	t.Helper()
	var out []string
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		raw, _ := os.ReadFile(path)
		args := strings.Split(string(raw), "\x00")
		if filepath.Base(args[0]) == "cox-shim" && strings.Contains(string(raw), "/cox-"+c.name+"/") {
			if stat, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "stat")); !strings.Contains(string(stat), ") Z ") {
				out = append(out, "shim "+strings.Join(args, " "))
			}
		}
	}
	pods := filepath.Join(c.data, "kubelet", "pods")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], pods+"/") || strings.HasPrefix(f[4], "/run/cox-"+c.name+"/containerd/")) {
			out = append(out, "mount "+f[4])
		}
	}
	prefix := strings.TrimSuffix(c.flag("cluster-cidr"), "0.0/16")
	for line := range strings.Lines(output(t, "ip", "-o", "route")) {
		if f := strings.Fields(line); strings.HasPrefix(f[0], prefix) && !strings.Contains(f[0], "/") {
			out = append(out, "route "+strings.TrimSpace(line))
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/cox-"+c.name+"/") && strings.HasPrefix(d.Name(), "pod") {
			out = append(out, "cgroup "+path)
			return filepath.SkipDir
		}
		return nil
	})
	folders, _ := os.ReadDir(pods)
	for _, f := range folders {
		out = append(out, "folder "+f.Name())
	}
	return out
}

// crowd is the manifest of pods p0 to pn-1 of the demo image.
func crowd(n int, image string) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%d}\nspec:\n  terminationGracePeriodSeconds: 2\n"+
			"  volumes: [{name: v, emptyDir: {medium: Memory}}]\n"+
			"  containers: [{name: demo, image: %q, volumeMounts: [{name: v, mountPath: /v}]}]\n", i, image)
	}
	return out.String()
}

// apply creates what a manifest says.
func (c *cluster) apply(t *testing.T, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kubectl apply", func() (bool, string) { // the default service account may not be there yet
		out, err := c.try("apply", "-f", file)
		return err == nil, out
	})
}

// honest checks that pods p0 to pn-1 run as they are reported to, each once.
func (c *cluster) honest(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		p := fmt.Sprintf("p%d", i)
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/"+p, "--timeout=3m")
		ip := c.kubectl(t, "get", "pod", p, "-o", "jsonpath={.status.podIP}")
		if out, err := fetch("http://" + ip + ":8080/healthz"); err != nil || out != "ok" {
			t.Errorf("%s is reported to run: %q, %v", p, out, err)
		}
	}
	eventually(t, "one sandbox for each pod", func() (bool, string) {
		shims, folders := 0, 0
		for _, trace := range c.podTraces(t) {
			switch kind, _, _ := strings.Cut(trace, " "); kind {
			case "shim":
				shims++
			case "folder":
				folders++
			}
		}
		return shims == n && folders == n, fmt.Sprintf("%d pods, %d shims, %d folders", n, shims, folders)
	})
}

// TestKilledCox kills the server, and with it the kubelet, while it starts,
// while pods start, while they end, and while an image is pulled (and then
// containerd). The next one finishes what was begun, and nothing is left of pods
// that are gone.
func TestKilledCox(t *testing.T) {
	c := ownCluster(t)
	t.Run("starting", func(t *testing.T) {
		// Killed ever later in its start: once its lock, its etcd, its
		// containerd is there.
		last := "" // the lock names it until the next one holds it
		for _, sign := range []string{filepath.Join(c.data, "lock"), filepath.Join(c.data, "etcd"), "/run/cox-" + c.name + "/containerd/containerd.sock"} {
			up := exec.Command(programs.Cox(), append([]string{"up"}, c.flags...)...)
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, sign, func() (bool, string) {
				fi, err := os.Stat(sign)
				pid, _ := os.ReadFile(filepath.Join(c.data, "lock"))
				return err == nil && (fi.IsDir() || fi.Size() > 0 || fi.Mode()&os.ModeSocket != 0) && len(pid) > 0 && string(pid) != last, "it is not there"
			})
			if pid, err := os.ReadFile(filepath.Join(c.data, "lock")); err == nil {
				last = string(pid)
			}
			killServer(t, c)
			if err := up.Wait(); err == nil {
				t.Logf("it was up already when %s was there", sign)
			}
		}
		c.must(t, "up")
	})
	const n = 4
	t.Run("pods start", func(t *testing.T) {
		c.apply(t, crowd(n, "cox.local/demo:1"))
		eventually(t, "a pod that starts", func() (bool, string) { traces := c.podTraces(t); return len(traces) > 3, fmt.Sprint(traces) })
		killServer(t, c)
		c.must(t, "up")
		c.honest(t, n)
	})
	t.Run("pods end", func(t *testing.T) {
		c.kubectl(t, "delete", "pods", "--all", "--wait=false")
		eventually(t, "a pod that is gone", func() (bool, string) {
			out, err := c.try("get", "pods", "-o", "name")
			return err == nil && strings.Count(out, "\n") < n, out
		})
		killServer(t, c)
		c.must(t, "up")
		c.kubectl(t, "wait", "--for=delete", "pod", "--all", "--timeout=3m")
		c.noPodLeft(t)
	})
	t.Run("pull", func(t *testing.T) {
		killedPull(t, c, func() { killServer(t, c); c.must(t, "up") })
	})
	t.Run("containerd pulls", func(t *testing.T) {
		killedPull(t, c, func() { c.killContainerd(t) })
	})
}

// killContainerd kills the cluster's containerd.
func (c *cluster) killContainerd(t *testing.T) {
	t.Helper()
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		raw, _ := os.ReadFile(path)
		program, _, _ := strings.Cut(string(raw), "\x00")
		if filepath.Base(program) == "cox-containerd" && strings.Contains(string(raw), "/cox-"+c.name+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("containerd does not run")
}

// noPodLeft waits until nothing is left of any pod.
func (c *cluster) noPodLeft(t *testing.T) {
	t.Helper()
	eventually(t, "nothing left of pods", func() (bool, string) {
		traces := c.podTraces(t)
		return len(traces) == 0, strings.Join(traces, "\n")
	})
}

// killedPull kills the server, or containerd, while containerd waits for the
// registry. Layers that are there already it would not ask for, so it waits with
// its first question.
func killedPull(t *testing.T, c *cluster, kill func()) {
	archive := filepath.Join(t.TempDir(), "demo.tar")
	c.must(t, "image", "export", "cox.local/demo:1", "--output="+archive)
	var held atomic.Bool
	held.Store(true)
	asked, release := make(chan struct{}, 100), make(chan struct{})
	host := registry(t, archive, func(_ http.ResponseWriter, req *http.Request) bool {
		if held.Load() && path.Base(req.URL.Path) != "v2" {
			asked <- struct{}{}
			<-release
		}
		return true
	})
	c.apply(t, crowd(1, host+"/demo:pulled"))
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("the registry was not asked for the image")
	}
	kill()
	held.Store(false)
	close(release)
	c.honest(t, 1)
	c.kubectl(t, "delete", "pod", "p0")
	c.noPodLeft(t)
}
