package probes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Exec runs a command in a container and returns its combined output and
// exit code; err is set when it could not be run, context.DeadlineExceeded
// when it took longer than timeout.
type Exec func(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (output []byte, code int, err error)

// maxBody bounds what is read of an HTTP answer and shown of an output.
const maxBody = 10 << 10

// Checks is the Checker for real containers.
type Checks struct {
	Exec    Exec
	Version string // for the User-Agent, such as "1.36"
}

// Check runs the probe's one handler (API documentation of Probe).
func (c *Checks) Check(ctx context.Context, t *Target, p *corev1.Probe) (bool, string, error) {
	timeout := seconds(max(p.TimeoutSeconds, 1))
	switch {
	case p.Exec != nil:
		return c.exec(ctx, t, p.Exec, timeout)
	case p.HTTPGet != nil:
		return c.http(ctx, t, p.HTTPGet, timeout)
	case p.TCPSocket != nil:
		return c.tcp(ctx, t, p.TCPSocket, timeout)
	case p.GRPC != nil:
		return c.grpc(ctx, t, p.GRPC, timeout)
	}
	return false, "", fmt.Errorf("missing probe handler for %s:%s", t.Pod.Namespace+"/"+t.Pod.Name, t.Container.Name)
}

func (c *Checks) exec(ctx context.Context, t *Target, e *corev1.ExecAction, timeout time.Duration) (bool, string, error) {
	out, code, err := c.Exec(ctx, t.ContainerID, e.Command, timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(e.Command, " "), timeout), nil
	case err != nil:
		return false, "", err
	}
	if code == 0 {
		return true, "", nil
	}
	return false, clip(out), nil
}

func clip(b []byte) string {
	if len(b) > maxBody {
		b = b[:maxBody]
	}
	return string(b)
}

func (c *Checks) http(ctx context.Context, t *Target, h *corev1.HTTPGetAction, timeout time.Duration) (bool, string, error) {
	req, err := HTTPRequest(ctx, h, t.Container, t.PodIP, "kube-probe/"+c.Version)
	if err != nil {
		return false, "", err
	}
	// Every check makes its own connection: a kept one would not tell
	// whether the server still accepts any.
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // documented: the certificate is not verified
		DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
	}
	host := req.URL.Hostname()
	cl := &http.Client{Transport: tr, Timeout: timeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Hostname() != host || len(via) >= 10 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := cl.Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return false, "", err
	}
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		return true, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body)), nil
	}
	if res.StatusCode >= 200 && res.StatusCode < 400 {
		return true, "", nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode), nil
}

// HTTPRequest makes the request of an httpGet action against the pod's
// address. It fails when a named port does not exist.
func HTTPRequest(ctx context.Context, h *corev1.HTTPGetAction, c *corev1.Container, podIP, agent string) (*http.Request, error) {
	port, err := Port(h.Port, c)
	if err != nil {
		return nil, err
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	host := h.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, e := range h.HTTPHeaders {
		if strings.EqualFold(e.Name, "Host") {
			req.Host = e.Value
		}
		req.Header.Add(e.Name, e.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	}
	req.Header.Del("Host")
	return req, nil
}

// Port resolves a port by number or by its name in the container.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	if p.Type == intstr.Int {
		if p.IntValue() <= 0 || p.IntValue() > 65535 {
			return 0, fmt.Errorf("invalid port number: %v", p.IntValue())
		}
		return p.IntValue(), nil
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil && n > 0 && n <= 65535 {
		return n, nil
	}
	return 0, fmt.Errorf("couldn't find port: %v in container %q", p.StrVal, c.Name)
}

func (c *Checks) tcp(ctx context.Context, t *Target, a *corev1.TCPSocketAction, timeout time.Duration) (bool, string, error) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return false, "", err
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false, err.Error(), nil
	}
	conn.Close()
	return true, "", nil
}

func (c *Checks) grpc(ctx context.Context, t *Target, a *corev1.GRPCAction, timeout time.Duration) (bool, string, error) {
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	addr := net.JoinHostPort(t.PodIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("kube-probe/"+c.Version), grpc.WithNoProxy())
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, metadata.MD{}), timeout)
	defer cancel()
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return false, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()), nil
	case codes.DeadlineExceeded, codes.Unavailable:
		return false, fmt.Sprintf("timeout: failed to connect service %q within %s: %s", addr, timeout, status.Convert(err).Message()), nil
	default:
		return false, fmt.Sprintf("error: health rpc probe failed: %s", err), nil
	}
	if s := res.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return false, fmt.Sprintf("service unhealthy (responded with %q)", s.String()), nil
	}
	return true, "", nil
}

// CombinedOutput joins what a command wrote.
func CombinedOutput(stdout, stderr []byte) []byte {
	return bytes.Join([][]byte{stdout, stderr}, nil)
}

// InsecureClient makes a client for httpGet hooks, which like probes do not
// verify certificates and keep no connection.
func InsecureClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
}
