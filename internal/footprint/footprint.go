// Package footprint gives back memory that a process needed only to start:
// nothing goes in, the kernel gets pages.
package footprint

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim returns free heap to the kernel and drops the program's own code and
// constants from the process's memory; what runs again comes back from the
// page cache, a page fault each. It is meant to be called once, when starting
// is over. It is safe at any time; only clean, read-only mappings of the
// program's file are touched.
func Trim() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read the memory map: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if start, size, ok := readOnlyMapping(lines.Text(), exe); ok {
			// Errors leave the pages where they are.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED)
		}
	}
	return lines.Err()
}

// readOnlyMapping parses a line of /proc/self/maps and says whether it maps
// the file exe and cannot be written.
func readOnlyMapping(line, exe string) (start, size uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.Join(fields[5:], " ") != exe {
		return 0, 0, false
	}
	if perm := fields[1]; len(perm) != 4 || perm[0] != 'r' || perm[1] != '-' {
		return 0, 0, false
	}
	var end uintptr
	if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err != nil || end <= start {
		return 0, 0, false
	}
	return start, end - start, true
}
