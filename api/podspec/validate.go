package podspec

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// checker holds what the checks of one spec need to know about the others.
type checker struct {
	spec    *corev1.PodSpec
	meta    *metav1.ObjectMeta
	opts    Options
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

// Validate checks the spec of a pod or template whose metadata is meta (nil
// for none). path is that of the spec. The spec must have been defaulted.
func Validate(spec *corev1.PodSpec, meta *metav1.ObjectMeta, path *field.Path, opts Options) field.ErrorList {
	if meta == nil {
		meta = &metav1.ObjectMeta{}
	}
	c := &checker{spec: spec, meta: meta, opts: opts, volumes: map[string]*corev1.VolumeSource{}, claims: sets.New[string]()}
	var errs field.ErrorList
	errs = append(errs, c.validateVolumes(path.Child("volumes"))...)
	errs = append(errs, c.resourceClaims(path.Child("resourceClaims"))...)
	errs = append(errs, c.containers(path.Child("containers"))...)
	errs = append(errs, c.initContainers(path.Child("initContainers"))...)
	errs = append(errs, c.ephemeralContainers(path.Child("ephemeralContainers"))...)
	errs = append(errs, c.podResources(path.Child("resources"))...)
	errs = append(errs, c.restartPolicy(path.Child("restartPolicy"))...)
	errs = append(errs, check.OneOf(spec.DNSPolicy, path.Child("dnsPolicy"),
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, c.hostNamespaces(path)...)
	errs = append(errs, c.podSecurityContext(path.Child("securityContext"))...)
	errs = append(errs, c.affinity(path.Child("affinity"))...)
	errs = append(errs, c.dnsConfig(path.Child("dnsConfig"))...)
	errs = append(errs, c.gates(path)...)
	errs = append(errs, c.spread(path.Child("topologySpreadConstraints"))...)
	errs = append(errs, c.names(path)...)
	if s := spec.ActiveDeadlineSeconds; s != nil && (*s < 1 || *s > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *s, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	errs = append(errs, ValidateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, c.hostAliases(path.Child("hostAliases"))...)
	if p := spec.PreemptionPolicy; p != nil && *p == "" {
		errs = append(errs, field.Required(path.Child("preemptionPolicy"), ""))
	} else if p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if spec.Overhead != nil {
		errs = append(errs, ValidateResourceRequirements(&corev1.ResourceRequirements{Limits: spec.Overhead}, path.Child("overhead"))...)
	}
	errs = append(errs, c.hostProcess(path)...)
	return append(errs, c.operatingSystem(path)...)
}

// oneOf checks a required enumeration.
func oneOf[T ~string](v T, path *field.Path, valid ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return oneOfOrEmpty(v, path, valid...)
}

// oneOfOrEmpty checks an optional enumeration.
func oneOfOrEmpty[T ~string](v T, path *field.Path, valid ...T) field.ErrorList {
	if v == "" || slices.Contains(valid, v) {
		return nil
	}
	slices.Sort(valid)
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

// required checks that a string is there.
func required(v string, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func (c *checker) restartPolicy(path *field.Path) field.ErrorList {
	valid := c.opts.RestartPolicies
	if valid == nil {
		valid = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	}
	if c.spec.RestartPolicy == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if !slices.Contains(valid, c.spec.RestartPolicy) {
		return field.ErrorList{field.NotSupported(path, c.spec.RestartPolicy, valid)}
	}
	return nil
}

// names checks what names other objects, and the pod's own host name.
func (c *checker) names(path *field.Path) field.ErrorList {
	s := c.spec
	var errs field.ErrorList
	subdomain := func(v, name string) {
		if v != "" {
			errs = append(errs, invalid(path.Child(name), v, apivalidation.NameIsDNSSubdomain(v, false))...)
		}
	}
	label := func(v, name string) {
		if v != "" {
			errs = append(errs, invalid(path.Child(name), v, validation.IsDNS1123Label(v))...)
		}
	}
	subdomain(s.ServiceAccountName, "serviceAccountName")
	subdomain(s.NodeName, "nodeName")
	label(s.Hostname, "hostname")
	label(s.Subdomain, "subdomain")
	subdomain(s.PriorityClassName, "priorityClassName")
	if s.RuntimeClassName != nil {
		errs = append(errs, invalid(path.Child("runtimeClassName"), *s.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*s.RuntimeClassName, false))...)
	}
	if h := s.HostnameOverride; h != nil {
		p := path.Child("hostnameOverride")
		errs = append(errs, invalid(p, *h, validation.IsDNS1123Subdomain(*h))...)
		if len(*h) > 64 {
			errs = append(errs, field.TooLong(p, *h, 64))
		}
		if s.HostNetwork {
			errs = append(errs, field.Forbidden(p, "may not be specified when hostNetwork is true"))
		}
		if isTrue(s.SetHostnameAsFQDN) {
			errs = append(errs, field.Forbidden(p, "may not be specified when setHostnameAsFQDN is true"))
		}
	}
	return errs
}

func (c *checker) gates(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, g := range c.spec.ReadinessGates {
		errs = append(errs, invalid(path.Child("readinessGates").Index(i).Child("conditionType"), g.ConditionType, validation.IsQualifiedName(string(g.ConditionType)))...)
	}
	seen := sets.New[string]()
	for i, g := range c.spec.SchedulingGates {
		p := path.Child("schedulingGates").Index(i)
		errs = append(errs, invalid(p, g.Name, validation.IsQualifiedName(g.Name))...)
		if seen.Has(g.Name) {
			errs = append(errs, field.Duplicate(p, g.Name))
		}
		seen.Insert(g.Name)
	}
	if len(c.spec.SchedulingGates) > 0 && c.spec.NodeName != "" && !c.opts.Template && c.opts.Old == nil {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

// resourceClaims checks the pod's claims and learns their names.
func (c *checker) resourceClaims(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range c.spec.ResourceClaims {
		p := path.Index(i)
		switch {
		case r.Name == "":
			errs = append(errs, field.Required(p.Child("name"), ""))
		case c.claims.Has(r.Name):
			errs = append(errs, field.Duplicate(p.Child("name"), r.Name))
		default:
			errs = append(errs, invalid(p.Child("name"), r.Name, validation.IsDNS1123Label(r.Name))...)
			c.claims.Insert(r.Name)
		}
		switch {
		case r.ResourceClaimName != nil && r.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(p, r, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case r.ResourceClaimName == nil && r.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(p, check.Shown(r), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := r.ResourceClaimName; n != nil {
			errs = append(errs, invalid(p.Child("resourceClaimName"), *n, validation.IsDNS1123Subdomain(*n))...)
		}
		if n := r.ResourceClaimTemplateName; n != nil {
			errs = append(errs, invalid(p.Child("resourceClaimTemplateName"), *n, validation.IsDNS1123Subdomain(*n))...)
		}
	}
	return errs
}

// hostNamespaces checks what sharing the host's namespaces, or not sharing
// its users, rules out.
func (c *checker) hostNamespaces(path *field.Path) field.ErrorList {
	s := c.spec
	var errs field.ErrorList
	if s.HostNetwork {
		for _, list := range []struct {
			name       string
			containers []corev1.Container
		}{{"containers", s.Containers}, {"initContainers", s.InitContainers}} {
			for i, ctr := range list.containers {
				for j, port := range ctr.Ports {
					if port.HostPort != port.ContainerPort && (port.HostPort != 0 || !c.opts.Template) {
						errs = append(errs, field.Invalid(path.Child(list.name).Index(i).Child("ports").Index(j).Child("hostPort"),
							port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
					}
				}
			}
		}
	}
	if isTrue(s.ShareProcessNamespace) && s.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if s.HostUsers != nil && !*s.HostUsers {
		const text = "when `hostUsers` is false"
		for _, f := range []struct {
			set  bool
			name string
		}{{s.HostNetwork, "hostNetwork"}, {s.HostPID, "HostPID"}, {s.HostIPC, "HostIPC"}} {
			if f.set {
				errs = append(errs, field.Forbidden(path.Child(f.name), text))
			}
		}
		for i, ctr := range s.Containers {
			if len(ctr.VolumeDevices) > 0 {
				errs = append(errs, field.Forbidden(path.Child("containers").Index(i).Child("volumeDevices"), text))
			}
		}
	}
	return errs
}

func (c *checker) hostAliases(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, a := range c.spec.HostAliases {
		p := path.Index(i)
		var stored []string
		if c.opts.Old != nil {
			for _, o := range c.opts.Old.HostAliases {
				stored = append(stored, o.IP)
			}
		}
		errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), a.IP, true, stored)...)
		for j, name := range a.Hostnames {
			errs = append(errs, invalid(p.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	return errs
}

// The limits of a resolver's configuration, as in the API page on DNS.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

func (c *checker) dnsConfig(path *field.Path) field.ErrorList {
	d := c.spec.DNSConfig
	var errs field.ErrorList
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(d.Nameservers) == 0 {
			return field.ErrorList{field.Required(path.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if d == nil {
		return nil
	}
	if len(d.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	var stored []string
	if c.opts.Old != nil && c.opts.Old.DNSConfig != nil {
		stored = c.opts.Old.DNSConfig.Nameservers
	}
	for i, ns := range d.Nameservers {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("nameservers").Index(i), ns, true, stored)...)
	}
	searches := path.Child("searches")
	if len(d.Searches) > maxSearches {
		errs = append(errs, field.Invalid(searches, d.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	length := len(d.Searches) - 1
	for i, s := range d.Searches {
		length += len(s)
		name := s
		if n := len(name); n > 0 && name[n-1] == '.' {
			name = name[:n-1]
		}
		if name == "" && s == "." {
			continue
		}
		errs = append(errs, invalid(searches.Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(name))...)
	}
	if length > maxSearchLength {
		errs = append(errs, field.Invalid(searches, d.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchLength)))
	}
	for i, o := range d.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}
