package cni

import (
	"net/netip"
	"testing"
)

// FuzzConf: a configuration is refused or gives addresses of its ranges.
func FuzzConf(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"cox","type":"cox-cni","stateDir":"/run/x","podCIDRs":["10.0.0.0/24","fd00::/64"],"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"0.0.0.0"}],"bandwidth":{"ingressRate":1000,"ingressBurst":-1}}}`))
	f.Add([]byte(`{"name":"cox","stateDir":"/","podCIDRs":["::ffff:10.0.0.0/104"]}`))
	f.Add([]byte(`{"name":"x","stateDir":"/","podCIDRs":["0.0.0.0/0"],"runtimeConfig":null}`))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := parse(stdin)
		if err != nil {
			return
		}
		for _, p := range c.PodCIDRs {
			if g := Gateway(p); g != (netip.Addr{}) && !p.Masked().Contains(g) {
				t.Errorf("the gateway %v of %v", g, p)
			}
		}
	})
}
