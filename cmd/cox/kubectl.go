package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

// kubectl runs upstream's kubectl within this binary and returns its exit
// code. Where the user has named no cluster, it talks to cox's.
func kubectl(args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		if _, err := os.Stat(clientcmd.RecommendedHomeFile); err != nil {
			path := os.Getenv("COX_WRITE_KUBECONFIG")
			if path == "" {
				path = "/etc/cox/kubeconfig"
			}
			if _, err := os.Stat(path); err == nil {
				os.Setenv("KUBECONFIG", path)
			}
		}
	}
	// kubectl finds its own name and arguments in os.Args.
	os.Args = append([]string{"kubectl"}, args...)
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	cmd := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags:   flags,
		IOStreams:     genericclioptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	return cli.Run(cmd)
}

// kubectlCommand is there for the help text; main hands its arguments to
// kubectl unparsed.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", Short: "Upstream's kubectl, for this cluster unless KUBECONFIG names another", DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) { os.Exit(kubectl(args)) },
	}
}
