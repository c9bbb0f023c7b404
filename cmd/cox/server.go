package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/rbacdefaults"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/certificates"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/internal/memory"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/scheduler"

	rbacv1 "k8s.io/api/rbac/v1"
)

func serverCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane and this machine's node in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := openReport()
			err := c.load(cmd.Flags())
			if err == nil {
				ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				err = runServer(ctx, c, report)
			}
			if err != nil {
				report.fail(err)
			}
			return err
		},
	}
	c.flags(cmd.Flags())
	return cmd
}

// heapFloor is the heap's size in bytes below which it is not collected.
const heapFloor = 80 << 20

// settled is when what begins with a start (first pods, image imports) is
// usually over.
const settled = 5 * time.Second

// report tells whoever started the server how far it is: lines of JSON on the
// descriptor that COX_REPORT_FD names, and the log.
type report struct {
	begin, last time.Time
	mu          sync.Mutex
	out         *os.File
	log         *slog.Logger
}

func openReport() *report {
	r := &report{begin: time.Now(), last: time.Now(), log: slog.Default()}
	if fd, err := strconv.Atoi(os.Getenv("COX_REPORT_FD")); err == nil {
		os.Unsetenv("COX_REPORT_FD")
		syscall.CloseOnExec(fd)
		r.out = os.NewFile(uintptr(fd), "report")
	}
	return r
}

func (r *report) send(s step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out != nil {
		_ = json.NewEncoder(r.out).Encode(s)
	}
}

// done reports a step that began at begin.
func (r *report) done(name string, begin time.Time, detail string) {
	d := time.Since(begin)
	r.log.Info("started", "step", name, "took", d.Round(time.Millisecond), "since start", time.Since(r.begin).Round(time.Millisecond), "detail", detail)
	r.send(step{Name: name, Millis: d.Milliseconds(), Detail: detail})
}

// warn reports what does not keep the node from working, but should be known.
func (r *report) warn(problem string) { r.send(step{Warning: problem}) }

func (r *report) ready() {
	r.send(step{Ready: true, Millis: time.Since(r.begin).Milliseconds()})
	r.close()
}

func (r *report) fail(err error) {
	r.send(step{Error: err.Error()})
	r.close()
}

func (r *report) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out != nil {
		r.out.Close()
		r.out = nil
	}
}

// runServer runs until ctx ends or something that all depends on is lost.
func runServer(ctx context.Context, c *config, rep *report) (err error) {
	log, lock, err := c.begin(rep)
	if err != nil {
		return err
	}
	defer lock.Close()
	// A control plane that idles should not hold on to what starting took.
	memory.Pace(60, heapFloor)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group := component.NewGroup(ctx, log)
	s := &server{cfg: c, log: log, report: rep, group: group, started: time.Now()}
	if err := c.serveControl(ctx, s.status); err != nil {
		return err
	}
	defer func() {
		s.stop()
		c.endControl()
	}()
	if err := s.start(ctx, cancel); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return err
	}
	rep.ready()
	time.AfterFunc(settled, func() {
		if s.node != nil {
			s.node.idle.Store(idleMemory(log))
			return
		}
		releaseMemory(ctx, log)
	})
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	log.Info("stopping")
	return nil
}

// server is one running `cox server`.
type server struct {
	cfg     *config
	log     *slog.Logger
	report  *report
	group   *component.Group
	started time.Time
	cp      *controlPlane
	node    *localNode
	metrics *client.Metrics // of the components in this process
	counts  *controllers.Counts
	// scheduled are the scheduler's.
	scheduled *scheduler.Counts
	isReady   atomic.Bool
}

// start brings everything up, in the order of dependence, side by side where
// nothing depends.
func (s *server) start(ctx context.Context, fatal context.CancelCauseFunc) error {
	c := s.cfg
	begin := time.Now()
	bundle, err := pki.Ensure(c.dir("pki"), c.pkiConfig(s.log))
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	s.report.done("certificates", begin, "")

	// The container runtime needs nothing of the control plane.
	runtimeReady := make(chan error, 1)
	if !c.NoNode {
		s.node = newLocalNode(c, s.log, s.group, s.report)
		go func() {
			begin := time.Now()
			err := s.node.startRuntime(ctx)
			if err == nil {
				s.report.done("container runtime", begin, s.node.runtime.Endpoint())
			}
			runtimeReady <- err
		}()
	}

	begin = time.Now()
	s.cp = &controlPlane{cfg: c, log: s.log, bundle: bundle}
	if err := s.cp.openStore(ctx); err != nil {
		return err
	}
	s.report.done("etcd", begin, "")
	if s.cp.etcd != nil {
		go func() {
			select {
			case <-ctx.Done():
			case <-s.cp.etcd.Failed():
				fatal(s.cp.etcd.Err())
			}
		}()
	}
	begin = time.Now()
	if err := s.cp.makeServer(ctx, s.group); err != nil {
		return err
	}
	s.metrics = client.NewMetrics()
	s.counts = controllers.NewCounts()
	s.scheduled = scheduler.NewCounts()
	s.cp.server.Metrics().MustRegister(s.metrics, s.counts, s.scheduled)
	if err := s.cp.listen(); err != nil {
		return err
	}
	err = s.cp.bootstrap(ctx)
	for admission.NotReady(err) && ctx.Err() == nil {
		// It is a large cluster, or a slow machine: each try has waited a while.
		s.log.Warn("the API server still reads what there is", "error", err)
		err = s.cp.bootstrap(ctx)
	}
	if err != nil {
		return fmt.Errorf("bootstrap the cluster: %w", err)
	}
	if err := s.writeKubeconfig(bundle); err != nil {
		return err
	}
	s.report.done("API server", begin, c.serverURL())

	begin = time.Now()
	if !c.NoControllers {
		if err := s.startControllers(bundle); err != nil {
			return err
		}
	}
	if !c.NoScheduler {
		s.startScheduler()
	}
	s.report.done("controllers and scheduler", begin, "")

	if c.NoNode {
		s.isReady.Store(true)
		return nil
	}
	if err := <-runtimeReady; err != nil {
		return fmt.Errorf("container runtime: %w", err)
	}
	return s.startNode(ctx, bundle)
}

// startNode makes this machine a node and waits until it is ready.
func (s *server) startNode(ctx context.Context, bundle *pki.Bundle) error {
	begin := time.Now()
	to, err := localAccess(s.cfg, bundle, s.cp.server.Door())
	if err != nil {
		return err
	}
	if err := s.node.start(ctx, to); err != nil {
		return err
	}
	s.group.Go("local-volumes", func(ctx context.Context) error {
		return s.node.runLocalVolumes(ctx, s.cp.identity(localVolumesUser), to.kubelet)
	})
	select {
	case <-s.node.ready():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.isReady.Store(true)
	s.report.done("node "+s.cfg.NodeName, begin, "Ready")
	return nil
}

// startControllers runs the controllers, each under its identity.
func (s *server) startControllers(bundle *pki.Bundle) error {
	cp := s.cp
	own, err := bundle.APIServer.Certificate()
	if err != nil {
		return fmt.Errorf("the API server's certificate: %w", err)
	}
	signing := certificates.Config{
		ClientCA: bundle.CA, KubeletCA: bundle.CA, ServingCA: bundle.CA, LegacyCA: bundle.CA,
		Reserved: certificates.Reserved{Names: own.Leaf.DNSNames, IPs: own.Leaf.IPAddresses},
	}
	s.lead("controller-manager", "kube-controller-manager", func(ctx context.Context, door client.Interface) error {
		m := manager.Config{
			ClientFor: func(account string) client.Interface {
				return s.metrics.Counted(cp.controllerIdentity(account), s.apiHost())
			},
			Metrics: s.metrics, Counts: s.counts,
			Informers: client.NewInformers(door),
			Discovery: cp.served, ResourcesChanged: cp.crds.Changed(),
			RootCA:             bundle.CA.PEM(),
			Mint:               cp.mint,
			Tokens:             door,
			Signing:            signing,
			ClusterCIDRs:       []netip.Prefix{netip.MustParsePrefix(s.cfg.ClusterCIDR)},
			MigrateStorage:     s.cfg.features.serves(client.StorageVersionMigrations.GroupVersionResource),
			PublishTrustBundle: s.cfg.features.serves(client.ClusterTrustBundles.GroupVersionResource),
			CleanPodRequests:   s.cfg.features.serves(client.PodCertificateRequests.GroupVersionResource),
			Log:                s.log.With("component", "controller-manager"),
		}
		s.cfg.loops.put(&m)
		return manager.Run(ctx, m)
	})
	return nil
}

func (s *server) startScheduler() {
	s.lead("scheduler", "kube-scheduler", func(ctx context.Context, door client.Interface) error {
		informers := client.NewInformers(door)
		sched, err := scheduler.New(scheduler.Config{
			Client: door, Informers: informers, Recorder: client.NewRecorder(ctx, door, "default-scheduler", ""),
			Log: s.log.With("component", "scheduler"), Counts: s.scheduled,
		})
		if err != nil {
			return err
		}
		informers.Start(ctx)
		sched.Run(ctx)
		return ctx.Err()
	})
}

// apiHost is the API server as metrics name it.
func (s *server) apiHost() string { return strings.TrimPrefix(s.cfg.serverURL(), "https://") }

// lead runs a component under its user name whenever this server holds the
// component's Lease, for which upstream's own component may compete as well.
func (s *server) lead(part, user string, run func(ctx context.Context, door client.Interface) error) {
	s.group.Go(part, func(ctx context.Context) error {
		door := s.metrics.Counted(s.cp.identity("system:"+user), s.apiHost())
		return client.Election{
			Client: door, Namespace: "kube-system", Name: user, Identity: s.cfg.candidate(),
			LeaseDuration: s.cfg.election.lease, RenewDeadline: s.cfg.election.renew, RetryPeriod: s.cfg.election.retry,
			Metrics: s.metrics, Log: s.log.With("component", part),
			Events: client.NewRecorder(ctx, door, user, ""),
		}.Lead(ctx, func(ctx context.Context) error { return run(ctx, client.Fenced(door)) })
	})
}

func (s *server) stop() {
	if s.cp != nil {
		s.cp.drain()
	}
	s.group.Stop()
	if s.node != nil {
		s.node.close()
	}
	if s.cp != nil {
		s.cp.close()
	}
}

func (s *server) status() status {
	host := s.cfg.serverURL()
	return status{
		Name: s.cfg.Name, Version: gitVersion, PID: os.Getpid(), Started: s.started, Server: host,
		Kubeconfig: s.cfg.Kubeconfig, Node: s.cfg.NodeName, Ready: s.isReady.Load(), Components: s.group.Health(),
	}
}

func (s *server) writeKubeconfig(bundle *pki.Bundle) error {
	cert, key, err := bundle.Admin.PEM()
	if err != nil {
		return fmt.Errorf("administrator's certificate: %w", err)
	}
	if err := pki.WriteKubeconfig(s.cfg.Kubeconfig, s.cfg.serverURL(), bundle.CA.PEM(), cert, key); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	return nil
}

func (c *config) pkiConfig(log *slog.Logger) pki.Config {
	host, _ := os.Hostname()
	ips := []net.IP{net.ParseIP(c.NodeIP)}
	if a := net.ParseIP(c.AdvertiseAddress); a != nil && !a.Equal(ips[0]) {
		ips = append(ips, a)
	}
	return pki.Config{
		Hostname: host, IPs: ips, ServiceIPs: []net.IP{c.serviceIP().AsSlice()},
		ClusterDomain: c.ClusterDomain, ExtraSANs: c.TLSSANs, Log: log,
	}
}

// nodeRules are the rules of the role system:node.
func nodeRules(p *rbacdefaults.Policy) []rbacv1.PolicyRule {
	for _, r := range p.ClusterRoles {
		if r.Name == "system:node" {
			return r.Rules
		}
	}
	return nil
}
