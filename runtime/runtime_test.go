package runtime_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/runtimetest"
)

// hostPod is a pod in the host's network, which needs no CNI.
func hostPod(name, logs, cgroup string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		LogDirectory: logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroup + "/kubepods/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			},
		},
	}
}

type pod struct {
	t   testing.TB
	cri runtimeapi.RuntimeServiceClient
	cfg *runtimeapi.PodSandboxConfig
	id  string
}

func runPod(t testing.TB, r *runtime.Runtime, cfg *runtimeapi.PodSandboxConfig) *pod {
	t.Helper()
	cri, _ := r.CRI()
	res, err := cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	return &pod{t, cri, cfg, res.PodSandboxId}
}

func (p *pod) run(name string, command ...string) string {
	p.t.Helper()
	res, err := p.cri.CreateContainer(p.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.cfg,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, LogPath: name + ".log",
			Image: &runtimeapi.ImageSpec{Image: runtimetest.Busybox}, Command: command,
			Linux: &runtimeapi.LinuxContainerConfig{},
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.cri.StartContainer(p.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: res.ContainerId}); err != nil {
		p.t.Fatal(err)
	}
	return res.ContainerId
}

// ended waits for the event of the container's end.
func ended(t testing.TB, events runtimeapi.RuntimeService_GetContainerEventsClient, id string) {
	t.Helper()
	for {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == id && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			return
		}
	}
}

func TestContainerRunsAndSurvivesRestarts(t *testing.T) {
	cfg := runtimetest.Config(t)
	begin := time.Now()
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first start: %v", time.Since(begin))
	runtimetest.Import(t, r)
	cri, _ := r.CRI()
	events, err := cri.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	logs := t.TempDir()
	begin = time.Now()
	p := runPod(t, r, hostPod("one", logs, cfg.CgroupRoot))
	t.Logf("sandbox: %v", time.Since(begin))
	id := p.run("hello", "echo", "hello")
	t.Logf("to started container: %v", time.Since(begin))
	ended(t, events, id)
	b, err := os.ReadFile(filepath.Join(logs, "hello.log"))
	if err != nil || !strings.HasSuffix(string(b), "stdout F hello\n") {
		t.Errorf("log %q, %v", b, err)
	}
	st, err := cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.Status.ExitCode != 0 || st.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("status %v, %v", st.GetStatus(), err)
	}

	// A second cox finds containerd and its containers as they are.
	long := p.run("long", "sleep", "1000")
	r.Close()
	begin = time.Now()
	r, err = runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("adopted: %v", time.Since(begin))
	running(t, r, long)

	// A changed configuration restarts containerd under the containers.
	r.Close()
	cfg.LogLevel = "info"
	cfg.RegistryDir = t.TempDir()
	begin = time.Now()
	r, err = runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restarted: %v", time.Since(begin))
	running(t, r, long)
	defer r.Close()

	cri, _ = r.CRI()
	out, err := cri.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: long, Cmd: []string{"echo", "still here"}})
	if err != nil || string(out.Stdout) != "still here\n" {
		t.Errorf("exec: %q, %v", out.GetStdout(), err)
	}
	if err := r.StopPods(t.Context()); err != nil {
		t.Error(err)
	}
}

func running(t testing.TB, r *runtime.Runtime, id string) {
	t.Helper()
	cri, _ := r.CRI()
	st, err := cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container: %v, %v", st.GetStatus(), err)
	}
}

func TestPurgeKillsRunningPods(t *testing.T) {
	cfg := runtimetest.Config(t)
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	runtimetest.Import(t, r)
	p := runPod(t, r, hostPod("doomed", t.TempDir(), cfg.CgroupRoot))
	p.run("long", "sleep", "1000")
	r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	keep := cfg
	keep.AssetsDir = filepath.Join(cfg.Root, "none") // shared with other tests
	if err := runtime.Purge(ctx, keep); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{cfg.Root, cfg.State, "/sys/fs/cgroup/memory" + cfg.CgroupRoot, "/sys/fs/cgroup" + cfg.CgroupRoot} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), cfg.State) {
		t.Errorf("mounts are left: %v", err)
	}
}

// netPod is a pod in a network of its own.
func netPod(name, logs, cgroup string) *runtimeapi.PodSandboxConfig {
	cfg := hostPod(name, logs, cgroup)
	cfg.Hostname = name
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_POD
	return cfg
}

func network(t testing.TB, cfg runtime.Config) cni.Conf {
	t.Helper()
	conf := cni.Conf{
		Name: "test" + filepath.Base(cfg.CgroupRoot), StateDir: filepath.Join(cfg.State, "cni"),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.142.7.0/24")}, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.142.0.0/16")},
	}
	if err := cni.Setup(conf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cni.Purge(conf); err != nil {
			t.Error(err)
		}
	})
	if err := cni.WriteConfig(filepath.Join(cfg.Root, "net.d"), conf); err != nil {
		t.Fatal(err)
	}
	return conf
}

func TestPodGetsItsNetwork(t *testing.T) {
	cfg := runtimetest.Config(t)
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	runtimetest.Import(t, r)
	cri, _ := r.CRI()
	// The network is configured after the runtime has started.
	network(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ready := false; !ready; {
		st, err := cri.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Status.Conditions {
			ready = ready || c.Type == runtimeapi.NetworkReady && c.Status
		}
		t.Log(st.Status.Conditions)
	}
	begin := time.Now()
	p := runPod(t, r, netPod("web", t.TempDir(), cfg.CgroupRoot))
	t.Logf("sandbox: %v", time.Since(begin))
	p.run("httpd", "sh", "-c", "echo 'hello from a pod' >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
	t.Logf("to started container: %v", time.Since(begin))
	st, err := cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil || st.Status.Network.GetIp() != "10.142.7.2" {
		t.Fatalf("pod address: %v, %v", st.GetStatus().GetNetwork(), err)
	}
	client := http.Client{Timeout: 5 * time.Second}
	var body []byte
	for ctx.Err() == nil {
		res, err := client.Get("http://10.142.7.2/index.html")
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // not listening yet
		}
		if err != nil {
			t.Fatal(err)
		}
		body, _ = io.ReadAll(res.Body)
		res.Body.Close()
		break
	}
	if string(body) != "hello from a pod\n" {
		t.Errorf("the pod answers %q", body)
	}
	begin = time.Now()
	if err := r.StopPods(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("stopped: %v", time.Since(begin))
}

// BenchmarkPod measures a pod with one container, from RunPodSandbox to its
// removal.
func BenchmarkPod(b *testing.B) {
	cfg := runtimetest.Config(b)
	r, err := runtime.Start(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	runtimetest.Import(b, r)
	network(b, cfg)
	time.Sleep(100 * time.Millisecond) // the runtime loads the network
	var sandbox, start time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		p := runPod(b, r, netPod("p"+strconv.Itoa(i), b.TempDir(), cfg.CgroupRoot))
		sandbox += time.Since(begin)
		begin = time.Now()
		p.run("c", "sleep", "1000")
		start += time.Since(begin)
		if err := r.StopPods(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(sandbox.Milliseconds())/float64(b.N), "ms-sandbox/op")
	b.ReportMetric(float64(start.Milliseconds())/float64(b.N), "ms-container/op")
}

// pidOf finds the containerd of a runtime by what it was started with.
func pidOf(t testing.TB, cfg runtime.Config) int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), "cox-containerd\x00-config\x00"+cfg.State+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	t.Fatal("no containerd runs")
	return 0
}

func TestKilledContainerdComesBackUnderItsContainers(t *testing.T) {
	cfg := runtimetest.Config(t)
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	runtimetest.Import(t, r)
	id := runPod(t, r, hostPod("one", t.TempDir(), cfg.CgroupRoot)).run("long", "sleep", "1000")
	before := pidOf(t, cfg)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The call waits for the connection, as the runtime comes back by itself.
	cri, _ := r.CRI()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		st, err := cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id}, grpc.WaitForReady(true))
		if err == nil && st.Status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("after the kill: %v, %v", st, err)
		}
	}
	if now := pidOf(t, cfg); now == before {
		t.Error("the killed process still runs")
	}
}

// TestDeletedFilesAreCollected removes a pod: what its container wrote leaves the
// disk soon, though nothing looks for garbage while nothing is deleted.
func TestDeletedFilesAreCollected(t *testing.T) {
	cfg := runtimetest.Config(t)
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	runtimetest.Import(t, r)
	cri, _ := r.CRI()
	p := runPod(t, r, hostPod("one", t.TempDir(), cfg.CgroupRoot))
	p.run("writes", "sh", "-c", "echo here > /left; exec sleep 1000")
	left := func() []string {
		found, err := filepath.Glob(filepath.Join(cfg.Root, "containerd/io.containerd.snapshotter.v1.*/snapshots/*/fs/left"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	until := func(what string, done func() bool) {
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q", what, left())
			}
		}
	}
	until("the container did not write", func() bool { return len(left()) == 1 })
	if _, err := cri.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	if _, err := cri.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	until("a minute after the pod its files are still there", func() bool { return len(left()) == 0 })
}

func TestTwoRuntimesSideBySide(t *testing.T) {
	var rs []*runtime.Runtime
	var cfgs []runtime.Config
	var ids []string
	for range 2 {
		cfg := runtimetest.Config(t)
		r, err := runtime.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		runtimetest.Import(t, r)
		// The same names in both.
		ids = append(ids, runPod(t, r, hostPod("same", t.TempDir(), cfg.CgroupRoot)).run("long", "sleep", "1000"))
		rs, cfgs = append(rs, r), append(cfgs, cfg)
	}
	rs[0].Close()
	purge := cfgs[0]
	purge.AssetsDir = filepath.Join(purge.Root, "none")
	if err := runtime.Purge(t.Context(), purge); err != nil {
		t.Fatal(err)
	}
	running(t, rs[1], ids[1])
}

func TestBadFoldersAreRefused(t *testing.T) {
	good := runtimetest.Config(t)
	for want, change := range map[string]func(*runtime.Config){
		"must be absolute paths":        func(c *runtime.Config) { c.State = "relative" },
		"prepare the container runtime": func(c *runtime.Config) { c.Root = "/proc/self/no" },
	} {
		c := good
		change(&c)
		if r, err := runtime.Start(t.Context(), c); err == nil {
			r.Close()
			t.Errorf("%q: started", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
