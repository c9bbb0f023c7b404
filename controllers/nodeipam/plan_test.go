package nodeipam

import (
	"errors"
	"net/netip"
	"testing"
)

func TestFree(t *testing.T) {
	p := netip.MustParsePrefix
	ranges, err := Ranges([]netip.Prefix{p("10.42.0.0/22"), p("fd00:42::/56")}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var used4, used6 []netip.Prefix
	for _, want := range []struct{ v4, v6 string }{
		{"10.42.0.0/24", "fd00:42::/64"}, {"10.42.1.0/24", "fd00:42:0:1::/64"}, {"10.42.2.0/24", "fd00:42:0:2::/64"}, {"10.42.3.0/24", "fd00:42:0:3::/64"},
	} {
		got4, err4 := ranges[0].Free(used4)
		got6, err6 := ranges[1].Free(used6)
		if err4 != nil || err6 != nil || got4 != p(want.v4) || got6 != p(want.v6) {
			t.Fatalf("%v %v %v %v, want %v", got4, err4, got6, err6, want)
		}
		used4, used6 = append(used4, got4), append(used6, got6)
	}
	if _, err := ranges[0].Free(used4); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	// What was freed is given again; a part of another size is respected.
	if got, _ := ranges[0].Free(append(used4[:1:1], used4[2:]...)); got != p("10.42.1.0/24") {
		t.Errorf("%v", got)
	}
	if got, _ := ranges[0].Free([]netip.Prefix{p("10.42.0.0/23")}); got != p("10.42.2.0/24") {
		t.Errorf("%v", got)
	}
	if _, err := Ranges([]netip.Prefix{p("10.0.0.0/25")}, 24, 0); err == nil {
		t.Error("a /25 was cut into /24s")
	}
}
