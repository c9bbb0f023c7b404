package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Empty nodes and take them out of the cluster"}
	cmd.AddCommand(nodeDrain(), nodeRemove())
	return cmd
}

// drain empties a node as kubectl drain does: daemons' pods stay, data in
// emptyDirs goes.
func (c *config) drain(name string, timeout time.Duration) error {
	os.Setenv("KUBECONFIG", c.Kubeconfig)
	if code := kubectl([]string{"drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=" + timeout.String()}); code != 0 {
		return fmt.Errorf("node %s could not be emptied; `cox kubectl uncordon %[1]s` lets it take pods again", name)
	}
	return nil
}

func nodeDrain() *cobra.Command {
	c := &config{}
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Let a node take no more pods and evict those it has, within their disruption budgets", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			return c.drain(args[0], timeout)
		},
	}
	c.clusterFlags(cmd.Flags(), "write-kubeconfig")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the pods' end; 0 is for ever")
	return cmd
}

func nodeRemove() *cobra.Command {
	c := &config{}
	var timeout time.Duration
	var force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Drain a node and take it out of the cluster; a node of cox up --nodes is removed from the machine too", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			name := args[0]
			if name == c.NodeName {
				return fmt.Errorf("%s is the server's own node: `cox down` stops it", name)
			}
			door, _, err := c.admin()
			if err != nil {
				return err
			}
			if !force {
				if err := c.drain(name, timeout); err != nil {
					return fmt.Errorf("%w; --force removes it all the same", err)
				}
			}
			// The agent goes first: it would register its node again.
			var problems []error
			for _, m := range c.machines() {
				if m.name == name {
					problems = append(problems, c.downMachine(cmd.Context(), m, true, false))
					if problems[0] == nil {
						problems = append(problems, os.RemoveAll(m.data))
					}
				}
			}
			err = client.Nodes.In(door, "").Delete(cmd.Context(), name, client.Options{})
			if apierrors.IsNotFound(err) {
				err = fmt.Errorf("there is no node %s", name)
			}
			if err := errors.Join(append(problems, err)...); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Node %s is out of the cluster. On its own machine, `cox down --purge` removes what is left.\n", name)
			return nil
		},
	}
	c.clusterFlags(cmd.Flags(), "write-kubeconfig")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the pods' end; 0 is for ever")
	cmd.Flags().BoolVar(&force, "force", false, "do not drain it first")
	return cmd
}
