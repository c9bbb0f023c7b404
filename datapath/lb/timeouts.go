package lb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// timeouts are how long, in seconds, connections that the kernel translates
// are remembered while nothing is said on them: the defaults of upstream's
// kube-proxy (KubeProxyConfiguration, conntrack.tcpEstablishedTimeout and
// tcpCloseWaitTimeout). The kernel's own minute for a half-closed connection
// cuts off servers that take longer for their answer.
var timeouts = map[string]int{
	"nf_conntrack_tcp_timeout_established": 24 * 3600,
	"nf_conntrack_tcp_timeout_close_wait":  3600,
}

// SetTimeouts sets how long the kernel remembers translated connections in
// this process's network namespace. sysctls is the folder of the settings,
// /proc/sys/net/netfilter. What is right already is not written, so that a
// folder that is read only and set up by others is no error.
func SetTimeouts(sysctls string) error {
	var problems []error
	for name, seconds := range timeouts {
		path := filepath.Join(sysctls, name)
		raw, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(raw)) != strconv.Itoa(seconds) {
			err = os.WriteFile(path, []byte(strconv.Itoa(seconds)), 0o644)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("conntrack timeout: %w", err))
		}
	}
	return errors.Join(problems...)
}
