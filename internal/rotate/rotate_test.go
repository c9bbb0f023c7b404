package rotate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The writer takes over the process's output, so the test runs in another.
func TestMain(m *testing.M) {
	if path := os.Getenv("ROTATE_TO"); path != "" {
		w, err := Open(path, 1000)
		if err != nil {
			panic(err)
		}
		for i := range 100 {
			fmt.Fprintf(w, "line %02d of the log\n", i)
		}
		panic("the end")
	}
	os.Exit(m.Run())
}

func TestLogIsBoundedAndHoldsTheCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ROTATE_TO="+path)
	out, err := cmd.CombinedOutput()
	if err == nil || len(out) != 0 {
		t.Errorf("ended with %v and wrote %q elsewhere", err, out)
	}
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, st.Mode())
		}
	}
	old, _ := os.ReadFile(path + ".1")
	last, _ := os.ReadFile(path)
	if len(old) > 1000 || !strings.HasSuffix(string(old), "\n") {
		t.Errorf("the old file has %d bytes", len(old))
	}
	if !strings.Contains(string(last), "line 99 of the log\n") || !strings.Contains(string(last), "panic: the end") {
		t.Errorf("the end is missing: %q", last)
	}
}
