// Command cox-shim is the process that stands between containerd and the
// containers of one pod, and also the CNI plugin that gives the pod its
// network: which of the two is told by the environment. It starts for every
// pod, so nothing is imported here that these two do not need.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/shim"

	"github.com/coxswain/cox/cni"
)

func main() {
	if os.Getenv("CNI_COMMAND") != "" {
		cni.Main()
		return
	}
	if p, ok := servingPod(os.Args[1:]); ok {
		if err := serve(context.Background(), p); err != nil {
			fmt.Fprintln(os.Stderr, "cox-shim:", err)
			os.Exit(1)
		}
		return
	}
	shim.RunShim(context.Background(), whole{manager.NewShimManager("io.containerd.runc.v2")})
}
