package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNoRoom(t *testing.T) {
	for _, c := range []struct {
		pods   int
		ranges string
		want   string
	}{
		{253, "10.42.0.0/24", ""},
		{254, "10.42.0.0/24", "takes 254 pods, but its pod range 10.42.0.0/24 has addresses for only 253:"},
		{110, "10.42.0.0/24 fd00:1::/64", ""},
		{110, "10.42.0.0/24 fd00:1::/122", "pod range fd00:1::/122 has addresses for only 62:"},
		{600, "10.42.0.0/22", ""},
	} {
		ranges, err := prefixes(strings.Fields(c.ranges))
		if err != nil {
			t.Fatal(err)
		}
		if got := noRoom(c.pods, ranges); got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%d pods of %s: %q, want %q", c.pods, c.ranges, got, c.want)
		}
	}
	if got := noRoom(10, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/31")}); got == "" {
		t.Error("a range without any address is enough for 10 pods")
	}
}
