// Package interop_test puts cox and Kubernetes' own binaries of the same
// version together: each opens the etcd data of the other's API server, and
// Kubernetes' controllers and scheduler work through cox's API server. It needs
// bin/cox (COX_BINARY names another), and in the folder that COX_UPSTREAM names
// kube-apiserver, kube-controller-manager and kube-scheduler; without them the
// tests are skipped.
package interop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	patience   = 2 * time.Minute
	services   = "10.121.0.0/16"
	pods       = "10.120.0.0/16"
	adminToken = "interop-admin"
	kcmToken   = "interop-kcm"
	schedToken = "interop-scheduler"
	tokens     = adminToken + ",admin,admin,\"system:masters\"\n" +
		kcmToken + ",system:kube-controller-manager,kcm\n" +
		schedToken + ",system:kube-scheduler,scheduler\n"
)

// cox is the binary under test.
func cox(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cox server keeps its control socket in /run, which needs root")
	}
	if testing.Short() {
		t.Skip("servers of real processes are not for -short")
	}
	path := os.Getenv("COX_BINARY")
	if path == "" {
		path, _ = filepath.Abs("../../bin/cox")
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no cox to test: %v; run `make build` or set COX_BINARY", err)
	}
	return path
}

// upstream is one of Kubernetes' own binaries.
func upstream(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("COX_UPSTREAM")
	if dir == "" {
		t.Skip("COX_UPSTREAM names no folder with Kubernetes' own binaries")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	return path
}

// process is a program that runs until it is stopped, at the latest with the
// test.
type process struct {
	cmd  *exec.Cmd
	out  *tail
	done chan struct{}
	once sync.Once
}

// tail keeps the end of what a program says.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 8<<10 {
		o.buf.Next(o.buf.Len() - 4<<10)
	}
	return o.buf.Write(b)
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func start(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(path, args...), out: &tail{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s said at its end:\n%s", filepath.Base(path), p.out)
		}
	})
	return p
}

// stop ends the program and waits for its end.
func (p *process) stop() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(30 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// eventually waits until check is content.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	for {
		if err = check(ctx); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// world is the folder that servers of either make share, one after the other.
type world struct {
	t    *testing.T
	dir  string
	name string // of cox's cluster
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), name: fmt.Sprintf("i%d", os.Getpid())}
	if err := os.WriteFile(w.path("tokens.csv"), []byte(tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// server is an API server that answers.
type server struct {
	*process
	url string
}

// config is how the bearer of a token reaches the server.
func (s *server) config(token string) *rest.Config {
	return &rest.Config{Host: s.url, BearerToken: token, QPS: -1, UserAgent: "interop", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

// kubeconfig writes config(token) into a file.
func (w *world) kubeconfig(s *server, token string) string {
	w.t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: s.url, InsecureSkipTLSVerify: true}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "c"
	path := w.path(token + ".kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) ready(p *process, port string) *server {
	w.t.Helper()
	s := &server{process: p, url: "https://127.0.0.1:" + port}
	door, err := rest.HTTPClientFor(s.config(adminToken))
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the API server is ready", func(ctx context.Context) error {
		select {
		case <-p.done:
			return fmt.Errorf("it has ended: %s", p.out)
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := door.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return s
}

// ours starts cox's API server, with nothing else, on its own etcd.
func (w *world) ours() *server {
	w.t.Helper()
	port := freePort(w.t)
	return w.ready(start(w.t, cox(w.t), "server", "--name", w.name, "--data-dir", w.path("data"),
		"--https-listen-port", port, "--kubelet-port", freePort(w.t), "--cluster-cidr", pods, "--service-cidr", services,
		"--write-kubeconfig", w.path("kubeconfig"), "--token-auth-file", w.path("tokens.csv"),
		"--disable-agent", "--disable-controller-manager", "--disable-scheduler"), port)
}

// theirs starts Kubernetes' API server on an etcd, with the keys of our folder.
func (w *world) theirs(etcd string) *server {
	w.t.Helper()
	port, key := freePort(w.t), w.path("data", "pki", "sa.key")
	return w.ready(start(w.t, upstream(w.t, "kube-apiserver"), "--etcd-servers", etcd, "--secure-port", port,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", w.path("certs"),
		"--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--token-auth-file", w.path("tokens.csv"), "--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", services), port)
}
