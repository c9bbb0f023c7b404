package archive

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

func TestPauseIsAnExecutable(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		b, err := pauseELF(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
			t.Errorf("%s: machine %v, type %v, %d segments", arch, f.Machine, f.Type, len(f.Progs))
		}
		p := f.Progs[0]
		if p.Filesz != uint64(len(b)) || f.Entry <= p.Vaddr || f.Entry >= p.Vaddr+p.Memsz {
			t.Errorf("%s: entry %#x is outside of the segment %#x+%#x", arch, f.Entry, p.Vaddr, p.Memsz)
		}
		// The signal set, which ends the file, must be aligned.
		if len(b)%8 != 0 {
			t.Errorf("%s: the signal set is not aligned: the file has %d bytes", arch, len(b))
		}
	}
	if _, err := pauseELF("mips"); err == nil {
		t.Error("an unknown architecture must be an error")
	}
}

// The program ends at SIGTERM and SIGINT also as the first process of a PID
// namespace, where unhandled signals are thrown away.
func TestPauseEndsOnSignal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a PID namespace")
	}
	b, err := pauseELF(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.Command(path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitAsleep(t, cmd.Process.Pid)
		if err := cmd.Process.Signal(syscall.SIGCHLD); err != nil { // no child: must go on waiting
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}

// waitAsleep returns once the program waits for signals.
func waitAsleep(t *testing.T, pid int) {
	t.Helper()
	for {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.Contains(b, []byte("State:\tS")):
			return
		case bytes.Contains(b, []byte("State:\tZ")):
			t.Fatal("the program ended by itself")
		}
		runtime.Gosched()
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	img, err := Pause("cox.local/pause:1", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := Write(&a, img); err != nil {
		t.Fatal(err)
	}
	if err := Write(&b, img); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two archives of one image differ")
	}
}
