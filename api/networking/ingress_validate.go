package networking

import (
	"fmt"
	"strconv"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	pathsegment "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	netutils "k8s.io/utils/net"

	"github.com/coxswain/cox/api/check"
)

func itoa(n int) string { return strconv.Itoa(n) }

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	errs := validateIngressSpec(&i.Spec, field.NewPath("spec"))
	class, annotated := i.Annotations[classAnnotation]
	if annotated && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		at := field.NewPath("annotations").Child(classAnnotation)
		errs = append(errs, field.Invalid(at, class, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngressUpdate(i, _ *networkingv1.Ingress) field.ErrorList {
	return validateIngressSpec(&i.Spec, field.NewPath("spec"))
}

func validateIngressSpec(s *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		errs = append(errs, validateIngressRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	for i := range s.TLS {
		at := path.Child("tls").Index(i)
		for k, h := range s.TLS[i].Hosts {
			errs = append(errs, validateHost(h, at.Child("hosts").Index(k))...)
		}
		if n := s.TLS[i].SecretName; n != "" {
			errs = append(errs, check.Subdomain(n, at.Child("secretName"))...)
		}
	}
	if n := s.IngressClassName; n != nil {
		errs = append(errs, check.Subdomain(*n, path.Child("ingressClassName"))...)
	}
	return errs
}

// validateHost checks a host name, which may begin with a wildcard label.
func validateHost(h string, path *field.Path) field.ErrorList {
	if strings.Contains(h, "*") {
		return check.Each(path, h, validation.IsWildcardDNS1123Subdomain(h))
	}
	return check.Subdomain(h, path)
}

func validateIngressRule(r *networkingv1.IngressRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		at := path.Child("host")
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at, r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(r.Host, at)...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := path.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validateHTTPPath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func validateHTTPPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	at := path.Child("path")
	absolute := strings.HasPrefix(p.Path, "/")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !absolute {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		if p.Path != "" {
			for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
				if strings.Contains(p.Path, s) {
					errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", s)))
				}
			}
			for _, s := range []string{"/..", "/."} {
				if strings.HasSuffix(p.Path, s) {
					errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", s)))
				}
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !absolute {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix,
		}))
	}
	return append(errs, validateBackend(&p.Backend, path.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource == nil && b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	case b.Resource != nil:
		at := path.Child("resource")
		var errs field.ErrorList
		if b.Resource.APIGroup != nil {
			errs = append(errs, check.Subdomain(*b.Resource.APIGroup, at.Child("apiGroup"))...)
		}
		for name, v := range map[string]string{"kind": b.Resource.Kind, "name": b.Resource.Name} {
			if v == "" {
				errs = append(errs, field.Required(at.Child(name), ""))
			} else {
				errs = append(errs, check.Each(at.Child(name), v, pathsegment.IsValidPathSegmentName(v))...)
			}
		}
		return errs
	}
	at := path.Child("service")
	var errs field.ErrorList
	if b.Service.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, check.Each(at.Child("name"), b.Service.Name, validation.IsDNS1123Label(b.Service.Name))...)
	}
	named, numbered := b.Service.Port.Name != "", b.Service.Port.Number != 0
	port := at.Child("port")
	switch {
	case named && numbered:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case named:
		errs = append(errs, check.Each(port.Child("name"), b.Service.Port.Name, validation.IsValidPortName(b.Service.Port.Name))...)
	case numbered:
		errs = append(errs, check.Each(port.Child("number"), b.Service.Port.Number, validation.IsValidPortNum(int(b.Service.Port.Number)))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	var stored []string
	for k := range old.Status.LoadBalancer.Ingress {
		stored = append(stored, old.Status.LoadBalancer.Ingress[k].IP)
	}
	for k := range i.Status.LoadBalancer.Ingress {
		lb, at := &i.Status.LoadBalancer.Ingress[k], field.NewPath("status", "loadBalancer", "ingress").Index(k)
		if lb.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), lb.IP, true, stored)...)
		}
		if lb.Hostname != "" {
			errs = append(errs, check.Subdomain(lb.Hostname, at.Child("hostname"))...)
			if netutils.ParseIPSloppy(lb.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), lb.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
