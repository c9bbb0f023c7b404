package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// lockedElsewhere names the data directory that another run of this test
// program is to lock.
const lockedElsewhere = "COX_TEST_LOCK"

// TestHoldLock is no test: it is what the others run as a server that does not
// answer.
func TestHoldLock(t *testing.T) {
	dir := os.Getenv(lockedElsewhere)
	if dir == "" {
		t.Skip("only run by other tests")
	}
	c := &config{DataDir: dir, Name: "a"}
	if _, err := c.lock(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends, or a signal
}

// holdLock starts a process that locks the data directory.
func holdLock(t *testing.T, dir string) (*exec.Cmd, <-chan error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldLock$")
	cmd.Env = append(os.Environ(), lockedElsewhere+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatalf("the other process said %q: %v", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return cmd, ended
}

func TestStopServerThatDoesNotAnswer(t *testing.T) {
	c := &config{DataDir: t.TempDir(), Name: "a"}
	_, ended := holdLock(t, c.DataDir)
	lock, err := c.stopServer(context.Background(), io.Discard)
	if err != nil || lock == nil {
		t.Fatalf("stop: %v", err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("the server ended with %v, want by the signal", err)
	}
	if _, err := c.lock(); err == nil {
		t.Error("another server could begin while the first one's traces are removed")
	}
	lock.Close()
}

// TestStopServerSparesOthers: neither a process whose number stands in an old
// lock nor one that locks a folder which is not cox's is ended.
func TestStopServerSparesOthers(t *testing.T) {
	c := &config{DataDir: t.TempDir(), Name: "a"}
	cmd, ended := holdLock(t, c.DataDir)
	if err := os.WriteFile(c.dir("photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if lock, err := c.stopServer(context.Background(), io.Discard); err != nil || lock != nil {
		t.Errorf("a foreign folder: %v, %v", lock, err)
	}
	if err := os.Remove(c.dir("photo.jpg")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.dir("lock"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.stopServer(context.Background(), io.Discard); err == nil || !strings.Contains(err.Error(), "is locked") {
		t.Errorf("a lock that names another process: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("process %d was ended: %v", cmd.Process.Pid, err)
	default:
	}
}

func TestStopServerThatNeverWas(t *testing.T) {
	c := &config{DataDir: t.TempDir() + "/none", Name: "a"}
	if lock, err := c.stopServer(context.Background(), io.Discard); err != nil || lock != nil {
		t.Errorf("%v, %v", lock, err)
	}
}
