package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/pki"
)

// managerRole is the controllers alone, by the names of upstream's flags.
type managerRole struct {
	kubeconfig, master   string
	asAccounts           bool
	rootCA               string
	accountKey           string
	signingCert, signKey string
	signers              [4]signerFiles
	signingDuration      time.Duration
	serviceCIDRs         []string
	allocate             bool
	clusterCIDRs         []string
	elect                bool
	leaseNamespace, name string
	healthz              string
	logs                 logging
	others               compatible
	qps                  float32
	burst                int
	profiling, locks     bool
	mask                 int
	pause, patience      time.Duration
	loops                controllerConfig
	election             electionConfig
	features             features
	secure               secureServing
	shown                map[string]string
}

// managerCommand runs the controllers against any API server.
func managerCommand() *cobra.Command {
	r := &managerRole{}
	cmd := &cobra.Command{
		Use:   "controller-manager",
		Short: "Run the controllers alone, against any Kubernetes 1.36 cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			r.shown = shownFlags(cmd.Flags())
			return r.run(ctx)
		},
	}
	cmd.Flags().AddFlagSet(r.flags())
	return cmd
}

func (r *managerRole) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("controller-manager", pflag.ContinueOnError)
	fs.StringVar(&r.kubeconfig, "kubeconfig", "", "how the API server is reached, as system:kube-controller-manager")
	fs.BoolVar(&r.asAccounts, "use-service-account-credentials", false, "let each controller act as a service account of its own in kube-system, which the kubeconfig's user must be allowed to make tokens of")
	fs.StringVar(&r.rootCA, "root-ca-file", "", "authority of the API server, published in every namespace (PEM)")
	fs.StringVar(&r.accountKey, "service-account-private-key-file", "", "key that signs the tokens of service accounts' secrets")
	fs.StringVar(&r.signingCert, "cluster-signing-cert-file", "", "authority that signs certificate requests")
	fs.StringVar(&r.signKey, "cluster-signing-key-file", "", "its key")
	for i, s := range signerFlags {
		fs.StringVar(&r.signers[i].cert, "cluster-signing-"+s.flag+"-cert-file", "", "authority that signs for "+s.signer+" (default: --cluster-signing-cert-file)")
		fs.StringVar(&r.signers[i].key, "cluster-signing-"+s.flag+"-key-file", "", "its key")
	}
	fs.DurationVar(&r.signingDuration, "cluster-signing-duration", 365*24*time.Hour, "how long signed certificates are good for, at most")
	fs.StringSliceVar(&r.serviceCIDRs, "service-cluster-ip-range", nil, "ranges of the Services' addresses, which --cluster-cidr must not overlap")
	fs.String("cluster-name", "kubernetes", "accepted, and used for nothing: it named what cloud providers made")
	fs.BoolVar(&r.allocate, "allocate-node-cidrs", false, "give nodes their parts of --cluster-cidr")
	fs.StringSliceVar(&r.clusterCIDRs, "cluster-cidr", nil, "range of the pods' addresses, one per family")
	fs.BoolVar(&r.elect, "leader-elect", true, "work only while holding the lease that all controller managers of the cluster compete for")
	fs.StringVar(&r.leaseNamespace, "leader-elect-resource-namespace", "kube-system", "namespace of that lease")
	fs.StringVar(&r.name, "leader-elect-resource-name", "kube-controller-manager", "its name")
	fs.StringVar(&r.healthz, "healthz-bind-address", "", "address and port that answer /healthz, unencrypted (none: nothing does)")
	fs.Float32Var(&r.qps, "kube-api-qps", 0, "how many requests per second go to the API server (0: as many as it takes)")
	fs.IntVar(&r.burst, "kube-api-burst", 30, "how many may go at once after a pause, with --kube-api-qps")
	fs.BoolVar(&r.profiling, "profiling", true, "whether profiles can be had from /debug/pprof/")
	fs.BoolVar(&r.locks, "contention-profiling", false, "whether profiles tell of waiting for locks, too")
	fs.StringVar(&r.master, "master", "", "URL of the API server, in place of the kubeconfig's")
	fs.IntVar(&r.mask, "node-cidr-mask-size", 0, "size of a node's range of pod addresses, where there is one family (default: by family)")
	fs.DurationVar(&r.pause, "controller-start-interval", 0, "time between the starts of two controllers")
	fs.DurationVar(&r.patience, "controller-shutdown-timeout", 10*time.Second, "how long it is waited at the end for what is under way")
	r.logs.flags(fs)
	r.others.flags(fs)
	r.loops.flags(fs)
	r.election.flags(fs)
	r.features.gateFlag(fs)
	r.secure.flags(fs, 10257)
	return fs
}

func (r *managerRole) run(ctx context.Context) error {
	log, err := r.logs.logger()
	if err != nil {
		return err
	}
	quiet(log)
	if err := errors.Join(r.loops.complete(), r.election.complete(), r.features.complete(), r.others.complete(), r.ownMask()); err != nil {
		return err
	}
	r.others.tell(log)
	if r.kubeconfig == "" {
		return errors.New("--kubeconfig is missing")
	}
	conf, err := clientcmd.BuildConfigFromFlags(r.master, r.kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	conf.UserAgent = "kube-controller-manager/" + gitVersion
	conf.QPS = -1 // the server's flow control knows better
	if r.qps > 0 {
		conf.QPS, conf.Burst = r.qps, r.burst
	}
	direct, err := client.Remote(conf)
	if err != nil {
		return err
	}
	tells := newManagerPages(r, conf)
	door := tells.metrics.Counted(direct, tells.host)
	work, err := r.prepare(conf, door, tells, log)
	if err != nil {
		return err
	}
	if r.profiling && r.locks {
		runtime.SetBlockProfileRate(1)
	}
	group := component.NewGroup(ctx, log)
	defer func() {
		stopped := make(chan struct{})
		go func() { defer close(stopped); group.Stop() }()
		if !within(r.patience, stopped) {
			log.Warn("what is under way is left", "after", r.patience)
		}
	}()
	listener, err := r.secure.listen("kube-controller-manager")
	if err != nil {
		return err
	}
	if listener != nil {
		pages, err := r.secure.guard(tells.handler(), log)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		group.Go("secure-port", func(ctx context.Context) error { return serveUntil(ctx, listener, pages) })
	}
	if r.healthz != "" {
		group.Go("healthz", func(ctx context.Context) error { return serveHealthz(ctx, r.healthz) })
	}
	group.Go("controller-manager", func(ctx context.Context) error {
		if !r.elect {
			return work(ctx, door)
		}
		host, _ := os.Hostname()
		return client.Election{
			Client: door, Namespace: r.leaseNamespace, Name: r.name, Identity: host + "_" + uuid.NewString(),
			LeaseDuration: r.election.lease, RenewDeadline: r.election.renew, RetryPeriod: r.election.retry,
			Log: log, Events: client.NewRecorder(ctx, door, "kube-controller-manager", ""), Metrics: tells.metrics,
		}.Lead(ctx, func(ctx context.Context) error { return work(ctx, client.Fenced(door)) })
	})
	<-ctx.Done()
	log.Info("stopping")
	return nil
}

// ownMask has --node-cidr-mask-size say what those by family do.
func (r *managerRole) ownMask() error {
	if r.mask == 0 {
		return nil
	}
	if r.others.fs.Changed("node-cidr-mask-size-ipv4") || r.others.fs.Changed("node-cidr-mask-size-ipv6") || len(r.clusterCIDRs) > 1 {
		return errors.New("--node-cidr-mask-size is for clusters of one family: set --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6")
	}
	r.loops.mask4, r.loops.mask6 = r.mask, r.mask
	return nil
}

// prepare reads all files, so that a wrong one ends the command at once, and
// returns what is to run while this process leads.
func (r *managerRole) prepare(conf *rest.Config, door client.Interface, tells *managerPages, log *slog.Logger) (func(context.Context, client.Interface) error, error) {
	m := manager.Config{
		Log: log, ClientFor: func(string) client.Interface { return door },
		Metrics: tells.metrics, Counts: tells.counts,
	}
	if r.asAccounts {
		accounts := &accountDoors{conf: conf, door: door}
		m.ClientFor = func(account string) client.Interface { return tells.metrics.Counted(accounts.get(account), tells.host) }
	}
	found, err := discovery.NewDiscoveryClientForConfig(conf)
	if err != nil {
		return nil, err
	}
	m.Discovery = func(context.Context) ([]controllers.Resource, error) { return servedBy(found) }
	if err := r.files(&m); err != nil {
		return nil, err
	}
	if r.allocate {
		for _, text := range r.clusterCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("--cluster-cidr: %w", err)
			}
			m.ClusterCIDRs = append(m.ClusterCIDRs, p.Masked())
		}
	}
	for _, text := range r.serviceCIDRs {
		services, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--service-cluster-ip-range: %w", err)
		}
		for _, pods := range m.ClusterCIDRs {
			if pods.Overlaps(services) {
				return nil, fmt.Errorf("--cluster-cidr %s and --service-cluster-ip-range %s overlap", pods, services)
			}
		}
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(conf.Host, "https://"))
	if err == nil { // nobody may serve under the API server's own address
		if a := net.ParseIP(host); a != nil {
			m.Signing.Reserved.IPs = append(m.Signing.Reserved.IPs, a)
		} else {
			m.Signing.Reserved.Names = append(m.Signing.Reserved.Names, host)
		}
	}
	r.loops.put(&m)
	m.StartInterval = r.pause
	return func(ctx context.Context, door client.Interface) error {
		m := m
		m.Informers, m.Tokens = client.NewInformers(door), door
		changed := make(chan struct{}, 1)
		m.ResourcesChanged = changed
		if err := followServed(ctx, m.Informers, changed); err != nil {
			return err
		}
		for _, o := range []struct {
			on         *bool
			gate       string
			gvr        schema.GroupVersionResource
			controller string
		}{
			{&m.MigrateStorage, gateStorageMigration, client.StorageVersionMigrations.GroupVersionResource, "storage-version-migrator-controller"},
			{&m.PublishTrustBundle, gateTrustBundle, client.ClusterTrustBundles.GroupVersionResource, "kube-apiserver-serving-clustertrustbundle-publisher-controller"},
			{&m.CleanPodRequests, builtin.GatePodCertificate, client.PodCertificateRequests.GroupVersionResource, "podcertificaterequest-cleaner-controller"},
		} {
			if !slices.Contains(r.features.on, o.gate) {
				continue
			}
			list, err := found.ServerResourcesForGroupVersion(o.gvr.GroupVersion().String())
			*o.on = err == nil && list != nil && slices.ContainsFunc(list.APIResources, func(have metav1.APIResource) bool { return have.Name == o.gvr.Resource })
			if !*o.on {
				log.Warn(o.controller+" does not run: "+o.gvr.GroupResource().String()+" are not served", "error", err)
			}
		}
		return manager.Run(ctx, m)
	}, nil
}

// files reads keys and certificates.
func (r *managerRole) files(m *manager.Config) error {
	if r.rootCA != "" {
		raw, err := os.ReadFile(r.rootCA)
		if err != nil {
			return fmt.Errorf("--root-ca-file: %w", err)
		}
		m.RootCA = raw
	}
	if err := r.authorities(m); err != nil {
		return err
	}
	if r.accountKey != "" {
		key, err := keyutil.PrivateKeyFromFile(r.accountKey)
		if err != nil {
			return fmt.Errorf("--service-account-private-key-file: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return fmt.Errorf("--service-account-private-key-file: a %T cannot sign", key)
		}
		issuer, err := satoken.NewIssuer("https://kubernetes.default.svc", signer) // which its tokens in secrets do not name
		if err != nil {
			return fmt.Errorf("--service-account-private-key-file: %w", err)
		}
		m.Mint = func(namespace, secret, account, uid string) (string, error) {
			return issuer.SignLegacy(satoken.Legacy{Namespace: namespace, Secret: secret, Account: account, UID: uid})
		}
	}
	return nil
}

// signerFiles are those of one signer's authority.
type signerFiles struct{ cert, key string }

// signerFlags are the signers that can have an authority of their own, and the
// middle of their flags.
var signerFlags = [4]struct{ flag, signer string }{
	{"kube-apiserver-client", certificatesv1.KubeAPIServerClientSignerName},
	{"kubelet-client", certificatesv1.KubeAPIServerClientKubeletSignerName},
	{"kubelet-serving", certificatesv1.KubeletServingSignerName},
	{"legacy-unknown", "kubernetes.io/legacy-unknown"},
}

// authorities reads those that sign certificate requests.
func (r *managerRole) authorities(m *manager.Config) error {
	m.Signing.Duration = r.signingDuration
	for i, to := range []**pki.CA{&m.Signing.ClientCA, &m.Signing.KubeletCA, &m.Signing.ServingCA, &m.Signing.LegacyCA} {
		files, flags := r.signers[i], "--cluster-signing-"+signerFlags[i].flag
		if files == (signerFiles{}) {
			files, flags = signerFiles{r.signingCert, r.signKey}, "--cluster-signing"
		}
		if files == (signerFiles{}) {
			continue
		}
		ca, err := pki.LoadCA(files.cert, files.key)
		if err != nil {
			return fmt.Errorf("%s-cert-file, %[1]s-key-file: %w", flags, err)
		}
		*to = ca
	}
	return nil
}
