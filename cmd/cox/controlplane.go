package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/component-base/metrics/legacyregistry"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/apiserver/aggregation"
	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/escalation"
	"github.com/coxswain/cox/apiserver/authz/node"
	"github.com/coxswain/cox/apiserver/authz/rbac"
	"github.com/coxswain/cox/apiserver/authz/review"
	"github.com/coxswain/cox/apiserver/computed"
	"github.com/coxswain/cox/apiserver/connect"
	"github.com/coxswain/cox/apiserver/crd"
	"github.com/coxswain/cox/apiserver/encryption"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/apiserver/openapi"
	"github.com/coxswain/cox/apiserver/peers"
	"github.com/coxswain/cox/apiserver/rbacdefaults"
	"github.com/coxswain/cox/apiserver/reloads"
	"github.com/coxswain/cox/apiserver/services"
	"github.com/coxswain/cox/apiserver/tokens"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/internal/libmetrics"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

// lateDoor stands in for the API server's door until there is one: the
// authenticators and authorizers that the server is made with read through
// the server itself.
type lateDoor struct {
	door atomic.Pointer[client.Interface]
}

func (l *lateDoor) set(d client.Interface) { l.door.Store(&d) }

func (l *lateDoor) get() (client.Interface, error) {
	if d := l.door.Load(); d != nil {
		return *d, nil
	}
	return nil, apierrors.NewServiceUnavailable("the API server is starting")
}

func (l *lateDoor) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	d, err := l.get()
	if err != nil {
		return nil, err
	}
	return d.Do(ctx, req)
}

func (l *lateDoor) Watch(ctx context.Context, req *client.Request) (watch.Interface, error) {
	d, err := l.get()
	if err != nil {
		return nil, err
	}
	return d.Watch(ctx, req)
}

// controlPlane is the API server with its store.
type controlPlane struct {
	cfg     *config
	log     *slog.Logger
	bundle  *pki.Bundle
	etcd    *etcd.Server // nil with an external cluster
	store   *store.Store
	table   *api.Table
	crypt   *encryption.Encryption // nil: nothing is encrypted at rest
	tokens  *accountTokens
	server  *apiserver.Server
	rbac    *rbac.Authorizer
	nodes   *node.Authorizer
	auth    authz.Authorizer
	root    client.Interface // the API server's own identity
	service *actions.Services
	flow    *flow.Controller // nil without flow control
	crds    *crd.Manager
	agg     *aggregation.Aggregator
	backend store.Backend
	peers   *peers.Member
	// followed are the metrics of what is made before there is a server to show
	// them: of configuration files that are followed, and of tokens.
	followed []prometheus.Collector

	steps   startSteps
	records *audit.Counts
	took    *store.Durations // by etcd
	http    *apiserver.Listening
	closers []func()
}

// masters is the API server's own user, as upstream names it.
var masters = client.User{Name: "system:apiserver", Groups: []string{"system:masters", "system:authenticated"}}

// openStore starts the embedded etcd or connects to the external one.
func (cp *controlPlane) openStore(ctx context.Context) error {
	c := cp.cfg
	table, err := builtin.With(c.features.beyond())
	if err != nil {
		return fmt.Errorf("table of kinds: %w", err)
	}
	cp.table = table
	var backend store.Backend
	if len(c.EtcdServers) > 0 {
		dialed, err := etcd.Dial(ctx, etcd.DialConfig{Endpoints: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile, Log: cp.log})
		if err != nil {
			return err
		}
		cp.closers = append(cp.closers, func() { _ = dialed.Close() })
		backend = dialed
	} else {
		member, err := etcd.Start(ctx, etcd.Config{Dir: c.dir("etcd"), Name: c.Name, Log: cp.log.With("component", "etcd")})
		if err != nil {
			return err
		}
		cp.closers = append(cp.closers, func() {
			if err := member.Close(); err != nil {
				cp.log.Warn("etcd did not close cleanly; nothing acknowledged is lost", "error", err)
			}
		})
		cp.etcd, backend = member, member
	}
	if cp.crypt, err = cp.openEncryption(ctx); err != nil {
		return fmt.Errorf("--encryption-provider-config: %w", err)
	}
	cp.backend = backend
	cp.took = store.NewDurations()
	sc := store.Config{Backend: backend, Table: table, Durations: cp.took, Log: cp.log.With("component", "store")}
	if cp.crypt != nil {
		sc.Transformer = cp.crypt.Transformer
	}
	cp.store, err = store.New(sc)
	if err != nil {
		return err
	}
	cp.closers = append(cp.closers, func() { _ = cp.store.Close() })
	return nil
}

// makeServer puts the API server together; it serves once listen is called.
func (cp *controlPlane) makeServer(ctx context.Context, group *component.Group) error {
	c := cp.cfg
	late := &lateDoor{}
	cp.root = client.As(late, masters)
	accounts, err := c.auth.accounts.open(cp.bundle.ServiceAccountKey, "https://kubernetes.default.svc."+c.ClusterDomain)
	if err != nil {
		return err
	}
	cp.tokens = accounts
	users, err := cp.openUsers(accounts)
	if err != nil {
		return err
	}
	policy, err := rbacdefaults.Default(c.features.on...)
	if err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	cp.rbac = rbac.New()
	cp.nodes = node.New(cp.root, nodeRules(policy))
	lifetimes := newLifetimes()
	order, err := cp.openAuthorizer(&c.auth)
	if err != nil {
		return err
	}
	cp.auth = order

	records, err := cp.openAudit()
	if err != nil {
		return err
	}
	paths, err := tokens.Handlers(accounts.issuers[0], c.auth.accounts.JWKS)
	if err != nil {
		return fmt.Errorf("issuer discovery: %w", err)
	}
	cp.debugPages(paths)
	ext := apiserver.Extensions{
		Hooks: escalation.Hooks(cp.rbac, cp.auth), Actions: review.Actions(cp.auth), Connects: cp.connects(),
	}
	cidr := netip.MustParsePrefix(c.ServiceCIDR)
	base, size, err := c.nodePorts()
	if err != nil {
		return err
	}
	cp.service = actions.NewServices(actions.ServiceConfig{
		CIDRs: []netip.Prefix{cidr}, NodePortBase: base, NodePortSize: size,
		Loopback: cp.root, Ranges: cp.store.Kind(actions.RangeKind()), Log: cp.log,
	})
	ext.Hooks[schema.GroupResource{Resource: "services"}] = cp.service.Hook()
	ext.Hooks[schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}] = actions.CertificateRequests()
	for name, action := range tokens.Actions(cp.tokenActions(accounts, users.tokens)) {
		ext.Actions[name] = action
	}
	pods, ok := cp.table.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	if !ok {
		return fmt.Errorf("the table has no pods")
	}
	binding := actions.Binding(cp.store.Kind(pods.Kind), time.Now)
	ext.Actions["pods/binding"], ext.Actions["bindings"] = binding, binding
	ext.Actions["pods/eviction"] = actions.Eviction(cp.root, cp.store.Kind(pods.Kind), time.Now)

	docs := sync.OnceValue(func() http.Handler { return cp.crds.OpenAPIWith(openapi.Optional(c.features.served), cp.agg) })
	measures := cp.metrics()
	cp.server, err = apiserver.New(apiserver.Config{
		Table: cp.table,
		Store: func(k *api.Kind) store.Interface {
			switch k.GR() {
			case corev1.Resource("componentstatuses"):
				return computed.New(k, cp.componentStatuses(group)).Called(corev1.Resource("componentstatus"))
			case metricsv1beta1.Resource("nodes"):
				return computed.New(k, nodeMetrics(measures))
			case metricsv1beta1.Resource("pods"):
				return computed.New(k, podMetrics(measures))
			}
			return cp.store.Kind(k)
		},
		Authn: authn.Union(users.anonymous,
			authn.FrontProxy(cp.bundle.FrontProxyCA.Pool(), []string{pki.FrontProxyUser}, time.Now),
			authn.Lifetimes(authn.ClientCert(cp.bundle.CA.Pool(), time.Now), time.Now, lifetimes.Observe),
			authn.Bearer(users.tokens)),
		Authz: cp.auth, Audit: records, Extensions: ext, OpenAPI: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { docs().ServeHTTP(w, r) }), Paths: paths,
		Flow:    cp.flowControl(paths),
		Version: versionInfo(), Log: cp.log.With("component", "apiserver"),
		Address: net.JoinHostPort(c.AdvertiseAddress, fmt.Sprint(c.Port)),
	})
	if err != nil {
		return err
	}
	late.set(cp.server.Door())
	cp.server.Metrics().MustRegister(cp.followed...)
	cp.server.Metrics().MustRegister(lifetimes, cp.records, cp.took, newStorageSize(cp.backend), newFeatureMetrics(c.features.on), cp.service.Metrics(),
		libmetrics.New(legacyregistry.DefaultGatherer, libmetrics.CEL[:]...))
	cp.peers = cp.member()
	cp.crds = crd.New(crd.Config{
		Door: cp.root, Server: cp.server, Forget: cp.store.Forget, Resolve: (&services.Dialer{Door: cp.root}).Endpoint,
		Log: cp.log.With("component", "crd"),
	})
	admits, err := cp.chain(group)
	if err != nil {
		return err
	}
	cp.server.SetAdmission(admits)
	cp.healthChecks()
	cp.aggregate(group)
	cp.followFlow(group)
	group.Go("crd", cp.crds.Run)
	if cp.crypt != nil {
		group.Go("encryption", cp.crypt.Run)
	}
	group.Go("authentication", users.run)
	group.Go("peers", cp.peers.Run)
	group.Go("authorization", order.Run)
	group.Go("service-addresses", func(ctx context.Context) error { return cp.service.Keep(ctx, cp.root, actions.Grace) })
	group.Go("rbac", func(ctx context.Context) error { cp.rbac.Run(ctx, cp.root); return ctx.Err() })
	group.Go("node-authorizer", func(ctx context.Context) error { cp.nodes.Run(ctx); return ctx.Err() })
	return nil
}

// member is this server among those that share its etcd.
func (cp *controlPlane) member() *peers.Member {
	return peers.New(peers.Config{
		Backend: cp.backend, Door: cp.root, Hostname: cp.hostname(), Alone: cp.etcd != nil, Log: cp.log.With("component", "peers"),
		Endpoint: cp.endpoint(),
	})
}

func (cp *controlPlane) hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return cp.cfg.NodeName
	}
	return host
}

// endpoint is where other servers and pods reach this one.
func (cp *controlPlane) endpoint() netip.AddrPort {
	addr, _ := netip.ParseAddr(cp.cfg.AdvertiseAddress) // which the settings have checked
	return netip.AddrPortFrom(addr, uint16(cp.cfg.Port))
}

// reloads are the metrics of a configuration file that is followed. They are
// shown once there is a server to show them.
func (cp *controlPlane) reloads(kind string) *reloads.Metrics {
	m := reloads.New(kind, peers.Name(cp.hostname(), cp.endpoint()), time.Now)
	cp.followed = append(cp.followed, m)
	return m
}

// listen opens the HTTPS door.
func (cp *controlPlane) listen() error {
	c := cp.cfg
	l, err := net.Listen("tcp", net.JoinHostPort(c.BindAddress, fmt.Sprint(c.Port)))
	if err != nil {
		return fmt.Errorf("the API server cannot listen: %w; choose another port with --https-listen-port", err)
	}
	cp.http = cp.server.Listen(l, cp.bundle.APIServer.ServerTLS())
	return nil
}

// bootstrap writes what a cluster has from its first second.
func (cp *controlPlane) bootstrap(ctx context.Context) error {
	c := cp.cfg
	policy, err := rbacdefaults.Default(c.features.on...)
	if err != nil {
		return err
	}
	policy.Aggregate()
	errs := make(chan error, 2)
	go func() {
		err := actions.Bootstrap(ctx, cp.root, actions.BootstrapConfig{
			ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(c.ServiceCIDR)},
			Port:         int32(c.Port), Join: cp.peers.Join,
			ClientCA: string(cp.bundle.CA.PEM()), FrontProxyCA: string(cp.bundle.FrontProxyCA.PEM()),
			FrontProxyNames: fmt.Sprintf("[%q]", pki.FrontProxyUser),
		})
		if err == nil {
			cp.steps.objects()
		}
		errs <- err
	}()
	go func() {
		revisions, err := rbacdefaults.Reconcile(ctx, cp.root, policy)
		if err == nil {
			err = cp.rbac.Caught(ctx, revisions)
		}
		if err == nil {
			cp.steps.roles()
		}
		errs <- err
	}()
	var first error
	for range 2 {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	if err := cp.service.Repair(ctx, cp.root); err != nil {
		return err
	}
	cp.steps.repair()
	if err := cp.localVolumeObjects(ctx); err != nil {
		return err
	}
	return cp.ownObjects(ctx)
}

// drain closes the HTTPS door: what came in is finished, nothing more comes in.
func (cp *controlPlane) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if cp.http == nil {
		return
	}
	if err := cp.peers.Leave(ctx); err != nil {
		cp.log.Warn("clients may still be sent here", "error", err)
	}
	if err := cp.http.Close(ctx); err != nil {
		cp.log.Warn("the API server was closed", "error", err)
	}
}

// close ends the control plane in order: what runs in this process is told to
// end, then the store.
func (cp *controlPlane) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if cp.server != nil {
		if err := cp.server.Shutdown(ctx); err != nil {
			cp.log.Warn("requests were cut off", "error", err)
		}
	}
	for i := len(cp.closers) - 1; i >= 0; i-- {
		cp.closers[i]()
	}
}

// served lists what the garbage collector and namespace deletion look after.
func (cp *controlPlane) served(context.Context) ([]controllers.Resource, error) {
	var out []controllers.Resource
	for _, k := range cp.server.Kinds() {
		if k.Prefix == "" || len(k.Views) == 0 {
			continue
		}
		v := &k.Views[0]
		for i := range k.Views { // what is stored needs no conversion
			if k.Views[i].GroupVersionKind == k.Hub {
				v = &k.Views[i]
			}
		}
		out = append(out, controllers.Resource{
			GroupVersionResource: v.GroupVersion().WithResource(k.Resource),
			Kind:                 v.Kind,
			Namespaced:           k.Namespaced,
			Verbs:                k.Verbs,
		})
	}
	if !cp.agg.Synced() {
		return out, fmt.Errorf("it is not known yet what other API servers serve")
	}
	more, err := servedElsewhere(cp.agg)
	return append(out, more...), err
}

// identity is the door of a component under its own user.
func (cp *controlPlane) identity(user string, groups ...string) client.Interface {
	return client.As(cp.server.Door(), client.User{Name: user, Groups: append(groups, "system:authenticated")})
}

// controllerIdentity is the door of a controller under its service account.
func (cp *controlPlane) controllerIdentity(account string) client.Interface {
	return client.As(cp.server.Door(), client.ServiceAccountUser("kube-system", account))
}

// connects are the streamed and proxied subresources.
func (cp *controlPlane) connects() map[string]apiserver.ConnectFunc {
	kind := func(group, version, resource string) store.Interface {
		served, ok := cp.table.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
		if !ok {
			return nil
		}
		return cp.store.Kind(served.Kind)
	}
	return connect.New(connect.Config{
		Pods: kind("", "v1", "pods"), Nodes: kind("", "v1", "nodes"), Services: kind("", "v1", "services"),
		EndpointSlices: kind("discovery.k8s.io", "v1", "endpointslices"),
		Kubelet:        cp.bundle.KubeletClient.ClientTLS(cp.bundle.CA), Log: cp.log,
	})
}
