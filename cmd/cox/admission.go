package main

import (
	"crypto/tls"
	"time"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/apiserver/admission/policies"
	"github.com/coxswain/cox/apiserver/admission/webhooks"
	"github.com/coxswain/cox/apiserver/aggregation"
	"github.com/coxswain/cox/apiserver/services"
	"github.com/coxswain/cox/internal/component"
)

// aggregate passes group versions on to the servers that APIServices name, and
// keeps the APIServices of this one.
func (cp *controlPlane) aggregate(group *component.Group) {
	dialer := &services.Dialer{Door: cp.root}
	agg := aggregation.New(aggregation.Config{
		Door: cp.root, Kinds: cp.server.Kinds, Dial: dialer.Dial, Log: cp.log.With("component", "aggregation"),
		Identity: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cp.bundle.FrontProxyClient.Certificate()
		},
	})
	cp.server.SetAggregator(agg)
	group.Go("aggregation", agg.Run)
}

// chain is the admission chain. The followers of the objects by which users
// configure admission run in the group.
func (cp *controlPlane) chain(group *component.Group) []admission.Plugin {
	log := cp.log.With("component", "admission")
	dialer := &services.Dialer{Door: cp.root}
	hooks := webhooks.New(webhooks.Config{Door: cp.root, Served: cp.server.Served, Authz: cp.auth, Dial: dialer.Dial, Log: log})
	group.Go("admission-webhooks", hooks.Run)
	rules := policies.New(policies.Config{
		Door: cp.root, Served: cp.server.Served, ServedKind: cp.server.ServedKind, Types: cp.server.Types, Authz: cp.auth, Log: log,
		Document: cp.crds.Document,
	})
	group.Go("admission-policies", rules.Run)
	return plugins.Default(plugins.Config{
		Door: cp.server.Inside(masters), Authz: cp.auth, Log: cp.log, Now: time.Now,
		Late: []admission.Plugin{rules.Mutating(), hooks.Mutating(), rules.Validating(), hooks.Validating()},
	})
}
