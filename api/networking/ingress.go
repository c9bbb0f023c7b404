package networking

import (
	"fmt"
	"sort"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// classAnnotation named the class before there was a field for it.
const classAnnotation = "kubernetes.io/ingress.class"

var ingressParts = api.SpecStatus(func(o *networkingv1.Ingress) (*networkingv1.IngressSpec, *networkingv1.IngressStatus) {
	return &o.Spec, &o.Status
})

func ingressKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("Ingress")
	return &api.Kind{
		Hub: gvk, HubListKind: "IngressList",
		Resource: "ingresses", Singular: "ingress",
		ShortNames: []string{"ing"},
		Namespaced: true, Prefix: "ingress",
		New: api.New[networkingv1.Ingress](), NewList: api.New[networkingv1.IngressList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: ingressParts.PrepareCreate, PrepareUpdate: ingressParts.PrepareUpdate,
			Validate:       api.Check(validateIngress),
			ValidateUpdate: api.Check2(func(i, old *networkingv1.Ingress) field.ErrorList { return validateIngressUpdate(i, old) }),
			Warnings: func(o, prev runtime.Object) []string {
				if _, ok := o.(*networkingv1.Ingress).Annotations[classAnnotation]; ok && prev == nil {
					return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
				}
				return nil
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate:  ingressParts.PrepareStatus,
				ValidateUpdate: api.Check2(func(i, old *networkingv1.Ingress) field.ErrorList { return validateIngressStatus(i, old) }),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Class", "The name of the IngressClass resource that should be used for additional configuration"),
			printing.String("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
			printing.String("Address", "Address is a list containing ingress points for the load-balancer"),
			printing.String("Ports", "Ports of TLS configurations that open"),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(i *networkingv1.Ingress) []any {
			class := printing.None
			if n := i.Spec.IngressClassName; n != nil {
				class = *n
			}
			ports := "80"
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{i.Name, class, hostsCell(i.Spec.Rules), addressCell(&i.Status.LoadBalancer), ports, printing.Age(i.CreationTimestamp)}
		}),
	}
}

// hostsCell lists up to three hosts.
func hostsCell(rules []networkingv1.IngressRule) string {
	const shown = 3
	var hosts []string
	for _, r := range rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case len(hosts) > shown:
		return strings.Join(hosts[:shown], ",") + " + " + itoa(len(hosts)-shown) + " more..."
	}
	return strings.Join(hosts, ",")
}

// addressCell lists where the ingress is reached, each address once.
func addressCell(lb *networkingv1.IngressLoadBalancerStatus) string {
	set := map[string]bool{}
	for _, i := range lb.Ingress {
		if i.IP != "" {
			set[i.IP] = true
		} else if i.Hostname != "" {
			set[i.Hostname] = true
		}
	}
	var list []string
	for a := range set {
		list = append(list, a)
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}
