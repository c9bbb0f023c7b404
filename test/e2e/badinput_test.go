package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/coxswain/cox/test/programs"
)

// refused runs `cox up`, which must fail with a message that contains each of
// the words, and is no longer than a few lines. change may alter the process.
func (c *cluster) refused(t *testing.T, change func(*exec.Cmd), words ...string) {
	t.Helper()
	out, err := c.runIn(change, "up")
	if err == nil {
		t.Fatalf("cox up did not fail:\n%s", out)
	}
	message := out[strings.LastIndex("\n"+out, "\ncox: "):]
	for _, w := range words {
		if !strings.Contains(message, w) {
			t.Errorf("the message does not say %q:\n%s", w, out)
		}
	}
	if strings.Count(message, "\n") > 3 || strings.Contains(out, "goroutine ") || strings.Contains(out, "Usage:") {
		t.Errorf("not one clear message:\n%s", out)
	}
}

// with returns the cluster with other flags, the last one of a name counting.
func (c *cluster) with(flags ...string) *cluster {
	other := *c
	other.flags = append(append([]string{}, c.flags...), flags...)
	return &other
}

func killServer(t *testing.T, c *cluster) {
	t.Helper()
	pid := c.pid(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the server", func() (bool, string) { return syscall.Kill(pid, 0) != nil, "it lives" })
}

func TestRefusedSettings(t *testing.T) {
	c := ownCluster(t)
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	notFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("no-such-setting: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := c.traces(t)
	for _, tt := range []struct {
		name  string
		flags []string
		words []string
	}{
		{"unknown flag", []string{"--no-such-flag"}, []string{"unknown flag: --no-such-flag"}},
		{"no number", []string{"--kubelet-port=many"}, []string{"--kubelet-port", "many"}},
		{"API port in use", []string{"--https-listen-port=" + port}, []string{port, "in use", "--https-listen-port"}},
		{"kubelet port in use", []string{"--kubelet-port=" + port}, []string{port, "in use", "--kubelet-port"}},
		{"name too long", []string{"--name=a-name-that-is-too-long"}, []string{"--name"}},
		{"no range", []string{"--cluster-cidr=everywhere"}, []string{"--cluster-cidr", "everywhere"}},
		{"ranges overlap", []string{"--service-cidr=" + c.flag("cluster-cidr")}, []string{"overlap"}},
		{"setting unknown", []string{"--config=" + config}, []string{config, "no-such-setting"}},
		{"configuration missing", []string{"--config=/no/such/file"}, []string{"/no/such/file"}},
		{"data directory is a file", []string{"--data-dir=" + notFolder}, []string{notFolder}},
	} {
		t.Run(tt.name, func(t *testing.T) { c.with(tt.flags...).refused(t, nil, tt.words...) })
	}
	for _, command := range [][]string{{"sideways"}, {"up", "sideways"}} {
		if out, err := c.run(command...); err == nil || !strings.Contains(out, "sideways") {
			t.Errorf("cox %v: %v, %s", command, err, out)
		}
	}
	for trace := range c.traces(t) {
		// The empty data directory may be there, with the log of why.
		if !before[trace] && !strings.HasSuffix(trace, c.data) {
			t.Errorf("left behind: %s", trace)
		}
	}
}

func TestRefusedMachine(t *testing.T) {
	c := ownCluster(t)
	t.Run("no root", func(t *testing.T) {
		// A copy that nobody may run, since the path to the other may be shut.
		dir, err := os.MkdirTemp("", "cox-nobody-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, "cox")
		if out, err := exec.Command("cp", programs.Cox(), copied).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, command := range [][]string{{"up"}, {"down"}, {"server"}, {"image", "list"}} {
			cmd := exec.Command(copied, append(command, c.flags...)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			cmd.Dir = "/"
			if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("root")) || !bytes.Contains(out, []byte("sudo")) || bytes.Count(out, []byte("\n")) > 2 {
				t.Errorf("cox %v as nobody: %v, %s", command, err, out)
			}
		}
	})
	t.Run("no runc", func(t *testing.T) {
		empty := t.TempDir()
		c.refused(t, func(cmd *exec.Cmd) { cmd.Env = []string{"PATH=" + empty} }, "runc", "crun", "apt-get install")
	})
	t.Run("full disk", func(t *testing.T) {
		small := filepath.Join(t.TempDir(), "small")
		if err := os.Mkdir(small, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
			t.Skipf("no small disk can be mounted: %v", err)
		}
		defer func() {
			if err := syscall.Unmount(small, 0); err != nil {
				t.Errorf("something holds the disk: %v", err)
			}
		}()
		full := c.with("--data-dir=" + small)
		full.data = small
		full.refused(t, nil, small, "free", "--data-dir")
	})
}

func TestRefusedData(t *testing.T) {
	c := ownCluster(t)
	t.Run("foreign folder", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("years of work"), 0o600); err != nil {
			t.Fatal(err)
		}
		foreign := c.with("--data-dir=" + dir)
		foreign.refused(t, nil, dir, "thesis.tex", "not a data directory")
		if out, err := foreign.run("down", "--purge"); err == nil || !strings.Contains(out, "nothing was removed") {
			t.Errorf("purge of a foreign folder: %v, %s", err, out)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "thesis.tex")); err != nil || string(raw) != "years of work" {
			t.Errorf("the foreign file: %q, %v", raw, err)
		}
	})
	c.must(t, "up")
	t.Run("second server", func(t *testing.T) {
		api, err := programs.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		kubelet, err := programs.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		c.with("--name=second", "--https-listen-port="+api, "--kubelet-port="+kubelet).refused(t, nil, c.data, "in use by another cox", strconv.Itoa(c.pid(t)))
		if out := c.must(t, "status"); strings.Contains(out, "FAILED") {
			t.Errorf("the first server suffered:\n%s", out)
		}
	})
	c.kubectl(t, "create", "configmap", "kept")
	c.must(t, "down")
	t.Run("other ranges", func(t *testing.T) {
		c.with("--cluster-cidr=10.99.0.0/16").refused(t, nil, c.data, "belongs to cluster", "same settings")
	})
	t.Run("corrupt", func(t *testing.T) {
		logs, err := filepath.Glob(filepath.Join(c.data, "etcd", "member", "wal", "*.wal"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("no write-ahead log: %v", err)
		}
		whole, err := os.ReadFile(logs[0])
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Clone(whole)
		for i := 256; i < 8192; i++ {
			broken[i] ^= 0x5a
		}
		if err := os.WriteFile(logs[0], broken, 0o600); err != nil {
			t.Fatal(err)
		}
		c.refused(t, nil, "etcd", c.data, "backup")
		// Nothing was made worse: with the log as it was, all is there.
		if err := os.WriteFile(logs[0], whole, 0o600); err != nil {
			t.Fatal(err)
		}
		c.must(t, "up")
		c.kubectl(t, "get", "configmap", "kept")
	})
}
