// Command cox-containerd is containerd cut down to what CRI needs. cox
// carries it inside itself and runs it as a process of its own: a
// configuration file goes in, a CRI socket comes out.
//
// Usage: cox-containerd -config FILE -log FILE [-log-max BYTES] [-cgroup PATH] [-ready-fd N]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/grpclog"

	"github.com/coxswain/cox/internal/cgroup"
	"github.com/coxswain/cox/internal/memory"
	"github.com/coxswain/cox/internal/rotate"
)

type options struct {
	config, log, level, cgroup string
	logMax                     int64
	readyFD                    int
}

func main() {
	var o options
	flag.StringVar(&o.config, "config", "", "configuration `file`")
	flag.StringVar(&o.log, "log", "", "log `file` (standard error without it)")
	flag.StringVar(&o.level, "level", "warn", "log level")
	flag.Int64Var(&o.logMax, "log-max", 8<<20, "`bytes` after which the log file is begun anew; one old file is kept")
	flag.StringVar(&o.cgroup, "cgroup", "", "cgroup `path` to move to before anything else")
	flag.IntVar(&o.readyFD, "ready-fd", -1, "file descriptor that gets \"ready\\n\" or the reason of a failed start")
	flag.Parse()
	if err := run(o); err != nil {
		report(o.readyFD, err.Error()+"\n")
		fmt.Fprintln(os.Stderr, "cox-containerd:", err)
		os.Exit(1)
	}
}

// report tells the parent, which may be gone by now.
func report(fd int, s string) {
	if fd < 0 {
		return
	}
	f := os.NewFile(uintptr(fd), "ready")
	_, _ = io.WriteString(f, s)
	_ = f.Close()
}

func run(o options) error {
	// The heap of an idle containerd is a few megabytes; let it not grow to
	// many times that between two collections.
	debug.SetGCPercent(50)
	// The version that containers' specifications are marked with: crun before
	// 1.9 (Debian 12) refuses 1.1 and later, although all that it does not
	// know in there is optional.
	specs.Version = "1.0.2"
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	if o.readyFD >= 0 {
		unix.CloseOnExec(o.readyFD)
	}
	if o.log != "" {
		w, err := rotate.Open(o.log, o.logMax)
		if err != nil {
			return err
		}
		logrus.SetOutput(w)
	}
	if err := log.SetLevel(o.level); err != nil {
		return err
	}
	if o.cgroup != "" {
		// Not fatal: the runtime works anywhere, it only shares the fate of
		// the cgroup it was started in.
		if err := cgroup.Enter(o.cgroup, os.Getpid()); err != nil {
			log.L.WithError(err).Warn("cannot move to a cgroup of my own")
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// The parent's terminal or pipes may vanish; containers must not.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)

	cfg := &config.Config{Version: 3}
	if err := config.LoadConfig(ctx, o.config, cfg); err != nil {
		return fmt.Errorf("read the configuration %s: %w", o.config, err)
	}
	s, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	report(o.readyFD, "ready\n")
	go memory.ReleaseWhenIdle(ctx, time.Minute, func(err error) { log.L.WithError(err).Warn("cannot release memory") })
	log.L.Info("ready")
	<-ctx.Done()
	s.Stop()
	return nil
}

func start(ctx context.Context, cfg *config.Config) (*server.Server, error) {
	if err := server.CreateTopLevelDirectories(cfg); err != nil {
		return nil, err
	}
	// The database under the root blocks for ever when another process holds
	// it, so say what is wrong instead.
	if err := lock(filepath.Join(cfg.Root, "lock")); err != nil {
		return nil, err
	}
	if err := mount.SetTempMountLocation(filepath.Join(cfg.Root, "tmpmounts")); err != nil {
		return nil, fmt.Errorf("make the folder for temporary mounts: %w", err)
	}
	if warnings, err := mount.CleanupTempMounts(0); err != nil || len(warnings) > 0 {
		log.L.WithError(errors.Join(append(warnings, err)...)).Warn("left-over temporary mounts")
	}
	s, err := server.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	s.Wait()
	return s, nil
}

// lock holds a lock on path until the process ends.
func lock(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another containerd holds %s: %w", filepath.Dir(path), err)
	}
	return nil
}
