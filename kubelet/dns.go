package kubelet

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of what a resolver reads (API documentation of PodDNSConfig).
const (
	maxNameservers     = 3
	maxSearchDomains   = 32
	maxSearchListChars = 2048
)

// resolver is a resolv.conf.
type resolver struct{ Servers, Searches, Options []string }

// readResolver reads a resolv.conf; an empty path is an empty resolver.
func readResolver(path string) (resolver, error) {
	var r resolver
	if path == "" {
		return r, nil
	}
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read the host's resolver: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) < 1 || w[0][0] == '#' || w[0][0] == ';' {
			continue
		}
		switch w[0] {
		case "nameserver":
			if len(w) > 1 {
				r.Servers = append(r.Servers, w[1])
			}
		case "search", "domain":
			r.Searches = nil
			for _, d := range w[1:] {
				if d != "." {
					d = strings.TrimSuffix(d, ".")
				}
				r.Searches = append(r.Searches, d)
			}
		case "options":
			r.Options = append([]string(nil), w[1:]...)
		}
	}
	return r, sc.Err()
}

// podDNS computes a pod's resolver (API documentation of DNSPolicy). A
// non-empty warning says what did not fit.
func podDNS(pod *corev1.Pod, clusterDNS []string, domain string, host resolver) (dns *runtimeapi.DNSConfig, warning string) {
	var r resolver
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault || len(clusterDNS) == 0:
		r = resolver{slices.Clone(host.Servers), slices.Clone(host.Searches), slices.Clone(host.Options)}
		if len(r.Servers) == 0 {
			r.Servers = []string{"127.0.0.1"}
		}
		if len(clusterDNS) == 0 && policy != corev1.DNSDefault {
			warning = fmt.Sprintf("pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
				podTitle(pod), pod.Spec.DNSPolicy, corev1.DNSDefault)
		}
	default:
		r.Servers = slices.Clone(clusterDNS)
		if domain != "" {
			r.Searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		}
		r.Searches = append(r.Searches, host.Searches...)
		r.Options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Servers = append(r.Servers, c.Nameservers...)
		r.Searches = append(r.Searches, c.Searches...)
		r.Options = mergeOptions(r.Options, c.Options)
	}
	r.Servers, r.Searches = unique(r.Servers), unique(r.Searches)
	if len(r.Servers) > maxNameservers {
		r.Servers = r.Servers[:maxNameservers]
		warning = fmt.Sprintf("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s", strings.Join(r.Servers, " "))
	}
	if kept := clipSearches(r.Searches); len(kept) < len(r.Searches) {
		r.Searches = kept
		warning = fmt.Sprintf("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s", strings.Join(kept, " "))
	}
	return &runtimeapi.DNSConfig{Servers: r.Servers, Searches: r.Searches, Options: r.Options}, warning
}

func clipSearches(l []string) []string {
	if len(l) > maxSearchDomains {
		l = l[:maxSearchDomains]
	}
	for len(strings.Join(l, " ")) > maxSearchListChars {
		l = l[:len(l)-1]
	}
	return l
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(have []string, add []corev1.PodDNSConfigOption) []string {
	for _, o := range add {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		i := slices.IndexFunc(have, func(h string) bool { n, _, _ := strings.Cut(h, ":"); return n == o.Name })
		if i >= 0 {
			have[i] = text
		} else {
			have = append(have, text)
		}
	}
	return have
}

func unique(l []string) []string {
	var out []string
	for _, s := range l {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// podHostname returns the name that a pod gives itself and its domain, ""
// where it has none (API documentation of hostname, subdomain,
// setHostnameAsFQDN and hostnameOverride).
func podHostname(pod *corev1.Pod, domain string) (name, fqdnDomain string, err error) {
	const most = 63
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > most {
			name = strings.TrimRight(name[:most], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		fqdnDomain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + domain
	}
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, "", nil
	}
	return name, fqdnDomain, nil
}

// sandboxHostname is what the sandbox's UTS namespace is called.
func sandboxHostname(pod *corev1.Pod, domain string) (string, error) {
	name, sub, err := podHostname(pod, domain)
	if err != nil || sub == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return name, err
	}
	fqdn := name + "." + sub
	if len(fqdn) > 64 {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
	}
	return fqdn, nil
}

// hostsFile renders a pod's /etc/hosts. base is the host's own file for pods
// in the host's network, nil for others.
func hostsFile(pod *corev1.Pod, ips []string, hostname, domain string, base []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(base)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, hostname, domain, hostname)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}
