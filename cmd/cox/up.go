package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// reportFD is the descriptor on which a server started by `cox up` writes its
// steps.
const reportFD = 3

func upCommand() *cobra.Command {
	c := &config{}
	var timeout time.Duration
	var nodes int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster in the background and wait until its node is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return c.up(ctx, cmd.OutOrStdout(), serverArgs(cmd.Flags()), nodes)
		},
	}
	c.flags(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the node")
	cmd.Flags().IntVar(&nodes, "nodes", 1, "how many nodes to run on this machine, each further one in namespaces of its own")
	return cmd
}

// serverArgs are the flags that `cox server` gets from those of `cox up`.
func serverArgs(fs *pflag.FlagSet) []string {
	args := []string{"server"}
	fs.Visit(func(f *pflag.Flag) {
		if f.Name == "timeout" || f.Name == "nodes" {
			return
		}
		value := f.Value.String()
		if s, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(s.GetSlice(), ",")
		}
		args = append(args, "--"+f.Name+"="+value)
	})
	return args
}

// up starts a server in a session of its own and prints its steps until the
// node is ready. If one runs already it only says so.
func (c *config) up(ctx context.Context, out io.Writer, args []string, nodes int) error {
	if os.Geteuid() != 0 {
		return errors.New("cox up runs containers and so needs root: sudo cox up")
	}
	begin := time.Now()
	running, err := c.ask(ctx)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if running != nil {
		fmt.Fprintf(out, "Cluster %q is running already (pid %d, since %s).\n", c.Name, running.PID, running.Started.Format(time.DateTime))
		if !running.Ready {
			fmt.Fprintln(out, "Its node is not ready yet: see `cox status`.")
		}
		if err := c.upNodes(ctx, out, nodes); err != nil {
			return err
		}
		c.hints(out)
		return nil
	}
	if err := os.MkdirAll(c.dir("log"), 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	logPath := c.dir("log", "cox.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, args...)
	child.Env = append(os.Environ(), fmt.Sprintf("COX_REPORT_FD=%d", reportFD))
	child.Stdout, child.Stderr = logFile, logFile
	child.ExtraFiles = []*os.File{w}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- child.Wait() }()

	fmt.Fprintf(out, "Starting cluster %q in %s\n", c.Name, c.DataDir)
	context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var last step
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			continue
		}
		if last.Error != "" {
			<-exited
			return errors.New(last.Error)
		}
		if last.Ready {
			if err := c.upNodes(ctx, out, nodes); err != nil {
				return err
			}
			fmt.Fprintf(out, "Ready after %.2f s.\n", time.Since(begin).Seconds())
			c.hints(out)
			return nil
		}
		if last.Warning != "" {
			fmt.Fprintf(out, "Warning: %s\n", last.Warning)
			continue
		}
		fmt.Fprintf(out, "  %-28s %6d ms  %s\n", last.Name, last.Millis, last.Detail)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the node is not ready (%w); the server goes on in the background: see `cox status` and %s", context.Cause(ctx), logPath)
	}
	return fmt.Errorf("the server ended before its node was ready (%v): see %s", <-exited, logPath)
}

// hints names the kubeconfig and what to do next.
func (c *config) hints(out io.Writer) {
	fmt.Fprintf(out, "\nKubeconfig: %s\nNext:       cox kubectl get pods -A\n            export KUBECONFIG=%s    # for kubectl, helm and the like\n", c.Kubeconfig, c.Kubeconfig)
}

func statusCommand() *cobra.Command {
	c := &config{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how each component of the cluster on this machine fares",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			s, err := c.ask(cmd.Context())
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cluster %q does not run here: start it with `cox up`", c.Name)
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(s)
			}
			fmt.Fprintf(out, "cluster %s  %s  pid %d  up %s  %s\n", s.Name, s.Version, s.PID, time.Since(s.Started).Round(time.Second), s.Server)
			bad := 0
			for _, h := range s.Components {
				state := "ok"
				if !h.Healthy {
					state = "FAILED"
					bad++
				}
				if h.Restarts > 0 {
					h.Message = strings.TrimSpace(fmt.Sprintf("%d restarts  %s", h.Restarts, h.Message))
				}
				fmt.Fprintf(out, "  %-24s %-7s %s\n", h.Name, state, h.Message)
			}
			if bad > 0 {
				return fmt.Errorf("%d components are not well: see %s", bad, c.dir("log", "cox.log"))
			}
			return nil
		},
	}
	c.clusterFlags(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
