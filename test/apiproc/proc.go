// Package apiproc runs API servers in processes of their own for tests that
// kill or stop them: a folder and an address go in, a server comes out that
// can be reached, ended and started again. The process is the test's own
// program, whose TestMain calls Main.
package apiproc

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/pki"
)

// Proc is a server that can be started, any number of times, and ended. Its
// methods are used by one goroutine at a time.
type Proc struct {
	t      testing.TB
	s      settings
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr *tail
}

// New returns a server that keeps its data in dir, where servers that share
// certificates meet, and in etcd elsewhere if given. It is not started yet.
func New(t testing.TB, dir string, etcd ...string) *Proc {
	t.Helper()
	p := &Proc{t: t, s: settings{Dir: dir, Address: "127.0.0.1:0", Etcd: etcd, Compact: -1}}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.Kill()
		}
	})
	return p
}

// Advertise has the server tell its peers that it is reached there. It is
// called before Start.
func (p *Proc) Advertise(address string) { p.s.Advertise = address }

// Start starts the server, again under its first address, and returns once it
// answers.
func (p *Proc) Start() {
	p.t.Helper()
	text, err := json.Marshal(p.s)
	if err != nil {
		p.t.Fatal(err)
	}
	p.stderr = &tail{}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), variable+"="+string(text))
	p.cmd.Stderr = p.stderr
	// Its end tells the server that the test has died.
	if _, err := p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	line, err := p.out.ReadString('\n')
	if err != nil {
		_ = p.cmd.Wait()
		p.t.Fatalf("the server did not start: %v\n%s", err, p.stderr)
	}
	p.s.Address = strings.TrimSpace(strings.TrimPrefix(line, "ready"))
}

// PID is the process's number.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Kill ends the server at once and waits for its end.
func (p *Proc) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}

// Stop asks the server to end and waits until it has.
func (p *Proc) Stop() error {
	cmd := p.cmd
	p.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, p.out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, p.stderr)
	}
	return nil
}

// Address is where the server listens.
func (p *Proc) Address() string { return p.s.Address }

// Stderr is the end of what the server has written there.
func (p *Proc) Stderr() string { return p.stderr.String() }

// Config is how the administrator reaches the server. Each call's clients
// have connections of their own if their timeouts differ.
func (p *Proc) Config() *rest.Config {
	p.t.Helper()
	b, err := pki.Ensure(filepath.Join(p.s.Dir, "pki"), pki.Config{})
	if err != nil {
		p.t.Fatal(err)
	}
	cert, key, err := b.Admin.PEM()
	if err != nil {
		p.t.Fatal(err)
	}
	return &rest.Config{
		Host: "https://" + p.s.Address, QPS: -1, UserAgent: "test",
		TLSClientConfig: rest.TLSClientConfig{CAData: b.CA.PEM(), CertData: cert, KeyData: key},
	}
}

// RSS is the server's resident memory in bytes.
func (p *Proc) RSS() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		p.t.Fatal(err)
	}
	var kib int64
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib << 10
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - 16<<10; over > 0 {
		t.buf = append([]byte(nil), t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// Etcd starts a stock etcd that several servers can share, in this process,
// and returns its URL.
func Etcd(t testing.TB) string {
	t.Helper()
	url, end := EtcdIn(t, t.TempDir())
	t.Cleanup(end)
	return url
}

// EtcdIn starts a stock etcd on a data directory, new or not, and returns its
// URL and what ends it.
func EtcdIn(t testing.TB, dir string) (address string, end func()) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = local, local
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = local, local
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		e.Close()
		t.Fatal("etcd is not ready after a minute")
	}
	return "http://" + e.Clients[0].Addr().String(), e.Close
}
