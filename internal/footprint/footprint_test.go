package footprint

import (
	"os"
	"testing"
)

func TestTrimLeavesTheProgramRunning(t *testing.T) {
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyReadOnlyMappingsOfTheProgram(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00500000 r-xp 00001000 fe:00 12 /bin/x":           true,
		"00400000-00500000 r--p 00001000 fe:00 12 /bin/x":           true,
		"00400000-00500000 rw-p 00001000 fe:00 12 /bin/x":           false,
		"00400000-00500000 r-xp 00001000 fe:00 12 /lib/y":           false,
		"00400000-00500000 r-xp 00001000 fe:00 12 /bin/x (deleted)": false,
		"7ff000-7fffff r-xp 00000000 00:00 0 [vdso]":                false,
		"": false,
	} {
		start, size, ok := readOnlyMapping(line, "/bin/x")
		if ok != want || ok && (start != 0x400000 || size != 0x100000) {
			t.Errorf("%q: %x %x %v, want %v", line, start, size, ok, want)
		}
	}
}
