package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one running containerd, ours or found running.
type process struct {
	pid   int
	pidfd *os.File
}

// startTimeout bounds the start of containerd; it recovers every container
// there is before it is ready.
const startTimeout = 60 * time.Second

// find returns the containerd that serves the socket, or nil. The kernel
// says who listens, so no pid file can be stale.
func find(socket string) (*process, error) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return nil, nil
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("who listens on %s: %w", socket, credErr)
	}
	return watchPid(int(cred.Pid))
}

func watchPid(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	// In the poller, waiting for the end costs no thread.
	return &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// program is the path of what the process runs.
func (p *process) program() string {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	return strings.TrimSuffix(exe, " (deleted)")
}

// wait returns when the process has ended, or ctx has: then false.
func (p *process) wait(ctx context.Context) bool {
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		// The end shows as readable; reap it where it is our child.
		var si unix.Siginfo
		err := unix.Waitid(unix.P_PIDFD, int(fd), &si, unix.WEXITED|unix.WNOHANG, nil)
		if err == nil && si.Signo == 0 {
			return false // our child, alive
		}
		if err == nil {
			return true // our child, reaped
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
	return err == nil
}

// end asks the process to end, and makes it after the grace time.
func (p *process) end(grace time.Duration) {
	_ = unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGTERM, nil, 0)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if !p.wait(ctx) {
		_ = unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
		_ = p.pidfd.SetReadDeadline(time.Time{})
		p.wait(context.Background())
	}
}

// launch starts containerd and returns when it is ready.
func (r *Runtime) launch(ctx context.Context) (*process, error) {
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyR.Close()
	cmd := exec.Command(r.helpers.containerd, "-config", r.cfg.configFile(), "-log", r.cfg.logFile(),
		"-level", r.cfg.LogLevel, "-cgroup", r.cfg.cgroup(), "-ready-fd", "3")
	cmd.ExtraFiles = []*os.File{readyW}
	cmd.Dir = "/"
	// The shims and the OCI runtime inherit this, so no more than they need.
	cmd.Env = []string{"PATH=" + r.helpers.shimDir + ":" + searchPath(), "TMPDIR=" + filepath.Join(r.cfg.Root, "tmp")}
	// A session of its own: no signal from cox's terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyW.Close()
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	p, err := watchPid(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, cmd.Wait())
	}
	_ = cmd.Process.Release()

	stop := context.AfterFunc(ctx, func() { _ = readyR.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = readyR.SetReadDeadline(time.Now().Add(startTimeout))
	said, err := io.ReadAll(io.LimitReader(readyR, 4096))
	if bytes.Equal(said, []byte("ready\n")) {
		return p, nil
	}
	p.end(0)
	reason := strings.TrimSpace(string(said))
	if reason == "" {
		reason = "it ended without a word"
		if err != nil {
			reason = err.Error()
		}
	}
	return nil, fmt.Errorf("containerd did not start: %s (its log: %s)", reason, r.cfg.logFile())
}

func searchPath() string {
	const system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if p := os.Getenv("PATH"); p != "" {
		return p + ":" + system
	}
	return system
}

// supervise starts containerd again whenever it ends, until ctx does.
func (r *Runtime) supervise(ctx context.Context, p *process) {
	defer close(r.done)
	const minDelay, maxDelay = 100 * time.Millisecond, 30 * time.Second
	delay := minDelay
	for {
		started := time.Now()
		if p != nil {
			if !p.wait(ctx) {
				return // cox ends; containerd goes on
			}
			r.cfg.Log.Error("containerd ended; starting it again", "pid", p.pid, "log", r.cfg.logFile())
			p.pidfd.Close()
			if time.Since(started) > maxDelay {
				delay = minDelay
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, maxDelay)
		var err error
		if p, err = r.launch(ctx); err != nil {
			if ctx.Err() == nil {
				r.cfg.Log.Error("containerd", "err", err)
			}
			p = nil
			continue
		}
		r.conn.ResetConnectBackoff()
	}
}
