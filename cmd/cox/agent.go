package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coxswain/cox/internal/component"
)

func agentCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this machine as a further node of a cluster, in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := openReport()
			err := c.load(cmd.Flags())
			if err == nil && c.Server == "" {
				err = errors.New("--server is missing: the API server to join, such as https://192.0.2.1:6443")
			}
			if err == nil {
				ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				err = runAgent(ctx, c, report)
			}
			if err != nil {
				report.fail(err)
			}
			return err
		},
	}
	c.agentFlags(cmd.Flags())
	return cmd
}

// agent is one running `cox agent`.
type agent struct {
	cfg     *config
	log     *slog.Logger
	report  *report
	group   *component.Group
	started time.Time
	node    *localNode
	isReady atomic.Bool
}

// runAgent runs until ctx ends; the containers go on running then.
func runAgent(ctx context.Context, c *config, rep *report) error {
	log, lock, err := c.begin(rep)
	if err != nil {
		return err
	}
	defer lock.Close()
	debug.SetGCPercent(60)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &agent{cfg: c, log: log, report: rep, group: component.NewGroup(ctx, log), started: time.Now()}
	if err := c.serveControl(ctx, a.status); err != nil {
		return err
	}
	defer func() {
		a.group.Stop()
		if a.node != nil {
			a.node.close()
		}
		c.endControl()
	}()
	if err := a.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end before the server was there
		}
		return err
	}
	rep.ready()
	time.AfterFunc(settled, func() { a.node.idle.Store(idleMemory(log)) })
	<-ctx.Done()
	log.Info("stopping")
	return nil
}

// start joins the cluster while the runtime starts, then runs the node. It
// returns once the node is ready.
func (a *agent) start(ctx context.Context) error {
	c := a.cfg
	a.node = newLocalNode(c, a.log, a.group, a.report)
	runtimeReady := make(chan error, 1)
	go func() {
		begin := time.Now()
		err := a.node.startRuntime(ctx)
		if err == nil {
			a.report.done("container runtime", begin, a.node.runtime.Endpoint())
		}
		runtimeReady <- err
	}()
	begin := time.Now()
	j, joinErr := c.join(ctx, a.log)
	if err := <-runtimeReady; err != nil { // also so that no runtime is left behind
		return errors.Join(joinErr, fmt.Errorf("container runtime: %w", err))
	}
	if joinErr != nil {
		return joinErr
	}
	a.report.done("cluster", begin, j.url)

	begin = time.Now()
	a.group.Go("client-certificate", func(ctx context.Context) error { return j.client.Run(ctx, nil) })
	served := make(chan struct{})
	a.group.Go("serving-certificate", func(ctx context.Context) error {
		// The request is approved once the Node records its addresses.
		if err := j.serving.Ensure(ctx); err != nil {
			return err
		}
		select {
		case <-served:
		default:
			close(served)
		}
		return j.serving.Run(ctx, nil)
	})
	err := a.node.start(ctx, &access{
		kubelet: j.door, proxy: j.door, dns: j.door, server: strings.TrimPrefix(j.url, "https://"),
		serving:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return j.serving.Certificate() },
		clientCAs: func() *x509.CertPool { return j.pool },
	})
	if err != nil {
		return err
	}
	a.group.Go("servers", func(ctx context.Context) error { return j.servers.follow(ctx, j.door) })
	a.group.Go("local-volumes", func(ctx context.Context) error { return a.node.runLocalVolumes(ctx, j.door, j.door) })
	for _, ready := range []<-chan struct{}{a.node.ready(), served} {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	a.isReady.Store(true)
	a.report.done("node "+c.NodeName, begin, "Ready")
	return nil
}

func (a *agent) status() status {
	return status{
		Name: a.cfg.Name, Version: gitVersion, PID: os.Getpid(), Started: a.started, Server: a.cfg.Server,
		Node: a.cfg.NodeName, Ready: a.isReady.Load(), Components: a.group.Health(),
	}
}
