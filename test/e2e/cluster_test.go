// Package e2e drives clusters of real processes the way a user does: `cox` and
// kubectl on the command line, manifests in, running containers out. It needs
// root, bin/cox (see `make build`; COX_BINARY names another) and runc or crun.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coxswain/cox/examples/guestbook"
	"github.com/coxswain/cox/test/programs"
)

// patience is how long any one thing may take on a machine that does a lot
// else. What waits, waits for a condition, so it costs nothing when all is
// well.
const patience = 3 * time.Minute

// shared is the cluster that most tests use, started by the first one.
var shared struct {
	once    sync.Once
	cluster *cluster
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if c := shared.cluster; c != nil {
		if out, err := c.run("down", "--purge"); err != nil {
			fmt.Fprintf(os.Stderr, "purge of the shared cluster: %v\n%s", err, out)
			code = 1
		}
		_ = os.RemoveAll(c.dir)
	}
	os.Exit(code)
}

// cluster is one cluster on this machine, beside others.
type cluster struct {
	dir        string // of everything the test keeps
	data       string
	kubeconfig string
	name       string
	flags      []string
	fed        bool // with images
}

// needs skips the test where containers cannot run.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running containers needs root")
	}
	if _, err := os.Stat(programs.Cox()); err != nil {
		t.Skipf("no cox to test: %v; run `make build` or set COX_BINARY", err)
	}
	_, runc := exec.LookPath("runc")
	_, crun := exec.LookPath("crun")
	if runc != nil && crun != nil {
		t.Skip("neither runc nor crun is installed")
	}
	if testing.Short() {
		t.Skip("clusters of real processes are not for -short")
	}
}

// number tells the clusters of this process apart.
var number int

// newCluster chooses a name, ports and address ranges that nobody uses. It
// starts nothing.
func newCluster(dir string) (*cluster, error) {
	number++
	api, err := programs.FreePort()
	if err != nil {
		return nil, err
	}
	kubelet, err := programs.FreePort()
	if err != nil {
		return nil, err
	}
	pods, services, err := programs.FreeRanges()
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, data: filepath.Join(dir, "data"), kubeconfig: filepath.Join(dir, "etc", "kubeconfig")}
	c.name = fmt.Sprintf("e%d-%d", os.Getpid()%1000000, number)
	nodePorts := 20000 + (os.Getpid()*2+number)%50*200
	c.flags = []string{
		"--name=" + c.name, "--data-dir=" + c.data, "--write-kubeconfig=" + c.kubeconfig, "--config=/dev/null",
		"--https-listen-port=" + api, "--kubelet-port=" + kubelet,
		"--cluster-cidr=" + pods, "--service-cidr=" + services,
		fmt.Sprintf("--service-node-port-range=%d-%d", nodePorts, nodePorts+199),
		"--resolv-conf=" + filepath.Join(dir, "resolv.conf"),
	}
	// No test asks a name server out there.
	return c, os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644)
}

// sharedCluster returns the cluster that tests share, up and running.
func sharedCluster(t *testing.T) *cluster {
	t.Helper()
	needs(t)
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "cox-e2e-")
		if err != nil {
			shared.err = err
			return
		}
		c, err := newCluster(dir)
		if err != nil {
			shared.err = err
			return
		}
		shared.cluster = c
		if out, err := c.run("up"); err != nil {
			shared.err = fmt.Errorf("cox up: %w\n%s\n%s", err, out, c.log())
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// images gives the cluster the images that tests use, once, or skips the test
// if this machine lacks what they are made of.
func (c *cluster) images(t *testing.T) {
	t.Helper()
	if c.fed {
		return
	}
	for program, pkg := range guestbook.Programs {
		if _, err := exec.LookPath(program); err != nil {
			if _, err := exec.LookPath("/usr/sbin/" + program); err != nil {
				t.Skipf("%s is not installed, which the images are made of: apt-get install %s", program, pkg)
			}
		}
	}
	archive := filepath.Join(t.TempDir(), "guestbook.tar")
	if err := guestbook.Images(archive); err != nil {
		t.Fatal(err)
	}
	imported := c.must(t, "image", "import", archive)
	for _, name := range []string{"example.local/web:1", "example.local/web:2", "example.local/redis:1"} {
		if !strings.Contains(imported, name) {
			t.Errorf("cox image import did not say %s:\n%s", name, imported)
		}
	}
	c.fed = true
}

// ownCluster returns a cluster for this test alone. It is not started; when
// the test ends it is purged.
func ownCluster(t *testing.T) *cluster {
	t.Helper()
	needs(t)
	c, err := newCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", c.log())
		}
		if out, err := c.run("down", "--purge"); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
	})
	return c
}

// run runs cox with this cluster's flags and returns all it printed.
func (c *cluster) run(args ...string) (string, error) {
	return c.runIn(nil, args...)
}

// runIn is run with further settings of the process.
func (c *cluster) runIn(change func(*exec.Cmd), args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.Cox(), append(args, c.flags...)...)
	if change != nil {
		change(cmd)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// must is run for what has to succeed.
func (c *cluster) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.run(args...)
	if err != nil {
		t.Fatalf("cox %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// log is the end of the server's log.
func (c *cluster) log() string {
	raw, err := os.ReadFile(filepath.Join(c.data, "log", "cox.log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-6000):])
}

// pid is that of the running server.
func (c *cluster) pid(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.data, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatalf("the lock names no process: %q", raw)
	}
	return pid
}

// kubectl runs cox's own kubectl, which must succeed, and returns what it
// printed.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try is kubectl for what may fail. Without an error only the standard output
// is returned.
func (c *cluster) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.Cox(), append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "HOME="+c.dir)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String() + complaint.String(), err
	}
	return out.String(), nil
}

// eventually waits until ask returns a good answer, and fails with the last
// bad one.
func eventually(t *testing.T, what string, ask func() (good bool, answer string)) {
	t.Helper()
	programs.Eventually(t, patience, what, ask)
}
