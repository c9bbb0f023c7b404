package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coxswain/cox/runtime"
)

// machine is a further node on this very machine: a `cox agent` in network
// and mount namespaces of its own, with its own /run, /var/lib and cgroup. The
// namespaces are pinned by files, so that they outlive the agent as its
// containers do.
type machine struct {
	number int    // 2 for the first
	name   string // of the node
	data   string // folder on this machine: what the node has as /var/lib
	run    string // folder on this machine: what the node has as /run
	pins   string // folder of the namespaces' pins
}

// agentName is the name under which the agent keeps what it makes.
func (c *config) agentName(n int) string { return fmt.Sprintf("%s-%d", c.Name, n) }

func (c *config) machine(n int) machine {
	return machine{
		number: n, name: fmt.Sprintf("%s-%d", c.NodeName, n),
		data: c.dir("nodes", strconv.Itoa(n)),
		run:  filepath.Join(c.runDir(), "nodes", strconv.Itoa(n), "run"), pins: filepath.Join(c.runDir(), "nodes", strconv.Itoa(n), "ns"),
	}
}

// machines are the further nodes that this cluster has, whether they run or
// not.
func (c *config) machines() []machine {
	entries, _ := os.ReadDir(c.dir("nodes"))
	var out []machine
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= 2 {
			out = append(out, c.machine(n))
		}
	}
	return out
}

// inside is the agent's configuration as it is within its namespaces.
func (c *config) inside(m machine) []string {
	return []string{
		"--config=/dev/null", "--name=" + c.agentName(m.number), "--data-dir=/var/lib/cox",
	}
}

// passedOn are those flags of this node's settings that further nodes share. The
// files that they name are the same there. A kubelet's folder belongs to one
// node: theirs is at the same place only below /var/lib, which each has for
// itself.
func (c *config) passedOn() []string {
	var out []string
	if dir := filepath.Clean(c.KubeletDir); strings.HasPrefix(dir, "/var/lib/") {
		out = append(out, "--kubelet-dir="+dir)
	}
	for _, f := range []struct{ name, value string }{
		{"healthz-bind-address", c.HealthzAddress}, {"metrics-bind-address", c.MetricsAddress},
	} {
		if c.given[f.name] {
			out = append(out, "--"+f.name+"="+f.value)
		}
	}
	for _, f := range []struct{ name, value string }{
		{"registry-dir", c.RegistryDir}, {"kubelet-config", c.KubeletConfig}, {"kubelet-config-dir", c.KubeletConfigDir},
	} {
		if f.value == "" {
			continue
		}
		if path, err := filepath.Abs(f.value); err == nil {
			f.value = path
		}
		out = append(out, "--"+f.name+"="+f.value)
	}
	return out
}

// upNodes brings up the further nodes 2..n: those that do not run are started
// side by side.
func (c *config) upNodes(ctx context.Context, out io.Writer, n int) error {
	for _, m := range c.machines() {
		n = max(n, m.number) // those that are there already come back too
	}
	if n < 2 {
		return nil
	}
	wires, err := c.ensureBridge()
	if err != nil {
		return fmt.Errorf("network of the further nodes: %w", err)
	}
	token := ""
	errs := make(chan error, n)
	for i := 2; i <= n; i++ {
		m := c.machine(i)
		if token == "" && !exists(filepath.Join(m.data, "cox", "agent", "kubelet-client.crt")) {
			if token, err = c.ownToken(ctx); err != nil {
				return err
			}
		}
		if err := c.ensureMachine(m, wires); err != nil {
			return fmt.Errorf("namespaces of node %s: %w", m.name, err)
		}
		go func() {
			begin := time.Now()
			ran, err := c.upAgent(ctx, out, m, wires, token)
			if err != nil {
				err = fmt.Errorf("node %s: %w", m.name, err)
			} else if !ran {
				fmt.Fprintf(out, "  %-28s %6d ms  Ready\n", "node "+m.name, time.Since(begin).Milliseconds())
			}
			errs <- err
		}()
	}
	var problems []error
	for i := 2; i <= n; i++ {
		problems = append(problems, <-errs)
	}
	if token != "" {
		problems = append(problems, c.dropToken(token))
	}
	return errors.Join(problems...)
}

// dropToken deletes a token that has served.
func (c *config) dropToken(token string) error {
	door, _, err := c.admin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return deleteToken(ctx, door, token)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ownToken makes a token that lasts as long as a start may take.
func (c *config) ownToken(ctx context.Context) (string, error) {
	door, cfg, err := c.admin()
	if err != nil {
		return "", err
	}
	token, err := createToken(ctx, door, cfg.CAData, 15*time.Minute, "nodes of cox up --nodes")
	return token.String(), err
}

// upAgent starts a node's agent and waits until its node is ready. ran says
// that it ran already.
func (c *config) upAgent(ctx context.Context, out io.Writer, m machine, w *wires, token string) (ran bool, err error) {
	there := *c
	there.Name = c.agentName(m.number)
	there.control = filepath.Join(m.run, "cox-"+there.Name, "control.sock")
	if s, err := there.ask(ctx); err == nil {
		if !s.Ready {
			return true, fmt.Errorf("it runs (pid %d) but is not ready: see %s", s.PID, m.log())
		}
		return true, nil
	}
	args := append([]string{"agent"}, c.inside(m)...)
	args = append(args,
		"--server=https://"+c.advertised(), // which is in its certificate
		"--node-name="+m.name, "--node-ip="+w.address(m.number).String(), "--kubelet-port="+strconv.Itoa(c.KubeletPort),
		"--max-pods="+strconv.Itoa(c.MaxPods), "--log-level="+c.LogLevel,
		"--node-via="+c.NodeName+"="+w.host.Addr().String(),
	)
	if err := os.MkdirAll(filepath.Dir(m.log()), 0o700); err != nil {
		return false, err
	}
	if err := c.shareArchives(m); err != nil {
		return false, err
	}
	args = append(args, c.passedOn()...)
	resolv, err := m.resolvConf(c.ResolvConf)
	if err != nil {
		return false, err
	}
	args = append(args, "--resolv-conf="+resolv)
	logFile, err := os.OpenFile(m.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, fmt.Errorf("open the log: %w", err)
	}
	defer logFile.Close()
	r, pipe, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer r.Close()
	child, err := selfCommand(args)
	if err != nil {
		return false, err
	}
	child.Env = append(child.Env, fmt.Sprintf("COX_REPORT_FD=%d", reportFD))
	if token != "" {
		child.Env = append(child.Env, "COX_TOKEN="+token)
	}
	child.Stdout, child.Stderr, child.ExtraFiles = logFile, logFile, []*os.File{pipe}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = m.start(child)
	pipe.Close()
	if err != nil {
		return false, fmt.Errorf("start the agent: %w", err)
	}
	go func() { _ = child.Wait() }()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s step
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue
		}
		if s.Error != "" {
			return false, errors.New(s.Error)
		}
		if s.Warning != "" {
			fmt.Fprintf(out, "Warning: node %s: %s\n", m.name, s.Warning)
		}
		if s.Ready {
			return false, nil
		}
	}
	return false, fmt.Errorf("it is not ready: see %s", m.log())
}

// resolvConf is where the node finds this machine's resolver configuration:
// it cannot see what lies in /run and /var/lib.
func (m *machine) resolvConf(path string) (string, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if !strings.HasPrefix(path, "/run/") && !strings.HasPrefix(path, "/var/lib/") {
		return path, nil
	}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.data, "resolv.conf"), raw, 0o644)
	}
	return "/var/lib/resolv.conf", err
}

func (m *machine) log() string { return filepath.Join(m.data, "cox", "log", "cox.log") }

// selfCommand is this program with other arguments, and without the settings
// that its own environment makes.
func selfCommand(args []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = "/"
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COX_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	return cmd, nil
}

// downNodes stops the further nodes as their own `cox down` does within their
// namespaces, which purge removes too. It goes on after an error.
func (c *config) downNodes(ctx context.Context, purge, keep bool) []error {
	var problems []error
	for _, m := range c.machines() {
		if err := c.downMachine(ctx, m, purge, keep); err != nil {
			problems = append(problems, fmt.Errorf("node %s: %w", m.name, err))
		}
	}
	if purge {
		problems = append(problems, c.removeBridge())
	}
	return problems
}

func (c *config) downMachine(ctx context.Context, m machine, purge, keep bool) error {
	// A purge that failed elsewhere may have let the namespaces go already.
	if pinned(m.pin("mnt")) && pinned(m.pin("net")) {
		args := append([]string{"down"}, c.inside(m)...)
		if purge {
			args = append(args, "--purge")
		}
		if keep {
			args = append(args, "--keep-pods")
		}
		cmd, err := selfCommand(args)
		if err != nil {
			return err
		}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := m.start(cmd); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		stop()
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
		}
	}
	if !purge {
		return nil
	}
	return errors.Join(runtime.Purge(ctx, c.machineRuntime(m)), m.unpin())
}

// machineRuntime is a node's runtime as it is seen from outside.
func (c *config) machineRuntime(m machine) runtime.Config {
	name := "cox-" + c.agentName(m.number)
	return runtime.Config{Root: filepath.Join(m.data, "cox", "containerd"), State: filepath.Join(m.run, name, "containerd"), CgroupRoot: "/" + name}
}

// nodeSubnets are where the further nodes' addresses are taken from: the
// first /24 in which this machine has neither address nor route.
var nodeSubnets = netip.MustParsePrefix("10.89.0.0/16")
