package kubelet

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// safeSysctls are those that every pod may set (documentation "Using sysctls
// in a Kubernetes Cluster").
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// sysctlNamespaces are the prefixes of sysctls that have a value per
// namespace, and the namespace.
var sysctlNamespaces = []struct{ prefix, namespace string }{
	{"kernel.shm", "ipc"}, {"kernel.msg", "ipc"}, {"kernel.sem", "ipc"}, {"fs.mqueue.", "ipc"}, {"net.", "net"},
}

// admitSysctls refuses pods that set what the node does not let them set:
// unsafe names that are not allowed, and those of a namespace that is the
// host's. allowed are names, or prefixes that end in "*".
func admitSysctls(pod *corev1.Pod, allowed []string) *reason {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		safe := slices.Contains(safeSysctls, name)
		for _, a := range allowed {
			prefix, wild := strings.CutSuffix(a, "*")
			safe = safe || name == a || wild && strings.HasPrefix(name, prefix)
		}
		if !safe {
			return &reason{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		}
		for _, n := range sysctlNamespaces {
			if !strings.HasPrefix(name, n.prefix) {
				continue
			}
			if n.namespace == "ipc" && pod.Spec.HostIPC || n.namespace == "net" && pod.Spec.HostNetwork {
				return &reason{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", s.Name, n.namespace)}
			}
			break
		}
	}
	return nil
}
