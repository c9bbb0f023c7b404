package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
)

// pullReport is how often a pull says how far it is.
const pullReport = 2 * time.Second

func imagePull() *cobra.Command {
	var n imageNodes
	var user string
	var secret bool
	cmd := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Pull images from their registries, as a pod on this node would",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (user != "") != secret {
				return errors.New("--username and --password-stdin go together")
			}
			var auth *runtimeapi.AuthConfig
			if secret {
				line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("read the password: %w", err)
				}
				auth = &runtimeapi.AuthConfig{Username: user, Password: strings.TrimRight(line, "\r\n")}
			}
			return n.only(cmd, func(ctx context.Context, rt *runtime.Runtime) error {
				for _, name := range args {
					full, err := images.Pull(ctx, rt.Conn(), name, auth, pullReport, func(done, total int64) {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s: %.1f of %.1f MB\n", name, float64(done)/1e6, float64(total)/1e6)
					})
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), full)
				}
				return nil
			})
		},
	}
	n.register(cmd, ownNode)
	cmd.Flags().StringVar(&user, "username", "", "user at the registry")
	cmd.Flags().BoolVar(&secret, "password-stdin", false, "read the user's password from standard input")
	return cmd
}

func imageExport() *cobra.Command {
	var n imageNodes
	var to string
	cmd := &cobra.Command{
		Use:   "export IMAGE...",
		Short: "Write images to an archive that cox image import, docker load and the like read",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.only(cmd, func(ctx context.Context, rt *runtime.Runtime) error {
				if to == "-" {
					return images.Export(ctx, rt.Conn(), cmd.OutOrStdout(), args...)
				}
				return exportFile(ctx, rt, to, args)
			})
		},
	}
	n.register(cmd, ownNode)
	cmd.Flags().StringVarP(&to, "output", "o", "", "the archive (- is standard output)")
	if err := cmd.MarkFlagRequired("output"); err != nil {
		panic(err) // the flag is right above
	}
	return cmd
}

// exportFile writes an archive that is there as a whole or not at all.
func exportFile(ctx context.Context, rt *runtime.Runtime, path string, names []string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".cox-export-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is left of it once it was renamed
	w := bufio.NewWriterSize(f, 1<<20)
	err = images.Export(ctx, rt.Conn(), w, names...)
	if err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
