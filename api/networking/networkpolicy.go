package networking

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	netutils "k8s.io/utils/net"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

func networkPolicyKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy")
	return &api.Kind{
		Hub: gvk, HubListKind: "NetworkPolicyList",
		Resource: "networkpolicies", Singular: "networkpolicy",
		ShortNames: []string{"netpol"},
		Namespaced: true, Prefix: "networkpolicies",
		New: api.New[networkingv1.NetworkPolicy](), NewList: api.New[networkingv1.NetworkPolicyList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default:       api.On(defaultNetworkPolicy),
			PrepareCreate: func(o runtime.Object) { o.(*networkingv1.NetworkPolicy).Generation = 1 },
			PrepareUpdate: func(o, prev runtime.Object) {
				p, old := o.(*networkingv1.NetworkPolicy), prev.(*networkingv1.NetworkPolicy)
				api.CountGeneration(p, old, p.Spec, old.Spec)
			},
			Validate:       api.Check(func(p *networkingv1.NetworkPolicy) field.ErrorList { return validateNetworkPolicy(p, nil) }),
			ValidateUpdate: api.Check2(validateNetworkPolicyUpdate),
			Warnings: func(o, _ runtime.Object) []string {
				var out []string
				eachCIDR(&o.(*networkingv1.NetworkPolicy).Spec, func(cidr string, path *field.Path) {
					out = append(out, validation.GetWarningsForCIDR(path, cidr)...)
				})
				return out
			},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, printing.Selector(&p.Spec.PodSelector), printing.Age(p.CreationTimestamp)}
		}),
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			api.DefaultPtr(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		// A policy always isolates for ingress, for egress only if it says so.
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) != 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func validateNetworkPolicyUpdate(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	return validateNetworkPolicy(p, &old.Spec)
}

func hasInvalidSelectorValue(s *networkingv1.NetworkPolicySpec) bool {
	peers := func(list []networkingv1.NetworkPolicyPeer) bool {
		for i := range list {
			if check.InvalidSelectorValue(list[i].PodSelector) || check.InvalidSelectorValue(list[i].NamespaceSelector) {
				return true
			}
		}
		return false
	}
	for i := range s.Ingress {
		if peers(s.Ingress[i].From) {
			return true
		}
	}
	for i := range s.Egress {
		if peers(s.Egress[i].To) {
			return true
		}
	}
	return check.InvalidSelectorValue(&s.PodSelector)
}

// validateNetworkPolicy checks the spec. What old, nil for a new object, has
// already may be less strict: selector values that are no label values, and
// ranges written in ways that are refused today (KEP-4858).
func validateNetworkPolicy(p *networkingv1.NetworkPolicy, old *networkingv1.NetworkPolicySpec) field.ErrorList {
	var lax bool
	var stored []string
	if old != nil {
		lax = hasInvalidSelectorValue(old)
		eachCIDR(old, func(cidr string, _ *field.Path) { stored = append(stored, cidr) })
	}
	s, path := &p.Spec, field.NewPath("spec")
	errs := check.StoredSelector(&s.PodSelector, lax, path.Child("podSelector"))
	rule := func(at *field.Path, ports []networkingv1.NetworkPolicyPort, peersName string, peers []networkingv1.NetworkPolicyPeer) {
		for i := range ports {
			errs = append(errs, validatePolicyPort(&ports[i], at.Child("ports").Index(i))...)
		}
		for i := range peers {
			errs = append(errs, validatePeer(&peers[i], lax, stored, at.Child(peersName).Index(i))...)
		}
	}
	for i := range s.Ingress {
		rule(path.Child("ingress").Index(i), s.Ingress[i].Ports, "from", s.Ingress[i].From)
	}
	for i := range s.Egress {
		rule(path.Child("egress").Index(i), s.Egress[i].Ports, "to", s.Egress[i].To)
	}
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(path.Child("policyTypes"), &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, check.OneOf(t, path.Child("policyTypes").Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, check.OneOf(*p.Protocol, path.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	end := path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, check.Each(path.Child("port"), p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))...)
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			errs = append(errs, check.Each(end, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))...)
		}
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, check.Each(path.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func validatePeer(p *networkingv1.NetworkPolicyPeer, lax bool, stored []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	selectors := 0
	if p.PodSelector != nil {
		selectors++
		errs = append(errs, check.StoredSelector(p.PodSelector, lax, path.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		selectors++
		errs = append(errs, check.StoredSelector(p.NamespaceSelector, lax, path.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, validateIPBlock(p.IPBlock, stored, path.Child("ipBlock"))...)
	}
	switch {
	case p.IPBlock == nil && selectors == 0:
		errs = append(errs, field.Required(path, "must specify a peer"))
	case p.IPBlock != nil && selectors > 0:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
	return errs
}

// validateIPBlock checks that the exceptions lie within the block.
func validateIPBlock(b *networkingv1.IPBlock, stored []string, path *field.Path) field.ErrorList {
	cidr := path.Child("cidr")
	if b.CIDR == "" {
		return field.ErrorList{field.Required(cidr, "")}
	}
	errs := validation.IsValidCIDRForLegacyField(cidr, b.CIDR, true, stored)
	if _, _, err := netutils.ParseCIDRSloppy(b.CIDR); err != nil {
		return errs
	}
	block, err := netip.ParsePrefix(b.CIDR)
	for i, e := range b.Except {
		at := path.Child("except").Index(i)
		if bad := validation.IsValidCIDRForLegacyField(at, e, true, stored); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		except, err2 := netip.ParsePrefix(e)
		if err == nil && err2 == nil && (!block.Masked().Contains(except.Addr()) || except.Bits() <= block.Bits()) {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func eachCIDR(s *networkingv1.NetworkPolicySpec, f func(cidr string, path *field.Path)) {
	peers := func(list []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i := range list {
			if b, at := list[i].IPBlock, path.Index(i).Child("ipBlock"); b != nil {
				f(b.CIDR, at.Child("cidr"))
				for k, e := range b.Except {
					f(e, at.Child("except").Index(k))
				}
			}
		}
	}
	for i := range s.Ingress {
		peers(s.Ingress[i].From, field.NewPath("spec", "ingress").Index(i).Child("from"))
	}
	for i := range s.Egress {
		peers(s.Egress[i].To, field.NewPath("spec", "egress").Index(i).Child("to"))
	}
}
