// Command cox is Kubernetes in one binary: `cox up` starts a cluster on this
// machine, `cox kubectl` talks to it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		os.Exit(kubectl(os.Args[2:]))
	}
	if err := rootCommand().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "cox: "+err.Error())
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "cox",
		Short:         "Kubernetes in one binary",
		Version:       gitVersion,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), statusCommand(), serverCommand(), agentCommand(), kubeletCommand(), managerCommand(), tokenCommand(), nodeCommand(), imageCommand(), simCommand(), kubectlCommand())
	return root
}
