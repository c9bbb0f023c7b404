// Package manager starts all controllers: doors, certificates and settings
// in, running loops out.
package manager

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/aggregation"
	"github.com/coxswain/cox/controllers/attachdetach"
	"github.com/coxswain/cox/controllers/autoscaling"
	"github.com/coxswain/cox/controllers/bootstrap"
	"github.com/coxswain/cox/controllers/certificates"
	"github.com/coxswain/cox/controllers/cronjob"
	"github.com/coxswain/cox/controllers/daemonset"
	"github.com/coxswain/cox/controllers/deployment"
	"github.com/coxswain/cox/controllers/devicetaint"
	"github.com/coxswain/cox/controllers/disruption"
	"github.com/coxswain/cox/controllers/endpoints"
	"github.com/coxswain/cox/controllers/endpointslice"
	"github.com/coxswain/cox/controllers/ephemeralvolume"
	"github.com/coxswain/cox/controllers/garbagecollector"
	"github.com/coxswain/cox/controllers/job"
	"github.com/coxswain/cox/controllers/legacytoken"
	"github.com/coxswain/cox/controllers/localprovisioner"
	"github.com/coxswain/cox/controllers/mirroring"
	"github.com/coxswain/cox/controllers/namespace"
	"github.com/coxswain/cox/controllers/nodeipam"
	"github.com/coxswain/cox/controllers/nodelifecycle"
	"github.com/coxswain/cox/controllers/nodettl"
	"github.com/coxswain/cox/controllers/podgc"
	"github.com/coxswain/cox/controllers/podrequests"
	"github.com/coxswain/cox/controllers/protection"
	"github.com/coxswain/cox/controllers/replicaset"
	"github.com/coxswain/cox/controllers/resourceclaim"
	"github.com/coxswain/cox/controllers/resourcequota"
	"github.com/coxswain/cox/controllers/rootca"
	"github.com/coxswain/cox/controllers/serviceaccount"
	"github.com/coxswain/cox/controllers/serviceaccounttoken"
	"github.com/coxswain/cox/controllers/servicecidr"
	"github.com/coxswain/cox/controllers/statefulset"
	"github.com/coxswain/cox/controllers/storagemigration"
	"github.com/coxswain/cox/controllers/tainteviction"
	"github.com/coxswain/cox/controllers/trustbundle"
	"github.com/coxswain/cox/controllers/volumebinder"
	"github.com/coxswain/cox/controllers/volumeexpand"
)

// Config is what the controllers need from the outside.
type Config struct {
	// ClientFor returns the door of one controller, under the identity of
	// its service account in kube-system.
	ClientFor func(serviceAccount string) client.Interface
	// Informers read for all controllers, as system:kube-controller-manager.
	// Run starts them; they end with its context.
	Informers *client.Informers
	// Discovery lists what is served, for the deletion of namespaces and the
	// garbage collector.
	Discovery controllers.Discovery
	// ResourcesChanged tells that Discovery may return something else now; nil
	// is never.
	ResourcesChanged <-chan struct{}
	// RootCA is the PEM bundle that verifies the API server, published in
	// every namespace; nil publishes nothing.
	RootCA []byte
	// Signing are the authorities for CertificateSigningRequests.
	Signing certificates.Config
	// ClusterCIDRs is the pod network, at most one range per family, that
	// nodes get their parts of; empty leaves nodes alone. NodeMaskIPv4 and
	// NodeMaskIPv6 are the sizes of the parts; 0 is 24 and 64.
	ClusterCIDRs               []netip.Prefix
	NodeMaskIPv4, NodeMaskIPv6 int
	// Mint makes the tokens of secrets that ask for a service account's; nil
	// leaves such secrets alone. Tokens is the door for that, which needs the
	// rights of system:kube-controller-manager.
	Mint   serviceaccounttoken.Mint
	Tokens client.Interface
	// Nodes are the settings of the node lifecycle; the zero value means
	// upstream's defaults.
	Nodes nodelifecycle.Settings
	// Autoscaling are the settings of autoscalers; the zero value means
	// upstream's defaults.
	Autoscaling autoscaling.Settings
	// EndpointsBatch is for how long the changes of pods are gathered before
	// Endpoints are written; 0 is not at all. Slices and Mirror are the same, and
	// more, of EndpointSlices.
	EndpointsBatch time.Duration
	Slices         endpointslice.Settings
	Mirror         mirroring.Settings
	// KeepAttached says that a volume in use stays attached to a node that has
	// not been well for long.
	KeepAttached bool
	// StaticVolumes says that no volumes are provided for claims.
	StaticVolumes bool
	// StartInterval is the time between the starts of two controllers; 0 is
	// none.
	StartInterval time.Duration
	// Controllers says which run, as upstream's --controllers: "*" is all,
	// "name" one, "-name" all but that one; names are upstream's, long or
	// short. Empty is all.
	Controllers []string
	// Workers is how many keys a controller reconciles at once, by its long
	// name, where it is not to be the controller's own number.
	Workers map[string]int
	// FinishedPods is how many finished pods may stay; 0 is 12,500, a
	// negative number all.
	FinishedPods int
	// UnusedTokens is for how long a token that the cluster made for an account
	// of its own accord may go unused before it is marked, and later deleted; 0
	// is a year.
	UnusedTokens time.Duration
	// MigrateStorage says that StorageVersionMigrations, which 1.36 does not
	// serve by default, are served and are to be carried out.
	MigrateStorage bool
	// PublishTrustBundle and CleanPodRequests say that ClusterTrustBundles and
	// PodCertificateRequests, which 1.36 does not serve by default either, are
	// served and are to be kept in order.
	PublishTrustBundle, CleanPodRequests bool
	// Metrics measure the controllers' loops and Counts what they do; nil
	// does neither.
	Metrics *client.Metrics
	Counts  *controllers.Counts

	Log   *slog.Logger
	Clock clock.Clock // nil is the real one
}

// part is a controller to start: its name (as upstream's --controllers knows
// it), the service account that it acts as, and how it is made. Two parts of
// one account share its door.
type part struct {
	name, account string
	make          func(env controllers.Env) (controllers.Controller, error)
}

// reporters are the controllers whose events name another component than
// their service account: what upstream's write there is what users filter by.
var reporters = map[string]string{
	"daemonset-controller":                 "daemonset-controller",
	"disruption-controller":                "controllermanager",
	"endpointslice-controller":             "endpoint-slice-controller",
	"endpointslice-mirroring-controller":   "endpoint-slice-mirroring-controller",
	"ephemeral-volume-controller":          "ephemeral_volume",
	"node-ipam-controller":                 "cidrAllocator",
	"persistentvolume-binder-controller":   "persistentvolume-controller",
	"persistentvolume-expander-controller": "volume_expand",
	"resourceclaim-controller":             "resource_claim",
	"service-cidr-controller":              "service-cidr-controller",
	"taint-eviction-controller":            "taint-eviction-controller",
}

// as lets a constructor of a concrete controller stand in a part.
func as[C controllers.Controller](f func(controllers.Env) (C, error)) func(controllers.Env) (controllers.Controller, error) {
	return func(env controllers.Env) (controllers.Controller, error) { return f(env) }
}

func requests(cfg *Config, duty certificates.Duty) func(controllers.Env) (controllers.Controller, error) {
	return as(func(env controllers.Env) (*certificates.Controller, error) {
		return certificates.New(env, cfg.Signing, duty)
	})
}

func parts(cfg *Config) ([]part, error) {
	out := []part{
		{"deployment-controller", "deployment-controller", as(deployment.New)},
		{"replicaset-controller", "replicaset-controller", as(replicaset.New)},
		{"replicationcontroller-controller", "replication-controller", as(replicaset.NewReplication)},
		{"daemonset-controller", "daemon-set-controller", as(daemonset.New)},
		{"statefulset-controller", "statefulset-controller", as(statefulset.New)},
		{"disruption-controller", "disruption-controller", as(func(env controllers.Env) (*disruption.Controller, error) {
			return disruption.New(env, cfg.Discovery)
		})},
		{"endpoints-controller", "endpoint-controller", as(func(env controllers.Env) (*endpoints.Controller, error) {
			return endpoints.New(env, cfg.EndpointsBatch)
		})},
		{"endpointslice-controller", "endpointslice-controller", as(func(env controllers.Env) (*endpointslice.Controller, error) {
			return endpointslice.New(env, cfg.Slices)
		})},
		{"endpointslice-mirroring-controller", "endpointslicemirroring-controller", as(func(env controllers.Env) (*mirroring.Controller, error) {
			return mirroring.New(env, cfg.Mirror)
		})},
		{"clusterrole-aggregation-controller", "clusterrole-aggregation-controller", as(aggregation.New)},
		{"serviceaccount-controller", "service-account-controller", as(serviceaccount.New)},
		{"job-controller", "job-controller", as(job.New)},
		{"cronjob-controller", "cronjob-controller", as(cronjob.New)},
		{"ttl-after-finished-controller", "ttl-after-finished-controller", as(job.NewTTL)},
		{"persistentvolume-binder-controller", "persistent-volume-binder", as(func(env controllers.Env) (*volumebinder.Controller, error) {
			return volumebinder.New(env, cfg.StaticVolumes)
		})},
		{"persistentvolume-attach-detach-controller", "attachdetach-controller", as(func(env controllers.Env) (*attachdetach.Controller, error) {
			return attachdetach.New(env, cfg.KeepAttached)
		})},
		{"persistentvolume-expander-controller", "expand-controller", as(volumeexpand.New)},
		{"local-provisioner-controller", "persistent-volume-binder", as(localprovisioner.New)},
		{"ephemeral-volume-controller", "ephemeral-volume-controller", as(ephemeralvolume.New)},
		{"persistentvolumeclaim-protection-controller", "pvc-protection-controller", as(protection.NewClaims)},
		{"persistentvolume-protection-controller", "pv-protection-controller", as(protection.NewVolumes)},
		{"volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", as(protection.NewClasses)},
		{"taint-eviction-controller", "node-controller", as(tainteviction.New)},
		{"ttl-controller", "ttl-controller", as(nodettl.New)},
		{"service-cidr-controller", "service-cidrs-controller", as(servicecidr.New)},
		{"resourceclaim-controller", "resource-claim-controller", as(resourceclaim.New)},
		{"device-taint-eviction-controller", "device-taint-eviction-controller", as(devicetaint.New)},
		{"legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", as(func(env controllers.Env) (*legacytoken.Controller, error) {
			return legacytoken.New(env, cfg.UnusedTokens)
		})},
		{"token-cleaner-controller", "token-cleaner", as(bootstrap.NewCleaner)},
		{"bootstrap-signer-controller", "bootstrap-signer", as(bootstrap.NewSigner)},
		{"node-lifecycle-controller", "node-controller", as(func(env controllers.Env) (*nodelifecycle.Controller, error) {
			return nodelifecycle.New(env, cfg.Nodes)
		})},
		{"pod-garbage-collector-controller", "pod-garbage-collector", as(func(env controllers.Env) (*podgc.Controller, error) {
			return podgc.New(env, max(cfg.FinishedPods, 0))
		})},
		{"certificatesigningrequest-approving-controller", "certificate-controller", requests(cfg, certificates.Approve)},
		{"certificatesigningrequest-signing-controller", "certificate-controller", requests(cfg, certificates.Sign)},
		{"certificatesigningrequest-cleaner-controller", "certificate-controller", requests(cfg, certificates.Clean)},
	}
	if len(cfg.ClusterCIDRs) > 0 {
		ranges, err := nodeipam.Ranges(cfg.ClusterCIDRs, cfg.NodeMaskIPv4, cfg.NodeMaskIPv6)
		if err != nil {
			return nil, err
		}
		out = append(out, part{"node-ipam-controller", "node-controller", as(func(env controllers.Env) (*nodeipam.Controller, error) {
			return nodeipam.New(env, ranges)
		})})
	}
	if cfg.RootCA != nil {
		out = append(out, part{"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", as(func(env controllers.Env) (*rootca.Controller, error) {
			return rootca.New(env, cfg.RootCA)
		})})
	}
	if cfg.Mint != nil {
		out = append(out, part{"serviceaccount-token-controller", "service-account-token-controller", as(func(env controllers.Env) (*serviceaccounttoken.Controller, error) {
			env.Client = cfg.Tokens // it has no service account of its own
			return serviceaccounttoken.New(env, cfg.RootCA, cfg.Mint)
		})})
	}
	if cfg.Discovery != nil {
		out = append(out, part{"horizontal-pod-autoscaler-controller", "horizontal-pod-autoscaler", as(func(env controllers.Env) (*autoscaling.Controller, error) {
			return autoscaling.New(env, cfg.Discovery, cfg.Autoscaling)
		})}, part{"namespace-controller", "namespace-controller", as(func(env controllers.Env) (*namespace.Controller, error) {
			return namespace.New(env, cfg.Discovery)
		})}, part{"garbage-collector-controller", "generic-garbage-collector", as(func(env controllers.Env) (*garbagecollector.Controller, error) {
			return garbagecollector.New(env, cfg.Discovery, cfg.ResourcesChanged)
		})}, part{"resourcequota-controller", "resourcequota-controller", as(func(env controllers.Env) (*resourcequota.Controller, error) {
			return resourcequota.New(env, cfg.Discovery)
		})})
	}
	if cfg.PublishTrustBundle && cfg.RootCA != nil {
		out = append(out, part{"kube-apiserver-serving-clustertrustbundle-publisher-controller", "kube-apiserver-serving-clustertrustbundle-publisher", as(func(env controllers.Env) (*trustbundle.Controller, error) {
			return trustbundle.New(env, cfg.RootCA)
		})})
	}
	if cfg.CleanPodRequests {
		out = append(out, part{"podcertificaterequest-cleaner-controller", "podcertificaterequestcleaner", as(podrequests.New)})
	}
	if cfg.MigrateStorage && cfg.Discovery != nil {
		out = append(out, part{"storage-version-migrator-controller", "storage-version-migrator-controller", as(func(env controllers.Env) (*storagemigration.Controller, error) {
			return storagemigration.New(env, cfg.Discovery)
		})})
	}
	return out, nil
}

// Run makes all controllers, waits until their informers have synced, and
// works until ctx ends; then it waits for what is under way. A controller
// that panics is started again after a second. The error is that of setting
// up, or ctx's.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Nodes == (nodelifecycle.Settings{}) {
		cfg.Nodes = nodelifecycle.Defaults()
	}
	if cfg.Autoscaling == (autoscaling.Settings{}) {
		cfg.Autoscaling = autoscaling.Defaults()
	}
	if cfg.FinishedPods == 0 {
		cfg.FinishedPods = 12500
	}
	if cfg.UnusedTokens == 0 {
		cfg.UnusedTokens = legacytoken.Period
	}
	all, err := parts(&cfg)
	if err != nil {
		return err
	}
	if err := CheckControllers(cfg.Controllers); err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p part) bool { return !enabled(cfg.Controllers, p.name) })
	running := make([]controllers.Controller, len(all))
	doors, recorders := map[string]client.Interface{}, map[string]client.Recorder{}
	for i, p := range all {
		if doors[p.account] == nil {
			doors[p.account] = finishing{client.Fenced(cfg.ClientFor(p.account))}
		}
		reporter := cmp.Or(reporters[p.name], p.account)
		if recorders[reporter] == nil {
			recorders[reporter] = client.NewRecorder(ctx, doors[p.account], reporter, "")
		}
		env := controllers.Env{
			Client: doors[p.account], Informers: cfg.Informers, Clock: cfg.Clock, Events: recorders[reporter], Metrics: cfg.Metrics, Counts: cfg.Counts,
			Log: cfg.Log.With("controller", p.name), Workers: cfg.Workers[p.name],
		}
		c, err := p.make(env)
		if err != nil {
			return fmt.Errorf("controller %s: %w", p.name, err)
		}
		running[i] = c
	}
	cfg.Informers.Start(ctx)
	if cfg.Informers.WaitForSync(ctx) {
		cfg.Log.Info("controllers run", "count", len(running))
	}
	// They run even if ctx has ended before: each has a queue to shut down.
	var wg sync.WaitGroup
	for i, c := range running {
		if i > 0 && cfg.StartInterval > 0 {
			select {
			case <-ctx.Done():
			case <-cfg.Clock.After(cfg.StartInterval):
			}
		}
		wg.Go(func() { keep(ctx, cfg.Log, all[i].name, c) })
	}
	wg.Wait()
	return ctx.Err()
}

// keep runs c until ctx ends, and at least once, panics notwithstanding.
func keep(ctx context.Context, log *slog.Logger, name string, c controllers.Controller) {
	for again := true; again; again = ctx.Err() == nil {
		func() {
			defer func() {
				if p := recover(); p != nil {
					log.Error("controller panicked and is started again", "controller", name, "panic", p, "stack", string(debug.Stack()))
				}
			}()
			c.Run(ctx)
		}()
		pause := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}
