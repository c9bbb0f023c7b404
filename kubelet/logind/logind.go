// Package logind delays the machine's shutdown and tells of it, through
// systemd-logind on the system's D-Bus (org.freedesktop.login1).
package logind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// ErrNone says that the machine has no logind.
var ErrNone = errors.New("the machine has no systemd-logind")

const (
	service = "org.freedesktop.login1"
	path    = "/org/freedesktop/login1"
	manager = service + ".Manager"
	bus     = "/run/dbus/system_bus_socket"
)

// Inhibitor holds a lock that delays shutdowns. It is safe for concurrent use.
type Inhibitor struct {
	conn *dbus.Conn
	log  *slog.Logger

	mu sync.Mutex
	fd int // the lock; -1 while none is held
}

// Open connects to logind and takes the lock. want is how long the machine
// should wait; where logind is set to less, that is logged.
func Open(ctx context.Context, want time.Duration, log *slog.Logger) (*Inhibitor, error) {
	if _, err := os.Stat(bus); err != nil {
		return nil, ErrNone
	}
	return OpenOn(ctx, "unix:path="+bus, want, log)
}

// OpenOn is Open on another bus.
func OpenOn(ctx context.Context, address string, want time.Duration, log *slog.Logger) (*Inhibitor, error) {
	conn, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNone, err)
	}
	i := &Inhibitor{conn: conn, log: log, fd: -1}
	v, err := conn.Object(service, path).GetProperty(manager + ".InhibitDelayMaxUSec")
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %v", ErrNone, err)
	}
	if usec, ok := v.Value().(uint64); ok && time.Duration(usec)*time.Microsecond < want {
		log.Warn("logind delays shutdowns for less than the pods' grace period: set InhibitDelayMaxSec in /etc/systemd/logind.conf",
			"delay", time.Duration(usec)*time.Microsecond, "needed", want)
	}
	if err := i.Take(); err != nil {
		conn.Close()
		return nil, err
	}
	return i, nil
}

// Take takes the lock, if it is not held.
func (i *Inhibitor) Take() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fd >= 0 {
		return nil
	}
	var fd dbus.UnixFD
	err := i.conn.Object(service, path).Call(manager+".Inhibit", 0, "shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").Store(&fd)
	if err != nil {
		return fmt.Errorf("delay shutdowns: %w", err)
	}
	i.fd = int(fd)
	return nil
}

// Release lets a shutdown go on.
func (i *Inhibitor) Release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fd >= 0 {
		if err := syscall.Close(i.fd); err != nil {
			i.log.Warn("cannot let the shutdown go on", "error", err)
		}
		i.fd = -1
	}
}

// Watch returns a channel that tells true when the machine begins to shut
// down, and false when that was called off. It is closed when ctx or the
// connection ends.
func (i *Inhibitor) Watch(ctx context.Context) (<-chan bool, error) {
	err := i.conn.AddMatchSignal(dbus.WithMatchObjectPath(path), dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForShutdown"))
	if err != nil {
		return nil, fmt.Errorf("watch for shutdowns: %w", err)
	}
	signals, out := make(chan *dbus.Signal, 4), make(chan bool)
	i.conn.Signal(signals)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case s, ok := <-signals:
				if !ok {
					return
				}
				if len(s.Body) != 1 {
					continue
				}
				if begins, ok := s.Body[0].(bool); ok {
					select {
					case out <- begins:
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	return out, nil
}

// Close lets the lock and the connection go.
func (i *Inhibitor) Close() {
	i.Release()
	i.conn.Close()
}
