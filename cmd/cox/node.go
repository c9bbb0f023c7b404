package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/runtime"
)

// localNode is this machine as a node: runtime, kubelet, proxy, DNS.
type localNode struct {
	cfg     *config
	log     *slog.Logger
	group   *component.Group
	bundle  *pki.Bundle
	runtime *runtime.Runtime
	isReady chan struct{}
}

func newLocalNode(c *config, log *slog.Logger, group *component.Group, bundle *pki.Bundle) *localNode {
	return &localNode{cfg: c, log: log, group: group, bundle: bundle, isReady: make(chan struct{})}
}

// runtimeConfig says where this cluster's containerd lives on this machine.
func (c *config) runtimeConfig(log *slog.Logger) runtime.Config {
	return runtime.Config{
		Root: c.dir("containerd"), State: c.runDir() + "/containerd",
		CNIConfDir: c.CNIConfDir, CgroupRoot: "/" + c.cgroup(), Log: log,
	}
}

// cgroup is the name under which everything of this cluster's node runs.
func (c *config) cgroup() string {
	if c.Name == "cox" {
		return "cox"
	}
	return "cox-" + c.Name
}

func (n *localNode) startRuntime(ctx context.Context) error {
	if n.cfg.RuntimeEndpoint != "" {
		rt, err := runtime.Dial(n.cfg.RuntimeEndpoint)
		n.runtime = rt
		return err
	}
	rt, err := runtime.Start(ctx, n.cfg.runtimeConfig(n.log.With("component", "containerd")))
	n.runtime = rt
	return err
}

func (n *localNode) start(ctx context.Context, door, root client.Interface) error {
	close(n.isReady)
	return nil
}

func (n *localNode) ready() <-chan struct{} { return n.isReady }

// prepareStop runs before the components end.
func (n *localNode) prepareStop() {}

func (n *localNode) close() {
	if n.runtime == nil {
		return
	}
	if err := n.runtime.Close(); err != nil {
		n.log.Warn("close the runtime's connection", "error", err)
	}
	_ = fmt.Sprint(time.Second)
}
