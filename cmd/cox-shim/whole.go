package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	gorunc "github.com/containerd/go-runc"
)

// ledger is a file in the sandbox's bundle with the IDs of all containers that
// its shim was ever told to make.
const ledger = "containers"

// note puts a container into the ledger of the shim's own bundle, in which the
// shim runs.
func note(id string) error {
	f, err := os.OpenFile(ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note container %s: %w", id, err)
	}
	_, err = f.WriteString(id + "\n")
	return errors.Join(err, f.Close())
}

// whole cleans up after a shim that was killed for the whole pod. containerd
// asks only for the sandbox's own container, and the others would run on
// without anybody knowing.
type whole struct{ shim.Shim }

// Stop removes what is left of a container, and of a sandbox's containers with
// the sandbox. It runs in the container's bundle.
func (w whole) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	problem := stopOthers(ctx, id)
	status, err := w.Shim.Stop(ctx, id)
	return status, errors.Join(err, problem)
}

func stopOthers(ctx context.Context, id string) error {
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	raw, err := os.ReadFile(filepath.Join(bundle, ledger))
	if errors.Is(err, os.ErrNotExist) {
		return nil // no sandbox's
	}
	if err != nil {
		return err
	}
	// The others' bundles may be gone by now; they were made with the same
	// program and root.
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	program, err := runc.ReadRuntime(bundle)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	opts, err := runc.ReadOptions(bundle)
	if err != nil {
		return err
	}
	root := process.RuncRoot
	if opts != nil && opts.Root != "" {
		root = opts.Root
	}
	if opts != nil && opts.BinaryName != "" {
		program = opts.BinaryName
	}
	r := process.NewRunc(root, bundle, ns, program, false)
	for _, other := range strings.Fields(string(raw)) {
		if other != id {
			// One that ended long ago is not known any more.
			_ = r.Delete(ctx, other, &gorunc.DeleteOpts{Force: true})
		}
	}
	return nil
}
