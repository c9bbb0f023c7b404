package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/datapath/lb"
	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/runtime"
)

func downCommand() *cobra.Command {
	c := &config{}
	var purge, keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster on this machine; --purge removes every trace of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("cox down stops containers and so needs root: sudo cox down")
			}
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			return c.down(cmd.Context(), cmd.OutOrStdout(), purge, keep)
		},
	}
	c.clusterFlags(cmd.Flags(), "write-kubeconfig")
	cmd.Flags().BoolVar(&purge, "purge", false, "remove every trace: processes, mounts, links, nftables tables, cgroups and all data")
	cmd.Flags().BoolVar(&keep, "keep-pods", false, "leave the containers running, to be found again by the next cox up")
	return cmd
}

// down stops the server, then the pods and the runtime unless they are to be
// kept. With purge it goes on after an error and returns all of them.
func (c *config) down(ctx context.Context, out io.Writer, purge, keep bool) error {
	if err := c.adoptMark(); err != nil {
		return err
	}
	isAgent, err := c.adoptKept()
	if err != nil && !purge {
		return err
	}
	if isAgent {
		c.Kubeconfig = "" // an agent writes none
	}
	var nodes error
	if exists(c.dir(marker)) {
		nodes = errors.Join(c.downNodes(ctx, purge, keep)...)
	}
	if nodes != nil && !purge {
		return nodes
	}
	// Nothing is taken from under a server that cannot be stopped, and none
	// starts before this ends.
	lock, err := c.stopServer(ctx, out)
	if err != nil {
		return err
	}
	if lock != nil {
		defer lock.Close()
	}
	if keep && !purge {
		fmt.Fprintln(out, "Stopped. The containers go on running.")
		return nil
	}
	log := slog.New(slog.DiscardHandler)
	if !purge {
		if err := c.stopPods(ctx, log); err != nil {
			return fmt.Errorf("stop the pods: %w", err)
		}
		// Rules that lead to pods that are gone would let clients wait instead
		// of telling them.
		if c.RuntimeEndpoint == "" {
			if err := c.purgeServices(); err != nil {
				return err
			}
		}
		fmt.Fprintf(out, "Stopped. The cluster's data stay in %s; `cox up` brings it back.\n", c.DataDir)
		return nil
	}
	problems := []error{nodes}
	if _, err := os.Stat(c.dir(marker)); err != nil {
		if entries, err := os.ReadDir(c.DataDir); err == nil && len(entries) > 0 && !onlyOurs(entries) {
			return fmt.Errorf("%s is not a data directory of cox; nothing was removed", c.DataDir)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	problems = append(problems, runtime.Purge(ctx, c.runtimeConfig(log)))
	problems = append(problems, c.purgeNetwork()...)
	// The data directory may be a file system of its own, which is not ours.
	entries, err := os.ReadDir(c.DataDir)
	if err != nil && !os.IsNotExist(err) {
		problems = append(problems, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			problems = append(problems, mountinfo.UnmountBelow(c.dir(e.Name())))
		}
	}
	problems = append(problems, mountinfo.UnmountBelow(c.runDir()), c.purgeKubelet())
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("not everything could be removed, and the data were kept; run it again after mending this: %w", err)
	}
	// The mark by which the folder is known goes last, so that a purge that
	// could not remove everything can be repeated.
	for _, e := range entries {
		if e.Name() != marker {
			problems = append(problems, os.RemoveAll(c.dir(e.Name())))
		}
	}
	if errors.Join(problems...) == nil {
		problems = append(problems, os.RemoveAll(c.dir(marker)), os.RemoveAll(c.runDir()))
		if own, err := mountinfo.Is(c.DataDir); err != nil || !own {
			problems = append(problems, err, os.RemoveAll(c.DataDir))
		}
	}
	if c.Kubeconfig != "" {
		problems = append(problems, os.RemoveAll(c.Kubeconfig))
		// Its folder goes only when it is empty.
		_ = os.Remove(filepath.Dir(c.Kubeconfig))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("not every file could be removed: %w", err)
	}
	fmt.Fprintf(out, "Cluster %q is gone without a trace.\n", c.Name)
	return nil
}

// stopPods stops every pod in good order and then the runtime. With a runtime
// that is not ours, the pods are left to who runs it.
func (c *config) stopPods(ctx context.Context, log *slog.Logger) error {
	if _, err := os.Stat(c.dir("containerd")); err != nil || c.RuntimeEndpoint != "" {
		return nil
	}
	rt, err := runtime.Start(ctx, c.runtimeConfig(log))
	if err != nil {
		return err
	}
	if err := rt.StopPods(ctx); err != nil {
		return errors.Join(err, rt.Close())
	}
	return rt.Terminate()
}

// onlyOurs says that a folder without a marker holds nothing but what cox
// makes before it marks it.
func onlyOurs(entries []os.DirEntry) bool {
	for _, e := range entries {
		if name := e.Name(); name != "lock" && name != "log" && !atomicfile.Unfinished(name, marker) {
			return false
		}
	}
	return true
}

// purgeNetwork removes links, addresses, routes and nftables tables.
func (c *config) purgeNetwork() []error {
	return []error{cni.Purge(c.network(nil)), c.dnsAddress(false), c.purgeServices()}
}

// purgeServices removes the kernel's rules of Services.
func (c *config) purgeServices() error {
	table, err := lb.NewNFT(c.servicesTable())
	if err != nil {
		return err
	}
	return errors.Join(table.Purge(), table.Close())
}
