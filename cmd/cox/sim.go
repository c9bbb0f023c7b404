package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/sim"
)

// simConfig is what hollow nodes are made of.
type simConfig struct {
	kubeconfig, prefix  string
	nodes, zones        int
	cpu, memory, pods   string
	labels              map[string]string
	taint, keep, noisy  bool
	pace                sim.Pace
	door                client.Interface
	admin               *rest.Config
	capacity            corev1.ResourceList
	log                 *slog.Logger
	registered, trouble atomic.Int64
}

func simCommand() *cobra.Command {
	s := &simConfig{}
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Add simulated nodes to a cluster, to plan capacity with",
		Long: `Add simulated nodes to a cluster. Each registers, renews its lease and plays
its pods through the states that a kubelet would report, over HTTPS as the
node's own user, without a container: a laptop holds a thousand. The cluster is
the kubeconfig's, cox or not. The command runs until it is interrupted; then it
takes its nodes away again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if err := s.complete(); err != nil {
				return err
			}
			return s.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.kubeconfig, "kubeconfig", defaultSimKubeconfig(), "kubeconfig of an administrator of the cluster")
	f.IntVar(&s.nodes, "nodes", 10, "how many nodes")
	f.StringVar(&s.prefix, "prefix", "hollow", "what the nodes' names begin with")
	f.IntVar(&s.zones, "zones", 3, "over how many zones (topology.kubernetes.io/zone) they are spread")
	f.StringVar(&s.cpu, "cpu", "32", "CPUs of a node")
	f.StringVar(&s.memory, "memory", "256Gi", "memory of a node")
	f.StringVar(&s.pods, "pods", "110", "how many pods a node takes")
	f.StringToStringVar(&s.labels, "labels", nil, "further labels of the nodes")
	f.BoolVar(&s.taint, "taint", false, "taint the nodes hollow=true:NoSchedule, so that they get only the pods that tolerate it")
	f.BoolVar(&s.keep, "keep", false, "leave the nodes behind at the end, as nodes that have died")
	f.BoolVar(&s.noisy, "verbose", false, "log every retry")
	f.DurationVar(&s.pace.Start, "start", 2*time.Second, "how long a pod takes to start, on average")
	f.DurationVar(&s.pace.Stop, "stop", time.Second, "how long a pod takes to stop, on average")
	f.DurationVar(&s.pace.Run, "run", 30*time.Second, "how long pods run that end by themselves (restartPolicy other than Always), on average")
	f.Float64Var(&s.pace.Fail, "fail", 0, "what share of these fails, from 0 to 1")
	return cmd
}

// defaultSimKubeconfig is where kubectl would look, or else where cox writes.
func defaultSimKubeconfig() string {
	if f := os.Getenv("KUBECONFIG"); f != "" {
		return f
	}
	return "/etc/cox/kubeconfig"
}

func (s *simConfig) complete() error {
	switch {
	case s.nodes < 1:
		return fmt.Errorf("--nodes=%d: at least one", s.nodes)
	case s.zones < 1:
		return fmt.Errorf("--zones=%d: at least one", s.zones)
	case s.pace.Start < 0 || s.pace.Stop < 0 || s.pace.Run < 0:
		return errors.New("--start, --stop and --run are not negative")
	case s.pace.Fail < 0 || s.pace.Fail > 1:
		return fmt.Errorf("--fail=%v is not between 0 and 1", s.pace.Fail)
	}
	s.capacity = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("500Gi")}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: s.cpu, corev1.ResourceMemory: s.memory, corev1.ResourcePods: s.pods} {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return fmt.Errorf("--%s=%s: %w", name, text, err)
		}
		s.capacity[name] = q
	}
	var err error
	if s.admin, err = clientcmd.BuildConfigFromFlags("", s.kubeconfig); err != nil {
		return fmt.Errorf("read %s: %w", s.kubeconfig, err)
	}
	level := slog.LevelWarn
	if s.noisy {
		level = slog.LevelDebug
	}
	s.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	s.door, err = client.Remote(s.admin)
	return err
}

func (s *simConfig) name(i int) string { return s.prefix + "-" + fmt.Sprintf("%05d", i) }

// run plays the nodes until ctx ends. The first node's failure to register
// ends all: what one cannot, none can.
func (s *simConfig) run(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16) // registrations at once
	for i := range s.nodes {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			n, err := s.node(ctx, i)
			if err == nil {
				err = n.Register(ctx)
			}
			<-turns
			if err != nil {
				cancel(fmt.Errorf("node %s: %w", s.name(i), err))
				return
			}
			if s.registered.Add(1) == int64(s.nodes) {
				fmt.Printf("%d nodes registered after %.1f s; they run until this command is interrupted\n", s.nodes, time.Since(began).Seconds())
			}
			n.Run(ctx)
		})
	}
	wg.Wait()
	if !s.keep {
		s.remove()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// node makes a hollow node with an identity of its own.
func (s *simConfig) node(ctx context.Context, i int) (*sim.Node, error) {
	door, err := sim.Identity(ctx, s.door, s.admin, s.name(i))
	if err != nil {
		return nil, err
	}
	labels := map[string]string{"hollow": "true", corev1.LabelTopologyZone: "zone-" + strconv.Itoa(i%s.zones)}
	for k, v := range s.labels {
		labels[k] = v
	}
	cfg := sim.Config{Name: s.name(i), Index: i, Labels: labels, Capacity: s.capacity, Version: gitVersion, Pace: s.pace, Door: door, Log: s.log}
	if s.taint {
		cfg.Taints = []corev1.Taint{{Key: "hollow", Value: "true", Effect: corev1.TaintEffectNoSchedule}}
	}
	return sim.New(cfg)
}

// remove deletes the nodes; the garbage collectors of pods and leases do the
// rest.
func (s *simConfig) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i := range s.nodes {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := client.Nodes.In(s.door, "").Delete(ctx, s.name(i), client.Options{}); err != nil && !apierrors.IsNotFound(err) {
				s.trouble.Add(1)
			}
		})
	}
	wg.Wait()
	if n := s.trouble.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "cox: %d nodes could not be deleted: kubectl delete nodes -l hollow=true\n", n)
	}
}
