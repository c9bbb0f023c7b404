package discovery

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

func endpointSliceKind() *api.Kind {
	gvk := discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
	return &api.Kind{
		Hub: gvk, HubListKind: "EndpointSliceList",
		Resource: "endpointslices", Singular: "endpointslice",
		Namespaced: true, Prefix: "endpointslices",
		New: api.New[discoveryv1.EndpointSlice](), NewList: api.New[discoveryv1.EndpointSliceList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(s *discoveryv1.EndpointSlice) {
				for i := range s.Ports {
					api.DefaultPtr(&s.Ports[i].Name, "")
					api.DefaultPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
				}
			}),
			PrepareCreate: func(o runtime.Object) {
				s := o.(*discoveryv1.EndpointSlice)
				s.Generation = 1
				dropTopology(s, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				s, old := o.(*discoveryv1.EndpointSlice), prev.(*discoveryv1.EndpointSlice)
				s.Generation = old.Generation
				// The whole slice is its spec: all but the metadata counts, and
				// the labels, which say whose it is.
				if !maps.Equal(s.Labels, old.Labels) || s.AddressType != old.AddressType || !check.Equal(s.Endpoints, old.Endpoints) || !check.Equal(s.Ports, old.Ports) {
					s.Generation++
				}
				dropTopology(s, old)
			},
			Validate:       api.Check(validateEndpointSlice),
			ValidateUpdate: api.Check2(validateEndpointSliceUpdate),
			Warnings: func(o, _ runtime.Object) []string {
				if o.(*discoveryv1.EndpointSlice).AddressType == discoveryv1.AddressTypeFQDN {
					return []string{"spec.addressType: FQDN endpoints are deprecated"}
				}
				return nil
			},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("AddressType", discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"]),
			printing.String("Ports", discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"]),
			printing.String("Endpoints", discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(s *discoveryv1.EndpointSlice) []any {
			return []any{s.Name, string(s.AddressType), portsCell(s.Ports), endpointsCell(s.Endpoints), printing.Age(s.CreationTimestamp)}
		}),
	}
}

// dropTopology empties a field that only the beta version could write. A node
// that stood there alone moves to the field of its own.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	nodes := map[string]bool{}
	if old != nil {
		if check.Equal(s.Endpoints, old.Endpoints) {
			return
		}
		for _, e := range old.Endpoints {
			nodes[e.DeprecatedTopology[corev1.LabelHostname]] = true
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if n, ok := e.DeprecatedTopology[corev1.LabelHostname]; ok && e.NodeName == nil && nodes[n] && len(validation.IsDNS1123Subdomain(n)) == 0 {
			e.NodeName = &n
		}
		e.DeprecatedTopology = nil
	}
}

// shown is how many ports or addresses a cell lists before it counts the rest.
const shown = 3

func portsCell(ports []discoveryv1.EndpointPort) string {
	var list []string
	for _, p := range ports {
		switch {
		case p.Port == nil && (p.Name == nil || *p.Name == ""):
		case p.Port == nil:
			list = append(list, *p.Name)
		default:
			list = append(list, strconv.Itoa(int(*p.Port)))
		}
	}
	return some(list)
}

func endpointsCell(endpoints []discoveryv1.Endpoint) string {
	var list []string
	for i := range endpoints {
		list = append(list, endpoints[i].Addresses...)
	}
	return some(list)
}

func some(list []string) string {
	switch {
	case len(list) == 0:
		return printing.Unset
	case len(list) > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ","), len(list)-shown)
	}
	return strings.Join(list, ",")
}
