package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
