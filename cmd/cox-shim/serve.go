package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// pod is what a serving shim is told about itself. It runs in the bundle of
// its pod's sandbox.
type pod struct {
	namespace string // containerd's
	id        string
	debug     bool
}

// servingPod reads a shim's command line; false when it is asked for something
// that is done and over (starting a shim, cleaning up after one).
func servingPod(args []string) (pod, bool) {
	var p pod
	var info, version bool
	f := flag.NewFlagSet("cox-shim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&p.namespace, "namespace", "", "")
	f.StringVar(&p.id, "id", "", "")
	f.BoolVar(&p.debug, "debug", false, "")
	f.BoolVar(&info, "info", false, "")
	f.BoolVar(&version, "v", false, "")
	f.BoolVar(&version, "version", false, "")
	for _, other := range []string{"address", "bundle", "publish-binary"} {
		f.String(other, "", "")
	}
	err := f.Parse(args)
	return p, err == nil && f.NArg() == 0 && !info && !version && p.namespace != ""
}

// socketFD is the file on which whoever started the shim hands it its socket.
const socketFD = 3

// endPatience bounds the wait for what is to be done when a shim ends.
const endPatience = 5 * time.Second

// serve is the shim for as long as its pod lives (containerd's runtime v2
// documentation): it serves the task API on the socket that it was handed and
// reaps what its containers leave. The library's own way to serve collects
// garbage twice a minute; a node has as many shims as pods, and theirs sleep.
func serve(ctx context.Context, p pod) error {
	if err := reaper.SetSubreaper(1); err != nil {
		return fmt.Errorf("become the reaper of the containers' processes: %w", err)
	}
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGPIPE, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1)
	if err := logToBundle(p.debug); err != nil {
		return err
	}
	ctx = log.WithLogger(namespaces.WithNamespace(ctx, p.namespace), log.L.WithField("shim", p.id))
	ctx, down := shutdown.WithShutdown(ctx)
	defer down.Shutdown()

	rest := newRest()
	publisher, err := shim.NewPublisher(os.Getenv("TTRPC_ADDRESS"))
	if err != nil {
		return fmt.Errorf("connect to containerd's events: %w", err)
	}
	inner, err := task.NewTaskService(ctx, publisher, down)
	if err != nil {
		return fmt.Errorf("make the task service: %w", err)
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()), ttrpc.WithUnaryServerInterceptor(rest.intercept))
	if err != nil {
		return fmt.Errorf("make the server of the task API: %w", err)
	}
	if err := newTasks(inner, down.Shutdown).RegisterTTRPC(server); err != nil {
		return fmt.Errorf("register the task API: %w", err)
	}
	l, err := net.FileListener(os.NewFile(socketFD, "socket"))
	if err != nil {
		return fmt.Errorf("the socket handed over as file %d: %w", socketFD, err)
	}
	defer removeSocket(l)
	go func() {
		defer l.Close()
		if err := server.Serve(ctx, l); err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
			log.G(ctx).WithError(err).Error("the server of the task API ended")
			down.Shutdown()
		}
	}()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case s := <-signals:
			rest.disturbed()
			handle(ctx, s, down.Shutdown)
		}
	}
	select {
	case <-down.Done():
		return nil
	case <-time.After(endPatience):
		return errors.New("what a shim does at its end takes too long")
	}
}

// handle does what a signal asks for.
func handle(ctx context.Context, s os.Signal, end func()) {
	switch s {
	case unix.SIGCHLD:
		if err := reaper.Reap(); err != nil {
			log.G(ctx).WithError(err).Error("reap ended processes")
		}
	case unix.SIGTERM, unix.SIGINT:
		end()
	case unix.SIGUSR1:
		buf := make([]byte, 1<<20)
		log.G(ctx).Infof("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
	}
}

// removeSocket removes a listener's socket from the file system, where it has
// a name there.
func removeSocket(l net.Listener) {
	if name := l.Addr().String(); strings.HasPrefix(name, "/") {
		_ = os.Remove(name)
	}
}

// logToBundle sends the log, and what Go's runtime says when it gives up, to
// the pipe in the bundle that containerd reads. If nobody reads it, nothing is
// logged.
func logToBundle(debug bool) error {
	log.L.Logger.SetOutput(io.Discard)
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	if debug {
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	// Without waiting for a reader: containerd opens its end first.
	f, err := os.OpenFile("log", os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	if err := unix.Dup3(int(f.Fd()), unix.Stderr, 0); err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	log.L.Logger.SetOutput(f)
	return nil
}
