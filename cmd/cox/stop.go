package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopServer ends the server or agent that uses the data directory, whether it
// answers or not, and waits for its end. It returns with the directory locked,
// so that none starts until the file is closed; nil for a directory that no
// server ever used, and for a foreign folder, whatever lock is in it.
func (c *config) stopServer(ctx context.Context, out io.Writer) (*os.File, error) {
	if !exists(c.dir(marker)) {
		if entries, err := os.ReadDir(c.DataDir); err != nil || !onlyOurs(entries) {
			return nil, nil
		}
	}
	f, pid, err := c.lockHolder(ctx)
	if err != nil || pid == 0 {
		return f, err
	}
	// A pidfd names this very process, so waiting neither polls nor meets a
	// process that was given the same number later.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("find the server's process %d: %w", pid, err)
	}
	if err == nil {
		defer unix.Close(fd)
		fmt.Fprintf(out, "Stopping cluster %q (pid %d)\n", c.Name, pid)
		if err := end(fd, pid, out); err != nil {
			return nil, err
		}
	}
	if f, pid, err = c.lockHolder(ctx); err == nil && pid != 0 {
		err = fmt.Errorf("%s is used by process %d, which began meanwhile: run it again", c.DataDir, pid)
	}
	return f, err
}

// lockHolder locks the data directory, or says which process has locked it.
// The lock is the truth about who runs: a server that only begins, or hangs,
// does not answer on its control socket.
func (c *config) lockHolder(ctx context.Context) (*os.File, int, error) {
	f, err := os.OpenFile(c.dir("lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("lock the data directory: %w", err)
	}
	for range 100 {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, 0, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, 0, errors.Join(fmt.Errorf("lock the data directory: %w", err), f.Close())
		}
		b := make([]byte, 16)
		n, _ := f.ReadAt(b, 0)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil && hasOpen(pid, f) {
			return nil, pid, f.Close()
		}
		// It has locked the directory but not yet written who it is, or ends.
		select {
		case <-ctx.Done():
			return nil, 0, errors.Join(ctx.Err(), f.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil, 0, errors.Join(fmt.Errorf("%s is locked, and its file lock does not say by which process: end that process first", c.DataDir), f.Close())
}

// hasOpen says whether a process has the file open: the number in it may be of
// an earlier server, and somebody else's by now.
func hasOpen(pid int, f *os.File) bool {
	want, err := f.Stat()
	if err != nil {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if have, err := os.Stat(filepath.Join(dir, fd.Name())); err == nil && os.SameFile(have, want) {
			return true
		}
	}
	return false
}

// end asks a process to end, and kills it when it does not.
func end(fd, pid int, out io.Writer) error {
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop the server (pid %d): %w", pid, err)
	}
	for _, patience := range []time.Duration{60 * time.Second, 5 * time.Second} {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for deadline := time.Now().Add(patience); ; {
			n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
			if n > 0 {
				return nil
			}
			if !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
				break
			}
		}
		fmt.Fprintln(out, "It does not end; killing it.")
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return fmt.Errorf("the server (pid %d) cannot be killed: it hangs in the kernel, see dmesg", pid)
}
