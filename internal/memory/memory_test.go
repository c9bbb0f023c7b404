package memory

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fileBytes is how much of files is mapped into the process and resident.
func fileBytes(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "RssFile:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("the kernel does not tell RssFile")
	return 0
}

func TestReleaseShrinksAndTheProgramGoesOn(t *testing.T) {
	if relocated, err := isRelocated(); err != nil || relocated {
		t.Skip("the pages of a program that its loader has relocated are kept: ", err)
	}
	const size = 8 << 20
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(data) }()
	if n := bytes.Count(data, []byte("x")); n != size {
		t.Fatal(n)
	}
	before := fileBytes(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if after := fileBytes(t); after >= before-size>>10 {
		t.Errorf("%d kB of files were mapped, %d kB are", before, after)
	}
	if n := bytes.Count(data, []byte("x")); n != size {
		t.Errorf("of %d bytes %d are left", size, n)
	}
}

// TestRelocatedProgramsAreLeftAlone holds whichever way it is built: a dynamic one
// must be told apart, since its read-only pages cannot be read again.
func TestRelocatedProgramsAreLeftAlone(t *testing.T) {
	relocated, err := isRelocated()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if dynamic := f.Section(".dynamic") != nil; dynamic != relocated {
		t.Errorf("this program is dynamic: %v, but relocated: %v", dynamic, relocated)
	}
}

func TestRest(t *testing.T) {
	r := rest{released: true}
	for i, look := range []struct {
		idle   bool
		mapped int64
		want   bool
	}{
		{false, 40 << 20, false},
		{true, 40 << 20, true}, // at rest
		{true, 20 << 20, false},
		{true, 23 << 20, false}, // a little more
		{true, 25 << 20, true},
		{true, 21 << 20, false},
		{false, 50 << 20, false},
		{false, 50 << 20, false},
		{true, 50 << 20, true},
		{true, 30 << 20, false}, // it has other things to do now
		{true, 33 << 20, false},
		{true, 35 << 20, true},
	} {
		if got := r.next(look.idle, look.mapped); got != look.want {
			t.Errorf("look %d: %v", i, got)
		}
	}
}

func TestMappedFiles(t *testing.T) {
	if n := mappedFiles(); n < 1<<20 {
		t.Errorf("%d bytes of files are mapped: this program is larger", n)
	}
}

// An Idle that is made to look more often than it wants to does nothing.
func TestIdleLooksAtItsPace(t *testing.T) {
	i := NewIdle(time.Minute, func(err error) { t.Error(err) })
	begin := i.looked
	i.rest = rest{} // as after work
	for s := range 50 {
		i.Look(begin.Add(time.Duration(s) * time.Second))
	}
	if i.rest.released || i.looked != begin {
		t.Error("looked sooner than its interval after the last look")
	}
	i.used = cpuTime() // nothing was used since
	i.Look(begin.Add(time.Hour))
	if !i.rest.released || i.looked != begin.Add(time.Hour) {
		t.Error("did not release memory although nothing was done for an hour")
	}
}
