package plugins

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coxswain/cox/apiserver/admission"
)

// Selection says which plugins run, by the flags of upstream's names.
type Selection struct {
	Enable, Disable []string // --enable-admission-plugins, --disable-admission-plugins
	Only            []string // --admission-control
}

// entry is a plugin that there is.
type entry struct {
	name string
	on   bool // unless it is disabled
	// make is nil for what another part of the server does: the writes'
	// strategies, or the plugins that users configure by objects.
	make func(c *Config, d deps) (*plugin, error)
}

func plain(f func(deps) *plugin) func(*Config, deps) (*plugin, error) {
	return func(_ *Config, d deps) (*plugin, error) { return f(d), nil }
}

func alone(f func() *plugin) func(*Config, deps) (*plugin, error) {
	return func(*Config, deps) (*plugin, error) { return f(), nil }
}

// entries are all plugins in the order in which they run, which is upstream's.
// NodeRestriction is on because the node authorizer is.
func entries() []entry {
	return []entry{
		{"AlwaysAdmit", false, alone(alwaysAdmit)},
		{"NamespaceAutoProvision", false, plain(namespaceAutoProvision)},
		{"NamespaceLifecycle", true, plain(namespaceLifecycle)},
		{"NamespaceExists", false, plain(namespaceExists)},
		{"LimitPodHardAntiAffinityTopology", false, alone(limitPodHardAntiAffinityTopology)},
		{"LimitRanger", true, plain(limitRanger)},
		{"ServiceAccount", true, plain(serviceAccount)},
		{"NodeRestriction", true, plain(nodeRestriction)},
		{"TaintNodesByCondition", true, alone(taintNodesByCondition)},
		{"AlwaysPullImages", false, alone(alwaysPullImages)},
		{"ImagePolicyWebhook", false, imagePolicy},
		{"PodSecurity", true, podSecurity},
		{"PodNodeSelector", false, podNodeSelector},
		{"Priority", true, plain(priority)},
		{"DefaultTolerationSeconds", true, func(c *Config, _ deps) (*plugin, error) {
			return defaultTolerationSeconds(c.NotReadySeconds, c.UnreachableSeconds), nil
		}},
		{"PodTolerationRestriction", false, podTolerationRestriction},
		{"EventRateLimit", false, eventRateLimit},
		{"ExtendedResourceToleration", false, alone(extendedResourceToleration)},
		{"DefaultStorageClass", true, plain(defaultStorageClass)},
		{"StorageObjectInUseProtection", true, alone(storageObjectInUseProtection)},
		{"PodGroupProtection", true, nil},
		{"OwnerReferencesPermissionEnforcement", false, plain(ownerReferences)},
		{"PersistentVolumeClaimResize", true, plain(persistentVolumeClaimResize)},
		{"RuntimeClass", true, plain(runtimeClass)},
		{"CertificateApproval", true, plain(certificateApproval)},
		{"CertificateSigning", true, plain(certificateSigning)},
		{"ClusterTrustBundleAttest", true, plain(clusterTrustBundleAttest)},
		{"CertificateSubjectRestriction", true, alone(certificateSubjectRestriction)},
		{"DefaultIngressClass", true, plain(defaultIngressClass)},
		{"DenyServiceExternalIPs", false, alone(denyServiceExternalIPs)},
		{"PodTopologyLabels", true, plain(podTopologyLabels)},
		{"PodGroupWorkloadExists", true, nil},
		{"NodeDeclaredFeatureValidator", true, plain(nodeDeclaredFeatures)},
		{"JobValidation", true, nil},
		{"PodResizeValidator", true, plain(podResizeValidator)},
		{"MutatingAdmissionPolicy", true, nil},
		{"MutatingAdmissionWebhook", true, nil},
		{"ValidatingAdmissionPolicy", true, nil},
		{"ValidatingAdmissionWebhook", true, nil},
		{"ResourceQuota", true, resourceQuota}, // behind all others: what they refuse is not charged
		{"AlwaysDeny", false, alone(alwaysDeny)},
	}
}

// Names are the plugins that there are, sorted.
func Names() []string {
	var out []string
	for _, e := range entries() {
		out = append(out, e.name)
	}
	slices.Sort(out)
	return out
}

// DefaultNames are those that run unless they are disabled, in their order.
func DefaultNames() []string {
	var out []string
	for _, e := range entries() {
		if e.on {
			out = append(out, e.name)
		}
	}
	return out
}

// Check refuses unknown and contradictory names in upstream's words.
func (s *Selection) Check() error {
	if len(s.Only) > 0 && len(s.Enable)+len(s.Disable) > 0 {
		return errors.New("admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive")
	}
	known := Names()
	var bad []string
	for _, list := range []struct {
		flag  string
		names []string
	}{{"admission-control", s.Only}, {"enable-admission-plugins", s.Enable}, {"disable-admission-plugins", s.Disable}} {
		for _, n := range list.names {
			if !slices.Contains(known, n) {
				bad = append(bad, fmt.Sprintf("%s plugin %q is unknown", list.flag, n))
			}
		}
	}
	var both []string
	for _, n := range s.Enable {
		if slices.Contains(s.Disable, n) {
			both = append(both, n)
		}
	}
	if len(both) > 0 {
		bad = append(bad, fmt.Sprintf("%v in enable-admission-plugins and disable-admission-plugins overlapped", both))
	}
	switch len(bad) {
	case 0:
		return nil
	case 1:
		return errors.New(bad[0])
	}
	return errors.New("[" + strings.Join(bad, ", ") + "]")
}

func (s *Selection) runs(e *entry) bool {
	if len(s.Only) > 0 {
		return slices.Contains(s.Only, e.name)
	}
	return (e.on || slices.Contains(s.Enable, e.name)) && !slices.Contains(s.Disable, e.name)
}

// New returns the plugins that the configuration selects, in their order.
func New(c Config) ([]admission.Plugin, error) {
	if err := c.Select.Check(); err != nil {
		return nil, err
	}
	c.complete()
	d := deps{door: c.Door, authz: c.Authz, now: c.Now, log: c.Log, owners: c.Owners}
	out := []admission.Plugin{adminAccess(d), claimStatus(d), podRequestSigning(d)}
	for _, e := range entries() {
		if !c.Select.runs(&e) {
			continue
		}
		if e.make == nil {
			for _, p := range c.Late {
				if p.Name() == e.name {
					out = append(out, p)
				}
			}
			continue
		}
		p, err := e.make(&c, d)
		if err != nil {
			return nil, err
		}
		p.name = e.name
		out = append(out, p)
	}
	return out, nil
}

func badConfig(plugin string, err error) error {
	return fmt.Errorf("couldn't init admission plugin %q: %w", plugin, err)
}
