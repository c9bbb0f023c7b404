package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Pull, import, export, list and remove this machine's images"}
	cmd.AddCommand(imagePull(), imageImport(), imageExport(), imageList(), imageRemove())
	return cmd
}

// withRuntime runs f with a connection to this node's containerd.
func withRuntime(cmd *cobra.Command, c *config, f func(ctx context.Context, rt *runtime.Runtime) error) error {
	if err := c.load(cmd.Flags()); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the node's images belong to root: run it with sudo")
	}
	if c.RuntimeEndpoint != "" {
		return errors.New("this node uses another container runtime: import images with that runtime's own tool")
	}
	endpoint := c.runtimeConfig(slog.New(slog.DiscardHandler)).Endpoint()
	if _, err := os.Stat(strings.TrimPrefix(endpoint, "unix://")); err != nil {
		return fmt.Errorf("cluster %q does not run here: start it with `cox up`", c.Name)
	}
	return dialled(cmd.Context(), endpoint, f)
}

func dialled(ctx context.Context, endpoint string, f func(ctx context.Context, rt *runtime.Runtime) error) error {
	rt, err := runtime.Dial(endpoint)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, rt), rt.Close())
}

// feedMachines imports a file into the runtimes of the further nodes on this
// machine that run.
func (c *config) feedMachines(ctx context.Context, path, as string) error {
	for _, m := range c.machines() {
		socket := c.machineRuntime(m).Endpoint()
		if !exists(strings.TrimPrefix(socket, "unix://")) {
			continue
		}
		err := dialled(ctx, socket, func(ctx context.Context, rt *runtime.Runtime) error {
			_, err := importFile(ctx, rt, path, as)
			return err
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", m.name, err)
		}
	}
	return nil
}

// spool keeps standard input in a file, since every node reads it.
func spool() (string, error) {
	f, err := os.CreateTemp("", "cox-image-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, os.Stdin)
	return f.Name(), errors.Join(err, f.Close())
}

func imageImport() *cobra.Command {
	c := &config{}
	var as string
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Import images from OCI or docker archives (- is standard input)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(cmd, c, func(ctx context.Context, rt *runtime.Runtime) error {
				for _, path := range args {
					if path == "-" && len(c.machines()) > 0 {
						kept, err := spool()
						if kept != "" {
							defer os.Remove(kept)
						}
						if err != nil {
							return fmt.Errorf("standard input: %w", err)
						}
						path = kept
					}
					names, err := importFile(ctx, rt, path, as)
					if err == nil {
						err = c.feedMachines(ctx, path, as)
					}
					if err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
					for _, n := range names {
						fmt.Fprintln(cmd.OutOrStdout(), n)
					}
				}
				return nil
			})
		},
	}
	c.clusterFlags(cmd.Flags())
	cmd.Flags().StringVar(&as, "as", "", "name for an archive that names its image not or only by a tag")
	return cmd
}

func importFile(ctx context.Context, rt *runtime.Runtime, path, as string) ([]string, error) {
	var r io.Reader = os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	return images.Import(ctx, rt.Conn(), r, as)
}

func imageList() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the node's images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRuntime(cmd, c, func(ctx context.Context, rt *runtime.Runtime) error {
				list, err := images.List(ctx, rt.Conn())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "IMAGE\tID\tSIZE")
				for _, img := range list {
					id := strings.TrimPrefix(img.ID, "sha256:")
					names := img.Names
					if len(names) == 0 {
						names = []string{"<none>"}
					}
					for _, name := range names {
						if strings.Contains(name, "@sha256:") && len(names) > 1 {
							continue // the digest of an image that has a tag
						}
						fmt.Fprintf(w, "%s\t%.12s\t%.1f MB\n", name, id, float64(img.Size)/1e6)
					}
				}
				return w.Flush()
			})
		},
	}
	c.clusterFlags(cmd.Flags())
	return cmd
}

func imageRemove() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images by name or ID", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(cmd, c, func(ctx context.Context, rt *runtime.Runtime) error {
				var problems []error
				for _, name := range args {
					if err := images.Remove(ctx, rt.Conn(), name); err != nil {
						problems = append(problems, fmt.Errorf("%s: %w", name, err))
					}
				}
				return errors.Join(problems...)
			})
		},
	}
	c.clusterFlags(cmd.Flags())
	return cmd
}
