package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/client"
)

// Feature gates of 1.36 that are off by default.
const (
	gateStorageMigration = "StorageVersionMigrator"
	gateTrustBundle      = "ClusterTrustBundle"
)

// switchable are the feature gates that can be set otherwise than 1.36 has
// them. All others are as by default.
var switchable = []string{gateTrustBundle, builtin.GateTrustBundleProjection, builtin.GateStopSignals, builtin.GatePodCertificate, gateStorageMigration}

// features are the gates and resources that are switched on beyond 1.36's
// defaults, by upstream's flags.
type features struct {
	gates, runtimeConfig []string

	on     []string                      // gates
	served []schema.GroupVersionResource // of builtin.Optional
}

func (f *features) gateFlag(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.gates, "feature-gates", nil, "features that are switched otherwise than 1.36 has them, as name=true; can be set: "+strings.Join(switchable, ", "))
}

func (f *features) serveFlag(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.runtimeConfig, "runtime-config", nil, "what is served although it is not by default, as group/version=true or group/version/resource=true, or api/beta=true or api/all=true for what there is: "+text(builtin.Optional()))
}

func text(all []schema.GroupVersionResource) string {
	var out []string
	for _, gvr := range all {
		out = append(out, gvr.GroupVersion().String()+"/"+gvr.Resource)
	}
	return strings.Join(out, ", ")
}

// beyond is what the kinds are to know of it.
func (f *features) beyond() builtin.Beyond { return builtin.Beyond{Served: f.served, Gates: f.on} }

// serves says that a resource is served that is not by default.
func (f *features) serves(gvr schema.GroupVersionResource) bool {
	return slices.Contains(f.served, gvr)
}

// optionalGates are the gates that a resource is only served with.
var optionalGates = map[schema.GroupResource]string{
	client.ClusterTrustBundles.GroupResource():      gateTrustBundle,
	client.PodCertificateRequests.GroupResource():   builtin.GatePodCertificate,
	client.StorageVersionMigrations.GroupResource(): gateStorageMigration,
}

// complete checks what was given.
func (f *features) complete() error {
	f.on, f.served = nil, nil
	for _, item := range f.gates {
		name, on, err := setting(item)
		if err != nil {
			return fmt.Errorf("--feature-gates: %w", err)
		}
		name = strings.TrimPrefix(name, "kube:")
		if !slices.Contains(switchable, name) {
			return fmt.Errorf("--feature-gates: %s is as 1.36 has it by default and cannot be set; can be set: %s", name, strings.Join(switchable, ", "))
		}
		f.on = slices.DeleteFunc(f.on, func(have string) bool { return have == name })
		if on {
			f.on = append(f.on, name)
		}
	}
	table, err := builtin.New()
	if err != nil {
		return err
	}
	wanted := map[schema.GroupVersionResource]bool{}
	// What names less counts before what names more.
	list := slices.Clone(f.runtimeConfig)
	slices.SortStableFunc(list, func(a, b string) int { return much(b) - much(a) })
	for _, item := range list {
		name, on, err := setting(item)
		if err != nil {
			return fmt.Errorf("--runtime-config: %w", err)
		}
		if err := choose(table, wanted, name, on); err != nil {
			return fmt.Errorf("--runtime-config: %w", err)
		}
	}
	for _, gvr := range builtin.Optional() {
		if gate := optionalGates[gvr.GroupResource()]; wanted[gvr] && (gate == "" || slices.Contains(f.on, gate)) {
			f.served = append(f.served, gvr)
		}
	}
	return nil
}

// much is how much an item of --runtime-config is about: 2 is many versions, 1
// is one, 0 is a resource.
func much(item string) int {
	switch {
	case strings.HasPrefix(item, "api/"):
		return 2
	case strings.Count(item, "/") < 2:
		return 1
	}
	return 0
}

// setting reads name=bool; no value is true.
func setting(item string) (name string, on bool, err error) {
	name, value, given := strings.Cut(strings.TrimSpace(item), "=")
	if !given || value == "" {
		return name, true, nil
	}
	if on, err = strconv.ParseBool(value); err != nil {
		return "", false, fmt.Errorf("invalid value of %s: %s, err: %w", name, value, err)
	}
	return name, on, nil
}

// choose notes what an item of --runtime-config says of the optional
// resources. Those served by default cannot be switched off.
func choose(table *api.Table, wanted map[schema.GroupVersionResource]bool, name string, on bool) error {
	switch name {
	case "api/all", "api/beta":
		if !on && name == "api/all" {
			return fmt.Errorf("invalid runtime-config with only api/all=false")
		}
		for _, gvr := range builtin.Optional() {
			wanted[gvr] = on
		}
		return nil
	case "api/ga", "api/alpha": // the former are there, of the latter there are none
		if !on && name == "api/ga" {
			return fmt.Errorf("%s cannot be switched off", name)
		}
		return nil
	}
	parts := strings.SplitN(strings.TrimPrefix(name, "api/"), "/", 3)
	if strings.HasPrefix(name, "api/") {
		parts = append([]string{""}, parts...)
	}
	if len(parts) < 2 {
		return fmt.Errorf("%s is not group/version", name)
	}
	gv := schema.GroupVersion{Group: parts[0], Version: parts[1]}
	found := false
	for _, gvr := range builtin.Optional() {
		if gvr.GroupVersion() == gv && (len(parts) < 3 || parts[2] == gvr.Resource) {
			wanted[gvr], found = on, true
		}
	}
	if found {
		return nil
	}
	group := false
	for _, k := range table.Kinds {
		for i := range k.Views {
			group = group || k.Views[i].Group == gv.Group
			if k.Views[i].GroupVersion() == gv {
				if !on {
					return fmt.Errorf("%s cannot be switched off", name)
				}
				return nil
			}
		}
	}
	if !group {
		return fmt.Errorf("unknown api groups %s", name)
	}
	return fmt.Errorf("group version %s that has not been registered", gv)
}
