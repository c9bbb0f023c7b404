package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	var n imageNodes
	var as string
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Import images from OCI or docker archives (- is standard input) on every node of this machine",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := n.choose(cmd)
			if err != nil {
				return err
			}
			for _, path := range args {
				names, err := n.importOn(cmd.Context(), nodes, path, as)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
			}
			return nil
		},
	}
	n.register(cmd, everyNode)
	cmd.Flags().StringVar(&as, "as", "", "name for an archive that names its image not or only by a tag")
	return cmd
}

// importOn imports an archive on nodes and returns the images' names.
func (n *imageNodes) importOn(ctx context.Context, nodes []nodeRuntime, path, as string) ([]string, error) {
	if path == "-" && len(nodes) > 1 {
		kept, err := spool()
		if kept != "" {
			defer os.Remove(kept)
		}
		if err != nil {
			return nil, err
		}
		path = kept
	}
	var names []string
	err := n.each(ctx, nodes, func(ctx context.Context, rt *runtime.Runtime) error {
		got, err := importFile(ctx, rt, path, as)
		if err == nil {
			names = got // the same on every node
		}
		return err
	})
	return names, err
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
	var n imageNodes
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the node's images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.only(cmd, func(ctx context.Context, rt *runtime.Runtime) error {
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
	n.register(cmd, ownNode)
	return cmd
}

func imageRemove() *cobra.Command {
	var n imageNodes
	cmd := &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images by name or ID from every node of this machine", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := n.choose(cmd)
			if err != nil {
				return err
			}
			var problems []error
			for _, name := range args {
				problems = append(problems, n.removeOn(cmd.Context(), nodes, name))
			}
			return errors.Join(problems...)
		},
	}
	n.register(cmd, everyNode)
	return cmd
}

// removeOn removes an image from those of the nodes that have it: one of them
// has to.
func (n *imageNodes) removeOn(ctx context.Context, nodes []nodeRuntime, name string) error {
	there := false
	var missing error
	err := n.each(ctx, nodes, func(ctx context.Context, rt *runtime.Runtime) error {
		err := images.Remove(ctx, rt.Conn(), name)
		if errors.Is(err, images.ErrNotFound) {
			missing = err
			return nil
		}
		there = true
		return err
	})
	if !there && err == nil {
		return missing
	}
	return err
}
