package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/coxswain/cox/internal/memory"
)

// begin is what server and agent do first: they begin their log, make sure
// that no other process works in their data directory, as long as lock is not
// closed, and that the machine has what a node needs.
func (c *config) begin(rep *report) (log *slog.Logger, lock io.Closer, err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	rep.log = log
	quiet(log)
	if os.Geteuid() != 0 {
		return nil, nil, errNoRoot
	}
	held, err := c.lock()
	if err != nil {
		return nil, nil, err
	}
	if err = c.preflight(); err == nil {
		err = c.claim()
	}
	if err != nil {
		held.Close()
		return nil, nil, err
	}
	return log, held, nil
}

// idleMemory gives back what the process does not need for now, and then each
// time that it is told to look and has come to rest.
func idleMemory(log *slog.Logger) *memory.Idle {
	return memory.NewIdle(releasePeriod, notReleased(log))
}

// releaseMemory does the same by itself, until ctx ends.
func releaseMemory(ctx context.Context, log *slog.Logger) {
	memory.ReleaseWhenIdle(ctx, releasePeriod, notReleased(log))
}

const releasePeriod = time.Minute

func notReleased(log *slog.Logger) func(error) {
	return func(err error) { log.Debug("memory was not given back", "error", err) }
}
