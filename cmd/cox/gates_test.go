package main

import (
	"strings"
	"testing"

	"github.com/coxswain/cox/client"
)

func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		gates, config []string
		served        bool
		err           string
	}{
		{},
		{gates: []string{"StorageVersionMigrator=true"}},
		{config: []string{"storagemigration.k8s.io/v1beta1=true"}}, // its gate is off
		{gates: []string{"StorageVersionMigrator=true"}, config: []string{"storagemigration.k8s.io/v1beta1=true"}, served: true},
		{gates: []string{"kube:StorageVersionMigrator=true"}, config: []string{"storagemigration.k8s.io/v1beta1"}, served: true},
		{gates: []string{"StorageVersionMigrator=true"}, config: []string{"api/beta=true"}, served: true},
		{gates: []string{"StorageVersionMigrator=true"}, config: []string{"storagemigration.k8s.io/v1beta1=false", "api/all=true"}},
		{gates: []string{"StorageVersionMigrator=true", "StorageVersionMigrator=false"}, config: []string{"api/all=true"}},
		{config: []string{"apps/v1=true", "v1=true"}, err: "v1 is not group/version"},
		{config: []string{"apps/v1=true", "api/v1=true"}},
		{config: []string{"apps/v1=false"}, err: "cannot be switched off"},
		{config: []string{"apps/v7=true"}, err: "group version apps/v7 that has not been registered"},
		{config: []string{"foo/v1=true"}, err: "unknown api groups foo/v1"},
		{config: []string{"storagemigration.k8s.io/v1beta1=x"}, err: "invalid value of storagemigration.k8s.io/v1beta1: x"},
		{gates: []string{"MemoryQoS=true"}, err: "MemoryQoS is as 1.36 has it"},
	} {
		f := features{gates: c.gates, runtimeConfig: c.config}
		err := f.complete()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v %v: %v, want %s", c.gates, c.config, err, c.err)
			}
			continue
		}
		has := f.serves(client.StorageVersionMigrations.GroupVersionResource)
		if err != nil || has != c.served {
			t.Errorf("%v %v: %v, served %v", c.gates, c.config, err, f.served)
		}
	}
}

// A resource of a version may be served alone, and what names it counts before
// what names its version.
func TestServedResources(t *testing.T) {
	gates := []string{"ClusterTrustBundle=true", "ClusterTrustBundleProjection=true", "PodCertificateRequest=true"}
	for _, c := range []struct {
		gates, config []string
		want          string
	}{
		{gates, nil, ""},
		{gates, []string{"certificates.k8s.io/v1beta1=true"}, "clustertrustbundles podcertificaterequests"},
		{gates[:1], []string{"certificates.k8s.io/v1beta1=true"}, "clustertrustbundles"},
		{gates, []string{"certificates.k8s.io/v1beta1/podcertificaterequests=true"}, "podcertificaterequests"},
		{gates, []string{"certificates.k8s.io/v1beta1/clustertrustbundles=false", "certificates.k8s.io/v1beta1=true"}, "podcertificaterequests"},
	} {
		f := features{gates: c.gates, runtimeConfig: c.config}
		if err := f.complete(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, gvr := range f.served {
			got = append(got, gvr.Resource)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v %v: %v, want %s", c.gates, c.config, got, c.want)
		}
	}
}
