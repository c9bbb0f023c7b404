package logind

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// login is a stand-in for logind on a bus of the test's own.
type login struct{ locks chan *os.File }

func (l *login) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	r, w, err := os.Pipe()
	if err != nil || what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(errors.New(what + " " + mode))
	}
	l.locks <- r // ends when the lock is let go
	return dbus.UnixFD(w.Fd()), nil
}

type properties struct{}

func (properties) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	return dbus.MakeVariant(uint64(5_000_000)), nil
}

func startBus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("there is no dbus-daemon")
	}
	cmd := exec.Command(program, "--session", "--nofork", "--print-address", "--address=unix:dir="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestInhibitor(t *testing.T) {
	address := startBus(t)
	server, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := &login{locks: make(chan *os.File, 4)}
	if err := server.Export(l, path, manager); err != nil {
		t.Fatal(err)
	}
	if err := server.Export(properties{}, path, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := server.RequestName(service, 0); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	i, err := OpenOn(t.Context(), address, time.Minute, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if !strings.Contains(text.String(), "InhibitDelayMaxSec") {
		t.Error("no warning that logind waits for too short a time")
	}
	events, err := i.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, begins := range []bool{true, false} {
		if err := server.Emit(path, manager+".PrepareForShutdown", begins); err != nil {
			t.Fatal(err)
		}
		if got := <-events; got != begins {
			t.Errorf("got %v, want %v", got, begins)
		}
	}
	<-l.locks
	i.Release()
	i.Release()
	if err := i.Take(); err != nil {
		t.Fatal(err)
	}
	if len(l.locks) != 1 {
		t.Error("the lock was not taken again")
	}
}

func TestNoBus(t *testing.T) {
	if _, err := OpenOn(t.Context(), "unix:path="+t.TempDir()+"/none", 0, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}
