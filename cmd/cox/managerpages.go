package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/internal/slis"
	"github.com/coxswain/cox/internal/zpages"
)

// managerPages are what the controllers, where they run alone, tell of
// themselves.
type managerPages struct {
	role    *managerRole
	host    string // of the API server, for metrics
	metrics *client.Metrics
	counts  *controllers.Counts
	started time.Time
}

func newManagerPages(r *managerRole, conf *rest.Config) *managerPages {
	host := conf.Host
	if u, _, err := rest.DefaultServerUrlFor(conf); err == nil {
		host = u.Host
	}
	return &managerPages{role: r, host: host, metrics: client.NewMetrics(), counts: controllers.NewCounts(), started: time.Now()}
}

// handler serves them under upstream's paths.
func (p *managerPages) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.metrics, p.counts, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	checks := slis.New()
	health := p.health(checks)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /metrics/slis", checks)
	paths := []string{"/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"}
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, health)
	}
	pages := zpages.Component{Name: "kube-controller-manager", Version: gitVersion, Started: p.started, Flags: p.role.shown, Paths: paths}
	mux.HandleFunc("GET /statusz", pages.Statusz)
	mux.HandleFunc("GET /flagz", pages.Flagz)
	mux.HandleFunc("GET /configz", p.configz)
	if p.role.profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// health answers that the process serves. Whether it leads is for /metrics to
// say: who does not is well, too.
func (p *managerPages) health(checks *slis.Results) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		endpoint := strings.TrimPrefix(r.URL.Path, "/")
		checks.Observe(endpoint, "ping", nil)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if _, verbose := r.URL.Query()["verbose"]; verbose {
			fmt.Fprintf(w, "[+]ping ok\n%s check passed\n", endpoint)
			return
		}
		fmt.Fprint(w, "ok")
	}
}

// syncFields are the sections and fields that --concurrent-*-syncs have in
// upstream's configuration, by the controller's name.
var syncFields = map[string][2]string{
	"cronjob-controller":                   {"CronJobController", "ConcurrentCronJobSyncs"},
	"daemonset-controller":                 {"DaemonSetController", "ConcurrentDaemonSetSyncs"},
	"deployment-controller":                {"DeploymentController", "ConcurrentDeploymentSyncs"},
	"device-taint-eviction-controller":     {"DeviceTaintEvictionController", "ConcurrentSyncs"},
	"endpoints-controller":                 {"EndpointController", "ConcurrentEndpointSyncs"},
	"endpointslice-controller":             {"EndpointSliceController", "ConcurrentServiceEndpointSyncs"},
	"ephemeral-volume-controller":          {"EphemeralVolumeController", "ConcurrentEphemeralVolumeSyncs"},
	"garbage-collector-controller":         {"GarbageCollectorController", "ConcurrentGCSyncs"},
	"horizontal-pod-autoscaler-controller": {"HPAController", "ConcurrentHorizontalPodAutoscalerSyncs"},
	"job-controller":                       {"JobController", "ConcurrentJobSyncs"},
	"namespace-controller":                 {"NamespaceController", "ConcurrentNamespaceSyncs"},
	"replicaset-controller":                {"ReplicaSetController", "ConcurrentRSSyncs"},
	"replicationcontroller-controller":     {"ReplicationController", "ConcurrentRCSyncs"},
	"resourceclaim-controller":             {"ResourceClaimController", "ConcurrentSyncs"},
	"resourcequota-controller":             {"ResourceQuotaController", "ConcurrentResourceQuotaSyncs"},
	"serviceaccount-token-controller":      {"SAController", "ConcurrentSATokenSyncs"},
	"statefulset-controller":               {"StatefulSetController", "ConcurrentStatefulSetSyncs"},
	"ttl-after-finished-controller":        {"TTLAfterFinishedController", "ConcurrentTTLSyncs"},
}

// configz shows the settings by the names of upstream's
// KubeControllerManagerConfiguration (kubecontrollermanager.config.k8s.io/v1alpha1):
// those that there are here.
func (p *managerPages) configz(w http.ResponseWriter, _ *http.Request) {
	r := p.role
	nodes := r.loops.nodes
	config := map[string]any{
		"kind": "KubeControllerManagerConfiguration", "apiVersion": "kubecontrollermanager.config.k8s.io/v1alpha1",
		"Generic": map[string]any{
			"ClientConnection": map[string]any{"kubeconfig": r.kubeconfig, "qps": r.qps, "burst": r.burst},
			"LeaderElection": map[string]any{
				"leaderElect": r.elect, "leaseDuration": r.election.lease.String(), "renewDeadline": r.election.renew.String(), "retryPeriod": r.election.retry.String(),
				"resourceLock": "leases", "resourceName": r.name, "resourceNamespace": r.leaseNamespace,
			},
			"Controllers": r.loops.list, "Debugging": map[string]any{"enableProfiling": r.profiling},
		},
		"KubeCloudShared": map[string]any{
			"UseServiceAccountCredentials": r.asAccounts, "AllocateNodeCIDRs": r.allocate, "ClusterCIDR": strings.Join(r.clusterCIDRs, ","),
		},
		"CSRSigningController": map[string]any{"ClusterSigningCertFile": r.signingCert, "ClusterSigningKeyFile": r.signKey},
		"LegacySATokenCleaner": map[string]any{"CleanUpPeriod": r.loops.unusedTokens.String()},
		"NodeIPAMController":   map[string]any{"NodeCIDRMaskSizeIPv4": r.loops.mask4, "NodeCIDRMaskSizeIPv6": r.loops.mask6},
		"NodeLifecycleController": map[string]any{
			"NodeEvictionRate": r.loops.rate, "SecondaryNodeEvictionRate": r.loops.slowRate, "LargeClusterSizeThreshold": nodes.LargeZone,
			"UnhealthyZoneThreshold": nodes.UnhealthyShare, "NodeMonitorGracePeriod": nodes.MonitorGrace.String(), "NodeStartupGracePeriod": nodes.StartupGrace.String(),
		},
		"HPAController": map[string]any{
			"HorizontalPodAutoscalerSyncPeriod": r.loops.scaling.SyncPeriod.String(), "HorizontalPodAutoscalerTolerance": r.loops.scaling.Tolerance,
			"HorizontalPodAutoscalerDownscaleStabilizationWindow": r.loops.scaling.DownscaleStabilization.String(),
			"HorizontalPodAutoscalerCPUInitializationPeriod":      r.loops.scaling.CPUInitialization.String(),
			"HorizontalPodAutoscalerInitialReadinessDelay":        r.loops.scaling.InitialReadiness.String(),
		},
		"PodGCController": map[string]any{"TerminatedPodGCThreshold": r.loops.finishedPods},
		"SAController":    map[string]any{"ServiceAccountKeyFile": r.accountKey, "RootCAFile": r.rootCA},
	}
	for name, at := range syncFields {
		section, _ := config[at[0]].(map[string]any)
		if section == nil {
			section = map[string]any{}
			config[at[0]] = section
		}
		section[at[1]] = *r.loops.workers[name] // 0 is the controller's own number
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kubecontrollermanager.config.k8s.io": config}) // the client has gone, if this fails
}

// serveUntil answers on l until ctx ends, and then lets what is under way end.
func serveUntil(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(late); err != nil {
		_ = s.Close()
	}
	<-done
	return ctx.Err()
}
