// Package programs is what tests of real processes share: where cox and
// Kubernetes' own programs are, what nobody on this machine uses (ports and
// ranges of addresses), programs that end with their test, and patience.
package programs

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Cox is the path of the cox under test: bin/cox of the tree, or what
// COX_BINARY names. It need not be there. The caller is a test two folders below
// the tree's root.
func Cox() string {
	if path := os.Getenv("COX_BINARY"); path != "" {
		return path
	}
	path, _ := filepath.Abs("../../bin/cox")
	return path
}

// NeedCox is Cox, and skips the test if it is not there, or is not to be run:
// without root and with -short.
func NeedCox(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cox keeps its control socket in /run, which needs root")
	}
	if testing.Short() {
		t.Skip("real processes are not for -short")
	}
	if _, err := os.Stat(Cox()); err != nil {
		t.Skipf("no cox to test: %v; run `make build` or set COX_BINARY", err)
	}
	return Cox()
}

// NeedUpstream is the path of one of Kubernetes' own programs, in the folder
// that COX_UPSTREAM names; without it the test is skipped.
func NeedUpstream(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("COX_UPSTREAM")
	if dir == "" {
		t.Skip("COX_UPSTREAM names no folder with Kubernetes' own programs")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	return path
}

// FreePort is a TCP port that nobody listens at, on any address.
func FreePort() (string, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// Port is FreePort for a test.
func Port(t testing.TB) string {
	t.Helper()
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// FreeRanges finds two ranges of private addresses that nothing on this machine
// is in.
func FreeRanges() (pods, services string, err error) {
	routes, err := exec.Command("ip", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return "", "", fmt.Errorf("ip route: %w", err)
	}
	taken := func(n int) bool {
		net := fmt.Appendf(nil, "10.%d.", n)
		return bytes.HasPrefix(routes, net) || bytes.Contains(routes, append([]byte(" "), net...)) || bytes.Contains(routes, append([]byte("\n"), net...))
	}
	for i := range 60 {
		n := 100 + (os.Getpid()+i)%60*2
		if !taken(n) && !taken(n+1) {
			return fmt.Sprintf("10.%d.0.0/16", n), fmt.Sprintf("10.%d.0.0/16", n+1), nil
		}
	}
	return "", "", errors.New("no range of private addresses is free")
}

// Process is a program that runs until it is stopped, at the latest with its
// test, which shows the end of what it said if it failed.
type Process struct {
	cmd  *exec.Cmd
	out  tail
	done chan struct{}
	once sync.Once
}

// Start starts a program.
func Start(t testing.TB, path string, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said at its end:\n%s", filepath.Base(path), p.Output())
		}
	})
	return p
}

// Stop ends the program and waits for its end.
func (p *Process) Stop() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
		<-p.done
		late.Stop()
	})
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output is the end of what the program has said so far.
func (p *Process) Output() string { return p.out.String() }

// tail keeps the end of what a program says.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 12<<10 {
		o.buf.Next(o.buf.Len() - 6<<10)
	}
	return o.buf.Write(b)
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Eventually waits until ask returns a good answer, and fails with the last bad
// one when patience is over.
func Eventually(t testing.TB, patience time.Duration, what string, ask func() (good bool, answer string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		good, answer := ask()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v: %s", what, patience, answer)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
