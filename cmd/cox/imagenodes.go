package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coxswain/cox/runtime"
)

// imageNodes says whose images a command of `cox image` is about.
type imageNodes struct {
	config
	node string // --node
}

// register adds the cluster's flags and --node, with what happens without.
func (n *imageNodes) register(cmd *cobra.Command, without string) {
	cmd.Flags().StringVar(&n.node, "node", "", "name of one of this cluster's nodes on this machine (default: "+without+")")
	n.clusterFlags(cmd.Flags(), "node")
}

const (
	ownNode   = "this machine's own node"
	everyNode = "all of them"
)

// nodeRuntime is a node on this machine and where its containerd answers.
type nodeRuntime struct{ node, endpoint string }

// each runs f with the runtime of every node that is meant: the one named, or
// this machine's own one, which comes first, and the further ones. It goes on
// after an error, which then names its node.
func (n *imageNodes) each(ctx context.Context, nodes []nodeRuntime, f func(ctx context.Context, rt *runtime.Runtime) error) error {
	var problems []error
	for _, at := range nodes {
		err := dialled(ctx, at.endpoint, f)
		if err != nil && len(nodes) > 1 {
			err = fmt.Errorf("node %s: %w", at.node, err)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// choose loads the configuration and returns the nodes that are meant.
func (n *imageNodes) choose(cmd *cobra.Command) ([]nodeRuntime, error) {
	if err := n.load(cmd.Flags()); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the node's images belong to root: run it with sudo")
	}
	if n.RuntimeEndpoint != "" {
		return nil, errors.New("this node uses another container runtime: import images with that runtime's own tool")
	}
	nodes := n.running(cmd.Context())
	if len(nodes) == 0 {
		return nil, fmt.Errorf("cluster %q does not run here: start it with `cox up`", n.Name)
	}
	if n.node == "" {
		return nodes, nil
	}
	var names []string
	for _, at := range nodes {
		if at.node == n.node {
			return []nodeRuntime{at}, nil
		}
		names = append(names, at.node)
	}
	return nil, fmt.Errorf("no node %q of cluster %q runs on this machine: there are %s", n.node, n.Name, strings.Join(names, ", "))
}

// only is choose for a command about one node.
func (n *imageNodes) only(cmd *cobra.Command, f func(ctx context.Context, rt *runtime.Runtime) error) error {
	nodes, err := n.choose(cmd)
	if err != nil {
		return err
	}
	return dialled(cmd.Context(), nodes[0].endpoint, f)
}

// running are this cluster's nodes on this machine whose containerd is there,
// this machine's own first. They are found by the cluster's name alone, under
// /run: whoever does not repeat --data-dir still reaches all of them.
func (c *config) running(ctx context.Context) []nodeRuntime {
	own := c.NodeName
	if s, err := c.ask(ctx); err == nil && s.Node != "" {
		own = s.Node // it may have been given a name at its start
	}
	found := []nodeRuntime{{own, c.runtimeConfig(slog.New(slog.DiscardHandler)).Endpoint()}}
	entries, _ := os.ReadDir(filepath.Join(c.runDir(), "nodes")) // none: no further nodes
	var further []int
	for _, e := range entries {
		if number, err := strconv.Atoi(e.Name()); err == nil && number >= 2 {
			further = append(further, number)
		}
	}
	slices.Sort(further)
	for _, number := range further {
		m := c.machine(number)
		found = append(found, nodeRuntime{fmt.Sprintf("%s-%d", own, number), c.machineRuntime(m).Endpoint()})
	}
	return slices.DeleteFunc(found, func(at nodeRuntime) bool {
		return !exists(strings.TrimPrefix(at.endpoint, "unix://"))
	})
}

// dialled runs f with a connection to a containerd.
func dialled(ctx context.Context, endpoint string, f func(ctx context.Context, rt *runtime.Runtime) error) error {
	rt, err := runtime.Dial(endpoint)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, rt), rt.Close())
}
