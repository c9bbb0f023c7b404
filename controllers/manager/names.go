package manager

import (
	"fmt"
	"slices"
	"strings"
)

// name is how users call a controller: by its long name, the short one of old,
// and in the flag --concurrent-FLAG-syncs. See the reference page of
// kube-controller-manager.
type name struct{ long, short, flag string }

var names = []name{
	{"bootstrap-signer-controller", "bootstrapsigner", ""},
	{"certificatesigningrequest-approving-controller", "csrapproving", ""},
	{"certificatesigningrequest-cleaner-controller", "csrcleaner", ""},
	{"certificatesigningrequest-signing-controller", "csrsigning", ""},
	{"clusterrole-aggregation-controller", "clusterrole-aggregation", ""},
	{"cronjob-controller", "cronjob", "cron-job"},
	{"daemonset-controller", "daemonset", "daemonset"},
	{"deployment-controller", "deployment", "deployment"},
	{"device-taint-eviction-controller", "", "device-taint-eviction"},
	{"disruption-controller", "disruption", ""},
	{"endpoints-controller", "endpoint", "endpoint"},
	{"endpointslice-controller", "endpointslice", "service-endpoint"},
	{"endpointslice-mirroring-controller", "endpointslicemirroring", ""},
	{"ephemeral-volume-controller", "ephemeral-volume", "ephemeralvolume"},
	{"garbage-collector-controller", "garbagecollector", "gc"},
	{"horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", "horizontal-pod-autoscaler"},
	{"job-controller", "job", "job"},
	{"kube-apiserver-serving-clustertrustbundle-publisher-controller", "", ""},
	{"legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", ""},
	{"local-provisioner-controller", "local-provisioner", ""},
	{"namespace-controller", "namespace", "namespace"},
	{"node-ipam-controller", "nodeipam", ""},
	{"node-lifecycle-controller", "nodelifecycle", ""},
	{"persistentvolume-attach-detach-controller", "attachdetach", ""},
	{"persistentvolume-expander-controller", "persistentvolume-expander", ""},
	{"persistentvolume-binder-controller", "persistentvolume-binder", ""},
	{"persistentvolume-protection-controller", "pv-protection", ""},
	{"persistentvolumeclaim-protection-controller", "pvc-protection", ""},
	{"pod-garbage-collector-controller", "podgc", ""},
	{"podcertificaterequest-cleaner-controller", "", ""},
	{"replicaset-controller", "replicaset", "replicaset"},
	{"replicationcontroller-controller", "replicationcontroller", "rc"},
	{"resourceclaim-controller", "resource-claim-controller", "resourceclaim"},
	{"resourcequota-controller", "resourcequota", "resource-quota"},
	{"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", ""},
	{"service-cidr-controller", "", ""},
	{"serviceaccount-controller", "serviceaccount", ""},
	{"serviceaccount-token-controller", "serviceaccount-token", "serviceaccount-token"},
	{"statefulset-controller", "statefulset", "statefulset"},
	{"storage-version-migrator-controller", "", ""},
	{"taint-eviction-controller", "", ""},
	{"token-cleaner-controller", "tokencleaner", ""},
	{"ttl-controller", "ttl", ""},
	{"ttl-after-finished-controller", "ttl-after-finished", "ttl-after-finished"},
	{"volumeattributesclass-protection-controller", "", ""},
}

// absent are upstream's controllers that are not here, each with the reason.
// A list may name them all the same: it was written for upstream's.
var absent = []struct{ long, short, why string }{
	{"cloud-node-lifecycle-controller", "cloud-node-lifecycle", "needs a cloud provider"},
	{"node-route-controller", "route", "needs a cloud provider"},
	{"service-lb-controller", "service", "needs a cloud provider"},
	{"validatingadmissionpolicy-status-controller", "", "the API server writes the status itself"},
	{"service-ca-certificate-publisher-controller", "service-ca-cert-publisher", "publishes a distribution's own authority"},
	{"selinux-warning-controller", "", "off by default"},
	{"podgroup-protection-controller", "", "behind a feature gate that is off in 1.36"},
	{"resourcepoolstatusrequest-controller", "", "behind a feature gate that is off in 1.36"},
	{"storageversion-garbage-collector-controller", "storage-version-gc", "behind a feature gate that is off in 1.36"},
}

// Names lists the controllers by their long names.
func Names() []string {
	var out []string
	for _, n := range names {
		out = append(out, n.long)
	}
	return out
}

// Flags are the controllers whose number of workers has a flag of upstream's,
// --concurrent-FLAG-syncs: the flag's middle part by the long name.
func Flags() map[string]string {
	out := map[string]string{}
	for _, n := range names {
		if n.flag != "" {
			out[n.long] = n.flag
		}
	}
	return out
}

// CheckControllers says what in a list for Config.Controllers names nothing.
func CheckControllers(list []string) error {
	for _, item := range list {
		item = strings.TrimPrefix(item, "-")
		known := item == "*"
		for _, a := range absent {
			known = known || item == a.long || item == a.short && item != ""
		}
		for _, n := range names {
			known = known || item == n.long || item == n.short && item != ""
		}
		if !known {
			return fmt.Errorf("%q is not in the list of known controllers: %s", item, strings.Join(Names(), ", "))
		}
	}
	return nil
}

// enabled says whether the controller of a long name is to run. The first item
// that names it counts, then "*".
func enabled(list []string, long string) bool {
	if len(list) == 0 {
		return true
	}
	short := ""
	for _, n := range names {
		if n.long == long {
			short = n.short
		}
	}
	for _, item := range list {
		bare, off := strings.CutPrefix(item, "-")
		if bare == long || bare == short && short != "" {
			return !off
		}
	}
	return slices.Contains(list, "*")
}
