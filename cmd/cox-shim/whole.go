package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/shim"
)

// sandboxOf is the annotation by which containerd's CRI service marks a
// container's sandbox.
const sandboxOf = "io.kubernetes.cri.sandbox-id"

// whole cleans up after a shim that was killed for the whole pod. containerd
// asks only for the sandbox's own container, and the others would run on
// without anybody knowing.
type whole struct{ shim.Shim }

// Stop removes what is left of a container, and of a sandbox's containers with
// the sandbox. It runs in the container's bundle.
func (w whole) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	status, err := w.Shim.Stop(ctx, id)
	cwd, cerr := os.Getwd()
	if cerr != nil {
		return status, errors.Join(err, cerr)
	}
	bundles := filepath.Dir(cwd)
	entries, rerr := os.ReadDir(bundles)
	if rerr != nil {
		return status, errors.Join(err, rerr)
	}
	for _, e := range entries {
		if e.Name() == id || sandbox(filepath.Join(bundles, e.Name())) != id {
			continue
		}
		if _, serr := w.Shim.Stop(ctx, e.Name()); serr != nil {
			err = errors.Join(err, serr)
		}
	}
	return status, err
}

// sandbox reads from a bundle which sandbox the container belongs to, "" for
// none.
func sandbox(bundle string) string {
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return ""
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(raw, &spec) != nil {
		return ""
	}
	return spec.Annotations[sandboxOf]
}
