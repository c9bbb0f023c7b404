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
	cfg := &Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, RootCA: []byte{}, Mint: func(string, string, string, string) (string, error) { return "", nil }, Discovery: func(context.Context) ([]controllers.Resource, error) { return nil, nil }}
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
