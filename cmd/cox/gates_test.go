package main

import (
	"slices"
	"strings"
	"testing"

	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
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
		has := slices.Contains(f.served, storagemigrationv1beta1.SchemeGroupVersion)
		if err != nil || has != c.served {
			t.Errorf("%v %v: %v, served %v", c.gates, c.config, err, f.served)
		}
	}
}
