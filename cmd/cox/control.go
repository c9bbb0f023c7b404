package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/internal/component"
)

// status is what a running server tells about itself on its control socket.
type status struct {
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	PID        int                `json:"pid"`
	Started    time.Time          `json:"started"`
	Server     string             `json:"server"`
	Kubeconfig string             `json:"kubeconfig"`
	Node       string             `json:"node"`
	Ready      bool               `json:"ready"`
	Components []component.Health `json:"components"`
}

// step is one line of a server's report to whoever started it.
type step struct {
	Name   string `json:"name,omitempty"`
	Detail string `json:"detail,omitempty"`
	Millis int64  `json:"ms"`
	Ready  bool   `json:"ready,omitempty"`
	Error  string `json:"error,omitempty"`
	// Warning goes by itself.
	Warning string `json:"warning,omitempty"`
}

// controlSocket is where a server of this data directory answers. Unix socket
// paths are short, so it lies in /run under the cluster's name.
func (c *config) controlSocket() string {
	if c.control != "" {
		return c.control
	}
	return filepath.Join(c.runDir(), "control.sock")
}

// endControl removes the control socket, and the folder of what runs unless
// there is more in it, such as containers.
func (c *config) endControl() {
	_ = os.Remove(c.controlSocket())
	_ = os.Remove(c.runDir())
}

// runDir holds sockets and what else does not outlive the machine's boot.
func (c *config) runDir() string { return filepath.Join("/run", "cox-"+c.Name) }

// ask reads the status of the running server; os.ErrNotExist when none runs.
func (c *config) ask(ctx context.Context) (*status, error) {
	hc := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.controlSocket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cox/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, os.ErrNotExist
		}
		return nil, fmt.Errorf("ask the running server on %s: %w", c.controlSocket(), err)
	}
	defer resp.Body.Close()
	var s status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("the server on %s gave no status: %w", c.controlSocket(), err)
	}
	return &s, nil
}

// serveControl answers on the control socket until ctx ends. Only root may
// connect. The folder lets others through, since pods with a user namespace of
// their own reach their root file systems by it.
func (c *config) serveControl(ctx context.Context, current func() status) error {
	if err := os.MkdirAll(c.runDir(), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(c.runDir(), 0o700); err != nil {
		return err
	}
	_ = os.Remove(c.controlSocket()) // of a server that was killed; the lock says there is no other
	l, err := net.Listen("unix", c.controlSocket())
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	// In this order, that nobody finds the socket open.
	if err := errors.Join(os.Chmod(c.controlSocket(), 0o600), os.Chmod(c.runDir(), 0o711)); err != nil {
		l.Close()
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(current())
	})
	// For profiles of a running server:
	// curl --unix-socket /run/cox-cox/control.sock http://cox/debug/pprof/...
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }()
	return nil
}

// lock makes this process the only server on the data directory.
func (c *config) lock() (*os.File, error) {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := os.OpenFile(c.dir("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := make([]byte, 16)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, fmt.Errorf("%s is in use by another cox (pid %s); stop it with `cox down`, or give this one its own --data-dir, --name and ports",
			c.DataDir, strings.TrimSpace(string(pid[:n])))
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w; is the disk full?", f.Name(), err)
	}
	return f, nil
}

// marker is the file by which a data directory is known to be cox's.
const marker = "cox.json"

// mark is what the marker says: whose the data directory is, and what beside
// it on the machine is that cluster's.
type mark struct {
	identity
	ClusterDNS string `json:"clusterDNS,omitempty"`
	Kubeconfig string `json:"kubeconfig,omitempty"`
}

// identity is what does not change between two starts.
type identity struct {
	Name        string `json:"name"`
	ClusterCIDR string `json:"clusterCIDR"`
	ServiceCIDR string `json:"serviceCIDR"`
	// Agent says that it is a node's without a server.
	Agent bool `json:"agent,omitempty"`
}

// adoptMark makes the settings of the data directory's cluster this one's, so
// that what ends a cluster need not be told them again, and never ends another
// one. A data directory without a marker is left to the caller.
func (c *config) adoptMark() error {
	raw, err := os.ReadFile(c.dir(marker))
	var have mark
	if err != nil || json.Unmarshal(raw, &have) != nil || have.Agent {
		return nil
	}
	if c.Name != have.Name && c.Name != defaultName {
		return fmt.Errorf("%s belongs to cluster %q, not to %q: give its own --data-dir with --name", c.DataDir, have.Name, c.Name)
	}
	c.Name, c.ClusterCIDR, c.ServiceCIDR = have.Name, have.ClusterCIDR, have.ServiceCIDR
	if have.ClusterDNS != "" {
		c.ClusterDNS = have.ClusterDNS
	}
	if have.Kubeconfig != "" {
		c.Kubeconfig = have.Kubeconfig
	}
	return nil
}

// claim checks that the data directory is empty or this cluster's, and marks
// it.
func (c *config) claim() error {
	want := mark{identity{c.Name, c.ClusterCIDR, c.ServiceCIDR, c.Server != ""}, c.ClusterDNS, ""}
	if c.Kubeconfig != "" {
		path, err := filepath.Abs(c.Kubeconfig)
		if err != nil {
			return err
		}
		want.Kubeconfig = path
	}
	raw, err := os.ReadFile(c.dir(marker))
	if err == nil {
		var have mark
		if err := json.Unmarshal(raw, &have); err != nil {
			return fmt.Errorf("%s is damaged (%w): restore it from a backup, or remove %s with `cox down --purge` to begin anew", c.dir(marker), err, c.DataDir)
		}
		if have.Agent != want.Agent {
			return fmt.Errorf("%s is that of a server or of an agent, whichever this is not: use another --data-dir", c.DataDir)
		}
		if have.identity != want.identity {
			return fmt.Errorf("%s belongs to cluster %q (pods %s, services %s), not to %q (pods %s, services %s): use the same settings as before, or another --data-dir",
				c.DataDir, have.Name, have.ClusterCIDR, have.ServiceCIDR, want.Name, want.ClusterCIDR, want.ServiceCIDR)
		}
		if have == want {
			return nil
		}
		return c.writeMark(want)
	}
	if !os.IsNotExist(err) {
		return fmt.Errorf("read the data directory: %w", err)
	}
	entries, err := os.ReadDir(c.DataDir)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case slices.Contains([]string{"lock", "log", "manifests", "lost+found", "images", "pki"}, name):
		case atomicfile.Unfinished(name, marker): // killed in its first moment
			if err := os.Remove(c.dir(name)); err != nil {
				return fmt.Errorf("clear the data directory: %w", err)
			}
		default:
			return fmt.Errorf("%s holds %q and is not a data directory of cox: choose an empty --data-dir", c.DataDir, e.Name())
		}
	}
	return c.writeMark(want)
}

func (c *config) writeMark(m mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(c.dir(marker), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("write to the data directory: %w; is the disk full?", err)
	}
	return nil
}
