package manager

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coxswain/cox/controllers"
)

func TestEnabled(t *testing.T) {
	for _, tc := range []struct {
		list, on, off string
	}{
		{"", "job-controller cronjob-controller", ""},
		{"*", "job-controller", ""},
		{"*,-job-controller", "cronjob-controller", "job-controller"},
		{"*,-job", "cronjob-controller", "job-controller"},
		{"-job,*", "cronjob-controller", "job-controller"},
		{"job,cronjob-controller", "job-controller cronjob-controller", "deployment-controller"},
		{"-job", "", "job-controller deployment-controller"},
		{"-job,job", "", "job-controller"},
	} {
		var list []string
		if tc.list != "" {
			list = strings.Split(tc.list, ",")
		}
		if err := CheckControllers(list); err != nil {
			t.Error(err)
		}
		for _, n := range strings.Fields(tc.on) {
			if !enabled(list, n) {
				t.Errorf("%q: %s does not run", tc.list, n)
			}
		}
		for _, n := range strings.Fields(tc.off) {
			if enabled(list, n) {
				t.Errorf("%q: %s runs", tc.list, n)
			}
		}
	}
	if err := CheckControllers([]string{"*", "-jobs"}); err == nil || !strings.HasPrefix(err.Error(), `"jobs" is not in the list of known controllers`) {
		t.Error(err)
	}
}

// Every controller that can run has a name that users can say, and none has
// two.
func TestEveryControllerHasAName(t *testing.T) {
	cfg := &Config{MigrateStorage: true, PublishTrustBundle: true, CleanPodRequests: true, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, RootCA: []byte{}, Mint: func(string, string, string, string) (string, error) { return "", nil }, Discovery: func(context.Context) ([]controllers.Resource, error) { return nil, nil }}
	all, err := parts(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var run []string
	for _, p := range all {
		run = append(run, p.name)
	}
	known := Names()
	slices.Sort(run)
	slices.Sort(known)
	if !slices.Equal(run, known) {
		t.Errorf("run %v\nnamed %v", run, known)
	}
}

// upstream is what kube-controller-manager 1.36 --help lists under
// --controllers, and the short names that it takes as well.
const upstream = `bootstrap-signer-controller certificatesigningrequest-approving-controller certificatesigningrequest-cleaner-controller
certificatesigningrequest-signing-controller cloud-node-lifecycle-controller clusterrole-aggregation-controller cronjob-controller
daemonset-controller deployment-controller device-taint-eviction-controller disruption-controller endpoints-controller endpointslice-controller
endpointslice-mirroring-controller ephemeral-volume-controller garbage-collector-controller horizontal-pod-autoscaler-controller job-controller
kube-apiserver-serving-clustertrustbundle-publisher-controller legacy-serviceaccount-token-cleaner-controller namespace-controller
node-ipam-controller node-lifecycle-controller node-route-controller persistentvolume-attach-detach-controller persistentvolume-binder-controller
persistentvolume-expander-controller persistentvolume-protection-controller persistentvolumeclaim-protection-controller
pod-garbage-collector-controller podcertificaterequest-cleaner-controller podgroup-protection-controller replicaset-controller
replicationcontroller-controller resourceclaim-controller resourcepoolstatusrequest-controller resourcequota-controller
root-ca-certificate-publisher-controller selinux-warning-controller service-ca-certificate-publisher-controller service-cidr-controller
service-lb-controller serviceaccount-controller serviceaccount-token-controller statefulset-controller storage-version-migrator-controller
storageversion-garbage-collector-controller taint-eviction-controller token-cleaner-controller ttl-after-finished-controller ttl-controller
validatingadmissionpolicy-status-controller volumeattributesclass-protection-controller
bootstrapsigner serviceaccount-token endpoint endpointslice endpointslicemirroring replicationcontroller podgc resourcequota namespace
serviceaccount garbagecollector daemonset job deployment replicaset horizontalpodautoscaling disruption statefulset cronjob csrsigning
csrapproving csrcleaner ttl tokencleaner nodeipam nodelifecycle service route cloud-node-lifecycle persistentvolume-binder attachdetach
persistentvolume-expander clusterrole-aggregation pvc-protection pv-protection ttl-after-finished root-ca-cert-publisher ephemeral-volume
storage-version-gc resource-claim-controller legacy-service-account-token-cleaner`

// What upstream's list may say, ours may say.
func TestUpstreamsNames(t *testing.T) {
	if err := CheckControllers(strings.Fields(upstream)); err != nil {
		t.Error(err)
	}
	for _, a := range absent {
		if slices.Contains(Names(), a.long) {
			t.Errorf("%s is there and absent", a.long)
		}
	}
}
