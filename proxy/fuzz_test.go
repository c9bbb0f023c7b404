package proxy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/coxswain/cox/datapath/lb"
	"github.com/coxswain/cox/internal/warp"
)

// FuzzPlan makes plans of Services and slices that nobody has validated: a plan
// is the same each time, of addresses of its family, under names that the table
// can hold, and sends nobody to an address without a port.
func FuzzPlan(f *testing.F) {
	parse := func(text string) (v any) {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			f.Fatal(err)
		}
		return v
	}
	services := []any{
		parse(`{"metadata":{"namespace":"default","name":"web"},"spec":{"type":"LoadBalancer","clusterIP":"10.43.0.10","clusterIPs":["10.43.0.10","fd00::10"],"externalIPs":["192.0.2.9"],"loadBalancerSourceRanges":["10.0.0.0/8"],"externalTrafficPolicy":"Local","healthCheckNodePort":30100,"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},"ports":[{"name":"http","port":80,"nodePort":30000,"protocol":"TCP"},{"name":"dns","port":53,"protocol":"UDP"}]},"status":{"loadBalancer":{"ingress":[{"ip":"198.51.100.1","ipMode":"VIP"}]}}}`),
		parse(`{"metadata":{"namespace":"default","name":"db"},"spec":{"clusterIP":"None","ports":[{"port":1}]}}`),
	}
	slice := parse(`{"addressType":"IPv4","ports":[{"name":"http","port":8080,"protocol":"TCP"},{"name":"dns","port":53,"protocol":"UDP"}],"endpoints":[{"addresses":["10.42.0.5"],"nodeName":"n","conditions":{"ready":true,"serving":true},"hints":{"forZones":[{"name":"z"}],"forNodes":[{"name":"n"}]}},{"addresses":["10.42.1.5"],"conditions":{"ready":false,"serving":true,"terminating":true}}]}`)
	for i := range services {
		f.Add(uint8(i), []byte{}, []byte{})
		f.Add(uint8(i), []byte{1, 2, 1, 5, 1}, []byte{2, 1, 4, 1, 1})
	}
	f.Add(uint8(0), []byte{}, []byte("\x12\x77\x6f\xd9\x91\xbb\x50")) // a port of 0
	f.Add(uint8(0x91), []byte("1110001"), []byte("0"))                // a zone
	f.Fuzz(func(t *testing.T, which uint8, how, other []byte) {
		svc, list := &corev1.Service{}, []*discoveryv1.EndpointSlice{{}, {}}
		into := func(v any, how []byte, to any) bool {
			text, err := json.Marshal(warp.Value(v, how))
			return err == nil && json.Unmarshal(text, to) == nil
		}
		if !into(services[int(which)%len(services)], how, svc) || !into(slice, other, list[0]) || !into(slice, nil, list[1]) {
			return
		}
		p := MakePlan(svc, list, "n")
		if again := MakePlan(svc, list, "n"); !reflect.DeepEqual(p, again) {
			t.Errorf("%+v, and then %+v", p, again)
		}
		for v6, rules := range map[bool][]lb.Rule{false: p.V4, true: p.V6} {
			for _, r := range rules {
				checkRule(t, &r, v6)
			}
		}
	})
}

func checkRule(t *testing.T, r *lb.Rule, v6 bool) {
	good := func(a netip.Addr) {
		if !a.IsValid() || a.Is6() != v6 || a.Is4In6() || a.Zone() != "" {
			t.Errorf("the address %s in %+v", a, r)
		}
	}
	for _, f := range r.Frontends {
		if f.Addr.IsValid() {
			good(f.Addr)
		}
	}
	for _, list := range [][]netip.AddrPort{r.Internal, r.External} {
		for _, b := range list {
			good(b.Addr())
			if b.Port() == 0 {
				t.Errorf("the backend %s in %+v", b, r)
			}
		}
	}
	if r.ID == "" || len(r.ID) > 64 || r.Affinity < 0 {
		t.Errorf("%+v", r)
	}
	for _, c := range r.ID {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			t.Errorf("the ID %q", r.ID)
		}
	}
}
