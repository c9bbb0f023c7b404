package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minFree is the disk space below which a server does not start: etcd's log
// alone takes 64 MB at once.
const minFree = 256 << 20

var errNoRoot = errors.New("cox runs containers and so needs root: run it with sudo")

// preflight checks what the machine must have before anything is changed.
// All that is wrong is said at once, each with its remedy.
func (c *config) preflight() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.RuntimeEndpoint == "" && !c.NoNode {
		_, runc := exec.LookPath("runc")
		_, crun := exec.LookPath("crun")
		if runc != nil && crun != nil {
			add("neither runc nor crun is installed, and one of them starts the containers: apt-get install crun (or runc)")
		}
	}
	if err := cgroups(); err != nil {
		problems = append(problems, err)
	}
	kubelet := c.KubeletPort
	if c.NoNode {
		kubelet = 0
	}
	for _, p := range []struct {
		what, flag string
		port       int
	}{
		{"API server", "--https-listen-port", c.Port},
		{"kubelet", "--kubelet-port", kubelet},
	} {
		if p.port == 0 {
			continue // an agent has no API server, a server without a node no kubelet
		}
		if err := portFree(c.BindAddress, p.port); err != nil {
			add("port %d of the %s is in use (%w): stop what listens there or choose another with %s", p.port, p.what, err, p.flag)
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		add("the data directory cannot be made: %w", err)
	} else {
		var fs unix.Statfs_t
		if err := unix.Statfs(c.DataDir, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) < minFree {
			add("only %d MB are free under %s and cox needs %d to start: make room or choose another --data-dir",
				fs.Bavail*uint64(fs.Bsize)>>20, c.DataDir, minFree>>20)
		}
	}
	return errors.Join(problems...)
}

// cgroups checks that the controllers which pods need are there.
func cgroups() error {
	if raw, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		for _, want := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(" "+strings.TrimSpace(string(raw))+" ", " "+want+" ") {
				return fmt.Errorf("the cgroup v2 controller %q is not available: enable it on the kernel command line (cgroup_enable=%s) or in the container cox runs in", want, want)
			}
		}
		return nil
	}
	for _, want := range []string{"cpu", "memory"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + want); err != nil {
			return fmt.Errorf("no cgroups are mounted at /sys/fs/cgroup (controller %q is missing), and pods are limited by them: mount cgroup2 there, or the v1 controllers below it", want)
		}
	}
	return nil
}

// portFree says why a TCP port cannot be listened on, or nil.
func portFree(address string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		var sys *os.SyscallError
		if errors.As(err, &sys) {
			return sys.Err
		}
		return err
	}
	return l.Close()
}
