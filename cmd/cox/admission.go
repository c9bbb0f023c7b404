package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/apiserver/admission/policies"
	"github.com/coxswain/cox/apiserver/admission/webhooks"
	"github.com/coxswain/cox/apiserver/aggregation"
	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/apiserver/services"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/internal/component"
)

// aggregate passes group versions on to the servers that APIServices name, and
// keeps the APIServices of this one.
func (cp *controlPlane) aggregate(group *component.Group) {
	dialer := &services.Dialer{Door: cp.root}
	cp.agg = aggregation.New(aggregation.Config{
		Door: cp.root, Kinds: cp.server.Kinds, Dial: dialer.Dial, Log: cp.log.With("component", "aggregation"), Changed: func() { cp.crds.Announce() },
		Identity: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cp.bundle.FrontProxyClient.Certificate()
		},
	})
	cp.server.SetAggregator(cp.agg)
	definitions := apiserver.Closed(cp.crds.Synced())
	cp.server.SetKnown(func() bool { return cp.agg.Synced() && definitions(context.Background()) == nil })
	cp.server.Metrics().MustRegister(cp.agg.Metrics())
	registered := cp.agg.Registered()
	cp.server.PostStarted(registered, "start-kube-aggregator-informers", "apiservice-registration-controller",
		"apiservice-status-local-available-controller", "apiservice-status-remote-available-controller", "apiservice-discovery-controller",
		"kube-apiserver-autoregistration")
	cp.server.AddCheck("autoregister-completion", apiserver.Closed(registered))
	group.Go("aggregation", cp.agg.Run)
}

// servedElsewhere lists what other servers store, each resource in the version
// that its group prefers. The error names the group versions of which that is
// not known now.
func servedElsewhere(agg apiserver.Aggregator) ([]controllers.Resource, error) {
	extra, _ := agg.Extra()
	var out []controllers.Resource
	var stale []string
	seen := map[schema.GroupResource]bool{}
	for _, g := range discovery.With(nil, extra) {
		for _, v := range g.Versions {
			if v.Stale {
				stale = append(stale, fmt.Sprintf("%s: stale GroupVersion discovery: %[1]s", v.GV))
			}
			for i := range v.Resources {
				r := &v.Resources[i]
				gvr := v.GV.WithResource(r.Name)
				if strings.Contains(r.Name, "/") || seen[gvr.GroupResource()] {
					continue
				}
				seen[gvr.GroupResource()] = true
				out = append(out, controllers.Resource{GroupVersionResource: gvr, Kind: r.Kind, Namespaced: r.Namespaced, Verbs: append([]string{}, r.Verbs...)})
			}
		}
	}
	if len(stale) > 0 {
		return out, fmt.Errorf("unable to retrieve the complete list of server APIs: %s", strings.Join(stale, ", "))
	}
	return out, nil
}

// chain is the admission chain. The followers of the objects by which users
// configure admission run in the group.
func (cp *controlPlane) chain(group *component.Group) ([]admission.Plugin, error) {
	flags := &cp.cfg.admission
	configs, err := plugins.ReadConfigs(flags.Config)
	if err != nil {
		return nil, err
	}
	log := cp.log.With("component", "admission")
	dialer := &services.Dialer{Door: cp.root}
	mutators, err := plugins.WebhookUsers(configs, "MutatingAdmissionWebhook")
	if err != nil {
		return nil, fmt.Errorf("failed to apply admission: %w", err)
	}
	validators, err := plugins.WebhookUsers(configs, "ValidatingAdmissionWebhook")
	if err != nil {
		return nil, fmt.Errorf("failed to apply admission: %w", err)
	}
	asked, ruled := webhooks.NewCounts(), policies.NewCounts()
	cp.server.Metrics().MustRegister(asked, ruled)
	hooks := webhooks.New(webhooks.Config{
		Door: cp.root, Served: cp.server.Served, Authz: cp.auth, Dial: dialer.Dial, Log: log, Mutators: mutators, Validators: validators,
		Counts: asked,
	})
	group.Go("admission-webhooks", hooks.Run)
	rules := policies.New(policies.Config{
		Door: cp.root, Served: cp.server.Served, ServedKind: cp.server.ServedKind, Types: cp.server.Types, Authz: cp.auth, Log: log,
		Document: cp.crds.Document, Counts: ruled,
	})
	group.Go("admission-policies", rules.Run)
	webhooksRead, policiesRead := apiserver.Closed(hooks.Synced()), apiserver.Closed(rules.Synced())
	cp.server.AddCheck("poststarthook/start-apiserver-admission-initializer", func(ctx context.Context) error {
		return errors.Join(webhooksRead(ctx), policiesRead(ctx))
	})
	chain, err := plugins.New(plugins.Config{
		Door: cp.server.Inside(masters), Authz: cp.auth, Log: cp.log, Now: time.Now, Owners: cp.owners,
		Late:   []admission.Plugin{rules.Mutating(), hooks.Mutating(), rules.Validating(), hooks.Validating()},
		Select: flags.Select, Configs: configs, NotReadySeconds: &flags.NotReadySeconds, UnreachableSeconds: &flags.UnreachableSeconds,
	})
	if err != nil {
		return nil, fmt.Errorf("failed to apply admission: %w", err)
	}
	return chain, nil
}

// owners finds the resource of a kind that an owner reference names.
func (cp *controlPlane) owners(gvk schema.GroupVersionKind) (resource string, namespaced, ok bool) {
	s, ok := cp.server.ServedKind(gvk)
	if !ok {
		return "", false, false
	}
	return s.Kind.Resource, s.Kind.Namespaced, true
}

// admissionConfig chooses and configures admission plugins. The flags have
// upstream's names.
type admissionConfig struct {
	Select                              plugins.Selection
	Config                              string
	NotReadySeconds, UnreachableSeconds int64
}

func (a *admissionConfig) flags(fs *pflag.FlagSet) {
	all := strings.Join(plugins.Names(), ", ")
	defaults := strings.Join(plugins.DefaultNames(), ", ")
	fs.StringSliceVar(&a.Select.Enable, "enable-admission-plugins", nil, "admission plugins that run beside those that do by default ("+defaults+"); there are: "+all)
	fs.StringSliceVar(&a.Select.Disable, "disable-admission-plugins", nil, "admission plugins that do not run although they do by default")
	fs.StringSliceVar(&a.Select.Only, "admission-control", nil, "all admission plugins that run, in place of the defaults")
	_ = fs.MarkDeprecated("admission-control", "Use --enable-admission-plugins or --disable-admission-plugins instead. Will be removed in a future version.")
	fs.StringVar(&a.Config, "admission-control-config-file", "", "configuration of admission plugins (apiserver.config.k8s.io/v1 AdmissionConfiguration)")
	fs.Int64Var(&a.NotReadySeconds, "default-not-ready-toleration-seconds", 300, "how long pods that do not say stay on a node that is not ready, in seconds")
	fs.Int64Var(&a.UnreachableSeconds, "default-unreachable-toleration-seconds", 300, "how long pods that do not say stay on a node that is not reached, in seconds")
}
