package memory

import (
	"debug/elf"
	"os"
	"strconv"
	"strings"
	"testing"
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
	before := fileBytes(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if after := fileBytes(t); after >= before {
		t.Errorf("%d kB of files were mapped, %d kB are", before, after)
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
