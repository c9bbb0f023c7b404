package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateService(s *corev1.Service) field.ErrorList {
	return validateServiceWith(s, &corev1.Service{})
}

// validateServiceWith checks a Service; addresses and ranges that old has
// already may be written in ways that are refused today (KEP-4858).
func validateServiceWith(s, old *corev1.Service) field.ErrorList {
	spec := &s.Spec
	var errs field.ErrorList
	if len(spec.Ports) == 0 && !isHeadless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(specPath.Child("ports"), ""))
	}
	errs = append(errs, validateServiceType(s)...)
	errs = append(errs, validateServicePorts(s)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.Selector, specPath.Child("selector"))...)
	errs = append(errs, validateAffinity(spec)...)
	errs = append(errs, validateServiceAddresses(s, old)...)
	errs = append(errs, validateLoadBalancer(s, old)...)
	errs = append(errs, validateTrafficPolicies(s)...)
	return errs
}

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone || s.Spec.ClusterIP == corev1.ClusterIPNone
}

// oneOf checks a required enumeration.
func oneOf[T ~string](v T, path *field.Path, valid ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return supported(v, path, valid...)
}

// supported checks an enumeration whose valid values are given sorted.
func supported[T ~string](v T, path *field.Path, valid ...T) field.ErrorList {
	if slices.Contains(valid, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, v, valid)}
}

// invalid makes an error of each message.
func invalid(path *field.Path, value any, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range msgs {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func validateServiceType(s *corev1.Service) field.ErrorList {
	spec := &s.Spec
	errs := oneOf(spec.Type, specPath.Child("type"),
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range spec.Ports {
			// The kubelet's port must not be reachable through a load balancer.
			if p.Port == 10250 {
				errs = append(errs, field.Invalid(specPath.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", p.Port)))
			}
		}
		if isHeadless(s) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if isHeadless(s) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		const text = "may not be set for ExternalName services"
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(specPath.Child("clusterIPs"), text))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(specPath.Child("ipFamilies"), text))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(specPath.Child("ipFamilyPolicy"), text))
		}
		// A trailing dot makes a name absolute and is fine.
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			errs = append(errs, invalid(specPath.Child("externalName"), name, validation.IsDNS1123Subdomain(name))...)
		} else {
			errs = append(errs, field.Required(specPath.Child("externalName"), ""))
		}
	}
	return errs
}

func validateServicePorts(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	ports, nodePorts := sets.New[key](), sets.New[key]()
	for i := range s.Spec.Ports {
		p, path := &s.Spec.Ports[i], specPath.Child("ports").Index(i)
		errs = append(errs, validateServicePort(p, len(s.Spec.Ports) > 1, names, path)...)
		if s.Spec.Type == corev1.ServiceTypeClusterIP && p.NodePort != 0 {
			errs = append(errs, field.Forbidden(path.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if k := (key{p.Protocol, p.NodePort}); p.NodePort != 0 {
			if nodePorts.Has(k) {
				errs = append(errs, field.Duplicate(path.Child("nodePort"), p.NodePort))
			}
			nodePorts.Insert(k)
		}
		k := key{p.Protocol, p.Port}
		if ports.Has(k) {
			errs = append(errs, field.Duplicate(path, check.Shown(corev1.ServicePort{Protocol: p.Protocol, Port: p.Port})))
		}
		ports.Insert(k)
	}
	return errs
}

func validateServicePort(p *corev1.ServicePort, named bool, names sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case p.Name == "" && named:
		errs = append(errs, field.Required(path.Child("name"), ""))
	case p.Name != "":
		errs = append(errs, invalid(path.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
		if names.Has(p.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		}
		names.Insert(p.Name)
	}
	errs = append(errs, invalid(path.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
	errs = append(errs, oneOf(p.Protocol, path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	if p.TargetPort.Type == intstr.Int {
		errs = append(errs, invalid(path.Child("targetPort"), p.TargetPort.IntValue(), validation.IsValidPortNum(p.TargetPort.IntValue()))...)
	} else {
		errs = append(errs, invalid(path.Child("targetPort"), p.TargetPort.StrVal, validation.IsValidPortName(p.TargetPort.StrVal))...)
	}
	if p.AppProtocol != nil {
		errs = append(errs, invalid(path.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec) field.ErrorList {
	errs := oneOf(spec.SessionAffinity, specPath.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	path, cfg := specPath.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		switch {
		case cfg == nil:
			errs = append(errs, field.Required(path, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
		case cfg.ClientIP == nil:
			errs = append(errs, field.Required(path.Child("clientIP"), fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
		case cfg.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(path.Child("clientIP", "timeoutSeconds"), fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
		case *cfg.ClientIP.TimeoutSeconds <= 0 || *cfg.ClientIP.TimeoutSeconds > 86400:
			errs = append(errs, field.Invalid(path.Child("clientIP", "timeoutSeconds"), *cfg.ClientIP.TimeoutSeconds, "must be greater than 0 and less than 86400"))
		}
	case corev1.ServiceAffinityNone:
		if cfg != nil {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	}
	return errs
}

func validateServiceAddresses(s, old *corev1.Service) field.ErrorList {
	spec := &s.Spec
	var errs field.ErrorList
	if spec.Type != corev1.ServiceTypeExternalName { // which has none, validateServiceType says
		errs = ValidateClusterIPs(spec, &old.Spec)
	}
	ips := specPath.Child("externalIPs")
	for i, ip := range spec.ExternalIPs {
		if e := validation.IsValidIPForLegacyField(ips.Index(i), ip, true, old.Spec.ExternalIPs); len(e) > 0 {
			errs = append(errs, e...)
		} else {
			errs = append(errs, nonSpecialIP(ip, ips.Index(i))...)
		}
	}
	return errs
}

// ValidateClusterIPs checks clusterIPs, ipFamilies and ipFamilyPolicy, which
// have to be sound before addresses are allocated. old may be empty.
func ValidateClusterIPs(spec, old *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	path := specPath.Child("clusterIPs")
	if len(spec.ClusterIPs) > 0 && spec.ClusterIP == "" {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	} else if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	families := specPath.Child("ipFamilies")
	seen := sets.New[corev1.IPFamily]()
	for i, f := range spec.IPFamilies {
		errs = append(errs, supported(f, families.Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(f) {
			errs = append(errs, field.Duplicate(families.Index(i), f))
		}
		seen.Insert(f)
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, supported(*p, specPath.Child("ipFamilyPolicy"),
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	bad := false
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				errs = append(errs, field.Invalid(path, spec.ClusterIPs, "'None' must be the first and only value"))
				bad = true
			}
			continue
		}
		if e := validation.IsValidIPForLegacyField(path.Index(i), ip, true, old.ClusterIPs); len(e) > 0 {
			errs, bad = append(errs, e...), true
			continue
		}
		known := i < len(spec.IPFamilies) && (spec.IPFamilies[i] == corev1.IPv4Protocol || spec.IPFamilies[i] == corev1.IPv6Protocol)
		if known && familyOf(ip) != spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(path.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", spec.IPFamilies[i], i)))
			bad = true
		}
	}
	if !bad && len(spec.ClusterIPs) == 2 && familyOf(spec.ClusterIPs[0]) == familyOf(spec.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func familyOf(ip string) corev1.IPFamily {
	if strings.Contains(ip, ":") {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func validateLoadBalancer(s, old *corev1.Service) field.ErrorList {
	spec := &s.Spec
	lb := spec.Type == corev1.ServiceTypeLoadBalancer
	const only = "may only be used when `type` is 'LoadBalancer'"
	var errs field.ErrorList
	// The ranges also come in the annotation that preceded the field.
	ranges, path := spec.LoadBalancerSourceRanges, specPath.Child("LoadBalancerSourceRanges") // so upstream spells it
	if len(ranges) == 0 {
		if a, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; ok {
			path = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
			if strings.TrimSpace(a) != "" {
				ranges = strings.Split(strings.TrimSpace(a), ",")
			}
			if !lb {
				errs = append(errs, field.Forbidden(path, only))
			}
		}
	} else if !lb {
		errs = append(errs, field.Forbidden(path, only))
	}
	for i, cidr := range ranges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), strings.TrimSpace(cidr), true, old.Spec.LoadBalancerSourceRanges)...)
	}
	if lb && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(specPath.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if !lb && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(specPath.Child("allocateLoadBalancerNodePorts"), only))
	}
	return append(errs, validateLoadBalancerClass(spec)...)
}

func validateLoadBalancerClass(spec *corev1.ServiceSpec) field.ErrorList {
	path, c := specPath.Child("loadBalancerClass"), spec.LoadBalancerClass
	switch {
	case c == nil:
		return nil
	case spec.Type != corev1.ServiceTypeLoadBalancer:
		return field.ErrorList{field.Forbidden(path, "may only be used when `type` is 'LoadBalancer'")}
	}
	return invalid(path, *c, validation.IsQualifiedName(*c))
}

// external says that a Service is reachable from outside the cluster.
func external(s *corev1.Service) bool {
	t := s.Spec.Type
	return t == corev1.ServiceTypeLoadBalancer || t == corev1.ServiceTypeNodePort || t == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func healthChecked(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func validateTrafficPolicies(s *corev1.Service) field.ErrorList {
	spec := &s.Spec
	var errs field.ErrorList
	path := specPath.Child("externalTrafficPolicy")
	if external(s) {
		errs = append(errs, oneOf(spec.ExternalTrafficPolicy, path, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(path, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	path = specPath.Child("healthCheckNodePort")
	switch p := spec.HealthCheckNodePort; {
	case p == 0:
	case !healthChecked(s):
		errs = append(errs, field.Invalid(path, p, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	default:
		errs = append(errs, invalid(path, p, validation.IsValidPortNum(int(p)))...)
	}
	path = specPath.Child("internalTrafficPolicy")
	switch p := spec.InternalTrafficPolicy; {
	case p != nil:
		errs = append(errs, supported(*p, path, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	case spec.Type != corev1.ServiceTypeExternalName:
		errs = append(errs, field.Required(path, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		// Upstream lists them in this order.
		errs = append(errs, supported(*d, specPath.Child("trafficDistribution"),
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

// validateServiceUpdate also keeps the addresses that were allocated.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	const once = "may not change once set"
	if s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName {
		for i, ip := range old.Spec.ClusterIPs {
			path := specPath.Child("clusterIPs").Index(i)
			switch {
			case i >= len(s.Spec.ClusterIPs) && i == 0:
				errs = append(errs, field.Invalid(path, s.Spec.ClusterIPs, "primary clusterIP can not be unset"))
			case i < len(s.Spec.ClusterIPs) && s.Spec.ClusterIPs[i] != ip:
				errs = append(errs, field.Invalid(path, s.Spec.ClusterIPs, once))
			}
		}
		for i, f := range old.Spec.IPFamilies {
			path := specPath.Child("ipFamilies").Index(i)
			switch {
			case i >= len(s.Spec.IPFamilies) && i == 0:
				errs = append(errs, field.Invalid(path, s.Spec.IPFamilies, "primary ipFamily can not be unset"))
			case i < len(s.Spec.IPFamilies) && s.Spec.IPFamilies[i] != f:
				errs = append(errs, field.Invalid(path, s.Spec.IPFamilies, once))
			}
		}
	}
	if a, b := s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass; s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		old.Spec.Type == corev1.ServiceTypeLoadBalancer && !equal(a, b) {
		errs = append(errs, field.Invalid(specPath.Child("loadBalancerClass"), a, once))
	}
	if healthChecked(s) && healthChecked(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	errs = append(errs, validateLoadBalancerClass(&s.Spec)...) // upstream asks twice
	return append(errs, validateServiceWith(s, old)...)
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := statusPath.Child("loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 && !equal(s.Status.LoadBalancer, old.Status.LoadBalancer) {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var stored []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		stored = append(stored, in.IP)
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		p := path.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), in.IP, true, stored)...)
			if in.IPMode == nil {
				errs = append(errs, field.Required(p.Child("ipMode"), "must be specified when `ip` is set"))
			}
		} else if in.IPMode != nil {
			errs = append(errs, field.Forbidden(p.Child("ipMode"), "may not be specified when `ip` is not set"))
		}
		if in.IPMode != nil {
			errs = append(errs, supported(*in.IPMode, p.Child("ipMode"), corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, invalid(p.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
			if len(validation.IsValidIPForLegacyField(p, in.Hostname, false, nil)) == 0 {
				errs = append(errs, field.Invalid(p.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs // conditions are anyone's: upstream checks none of them
}

// dropTypeDependent clears what the new type has no use for, where the client
// only failed to clear it. The addresses and ports are the allocator's.
func dropTypeDependent(s, old *corev1.Service) {
	n, o := &s.Spec, &old.Spec
	if n.Type != corev1.ServiceTypeLoadBalancer && o.Type == corev1.ServiceTypeLoadBalancer {
		if equal(n.AllocateLoadBalancerNodePorts, o.AllocateLoadBalancerNodePorts) {
			n.AllocateLoadBalancerNodePorts = nil
		}
		if equal(n.LoadBalancerClass, o.LoadBalancerClass) {
			n.LoadBalancerClass = nil
		}
	}
	if !external(s) && external(old) && n.ExternalTrafficPolicy == o.ExternalTrafficPolicy {
		n.ExternalTrafficPolicy = ""
	}
	if n.Type == corev1.ServiceTypeExternalName && o.Type != corev1.ServiceTypeExternalName && equal(n.InternalTrafficPolicy, o.InternalTrafficPolicy) {
		n.InternalTrafficPolicy = nil
	}
}

func serviceWarnings(s, old *corev1.Service) []string {
	var out []string
	if isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		if s.Spec.LoadBalancerIP != "" {
			out = append(out, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			out = append(out, "spec.externalIPs is ignored for headless services")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			out = append(out, "spec.SessionAffinity is ignored for headless services")
		}
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		if len(s.Spec.ExternalIPs) > 0 {
			out = append(out, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
		}
	case len(s.Spec.ExternalIPs) > 0 && !isHeadless(s):
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		out = append(out, `spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	const hints = corev1.DeprecatedAnnotationTopologyAwareHints
	if _, has := s.Annotations[hints]; has && (old == nil || old.Annotations[hints] == "") {
		out = append(out, fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.27+; use %s instead", hints, corev1.AnnotationTopologyMode))
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, validation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip)...)
	}
	if s.Spec.LoadBalancerIP != "" {
		out = append(out, validation.GetWarningsForIP(specPath.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("%s: %q is deprecated; use %q instead", specPath.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}
