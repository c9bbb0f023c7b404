package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestElectionFlags(t *testing.T) {
	for args, ok := range map[string]bool{
		"": true,
		"--leader-elect-lease-duration=4s --leader-elect-renew-deadline=3s --leader-elect-retry-period=500ms": true,
		"--leader-elect-lease-duration=30s": false,
		"--leader-elect-retry-period=0":     false,
		"--leader-elect-retry-period=30s":   false,
		"--leader-elect-lease-duration=900ms --leader-elect-renew-deadline=500ms --leader-elect-retry-period=100ms": false,
	} {
		var e electionConfig
		fs := pflag.NewFlagSet("t", pflag.ContinueOnError)
		e.flags(fs)
		if err := fs.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		if err := e.complete(); (err == nil) != ok {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestCandidate(t *testing.T) {
	c := &config{NodeName: "n", AdvertiseAddress: "10.0.0.1", Port: 6443}
	again, other := *c, *c
	other.AdvertiseAddress = "10.0.0.2"
	if name := c.candidate(); name != again.candidate() || name == other.candidate() || !strings.HasPrefix(name, "n_") {
		t.Errorf("%s, then %s; another server is %s", name, again.candidate(), other.candidate())
	}
}
