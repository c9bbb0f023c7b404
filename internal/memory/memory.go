// Package memory gives back what a process has mapped and does not need for
// now.
package memory

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Release returns unused heap to the kernel and unmaps the pages of the
// program's code and constants, most of which only its start has touched, and
// of files that are mapped to be read (etcd's database): what is needed later
// comes back from the page cache, page by page. It is worth calling once when a
// process has become ready.
func Release() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	// What a loader relocated at start is read-only now, but its pages exist
	// nowhere else: only a static program's pages can come back from its file.
	if relocated, err := isRelocated(); err != nil || relocated {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	s := bufio.NewScanner(f)
	for s.Scan() {
		// "400000-123000 r-xp 00000000 fd:00 131 /path"
		fields := strings.Fields(s.Text())
		// Never what is writable: changes in it exist nowhere else. Nor another's
		// private mapping, which may have been written before.
		if len(fields) < 6 || strings.Contains(fields[1], "w") || fields[1] != "r--s" && strings.Join(fields[5:], " ") != exe {
			continue
		}
		from, to, ok := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if !ok || err1 != nil || err2 != nil || end <= start {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release %s: %w", fields[0], errno))
		}
	}
	return errors.Join(append(errs, s.Err())...)
}

// ReleaseWhenIdle calls Release at once and then looks every interval whether
// there is reason to do so again, as Idle says. It returns when ctx ends.
func ReleaseWhenIdle(ctx context.Context, interval time.Duration, failed func(error)) {
	i := NewIdle(interval, failed)
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			i.Look(now)
		}
	}
}

// Idle calls Release each time that the process has come to rest: whoever is
// awake anyway has it look, and rest is less than half a percent of a CPU
// between two looks. While it rests, Release is called again when the little
// that the process does has mapped much of the program, which the kernel does in
// pieces far greater than what was asked for. It is for one goroutine.
type Idle struct {
	interval time.Duration
	failed   func(error)
	rest     rest
	looked   time.Time
	used     time.Duration // of CPUs, at the last look
}

// NewIdle calls Release at once. Looks that come sooner than interval after the
// last one are none; failed is told why memory could not be released.
func NewIdle(interval time.Duration, failed func(error)) *Idle {
	i := &Idle{interval: interval, failed: failed, rest: rest{released: true}, looked: time.Now()}
	i.release()
	return i
}

func (i *Idle) release() {
	if err := Release(); err != nil {
		i.failed(err)
	}
	i.used = cpuTime() // time spent on releasing is not work
}

// Look looks whether memory is to be released now, and does so.
func (i *Idle) Look(now time.Time) {
	since := now.Sub(i.looked)
	if since < i.interval*9/10 { // whoever calls is not punctual
		return
	}
	i.looked = now
	used := cpuTime()
	if i.rest.next(used-i.used < since/200, mappedFiles()) {
		i.release()
		return
	}
	i.used = used
}

// slack is how much more of its files, in bytes, a resting process may have
// mapped than one interval after it came to rest.
const slack = 4 << 20

// rest decides when a process that is looked at every interval releases memory.
type rest struct {
	released bool
	base     int64 // bytes of files mapped an interval after the release, 0 when unknown
}

// next takes in whether the process was idle since the last look and how many
// bytes of files it has mapped, and says whether it is to release memory.
func (r *rest) next(idle bool, mapped int64) bool {
	switch {
	case !idle:
		*r = rest{}
		return false
	case !r.released:
		*r = rest{released: true}
		return true
	case r.base == 0:
		r.base = mapped
		return false
	}
	return mapped > r.base+slack
}

// mappedFiles is how much of its files the process has mapped, in bytes; 0 if
// that is not known (proc_pid_statm(5)).
func mappedFiles() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 3 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// cpuTime is what the process has used of CPUs.
func cpuTime() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// isRelocated says that the program was changed in memory while it was loaded
// (built with cgo or position independent).
func isRelocated() (bool, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false, fmt.Errorf("read the program's own headers: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_GNU_RELRO || p.Type == elf.PT_INTERP {
			return true, nil
		}
	}
	return false, nil
}
