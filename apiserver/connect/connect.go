// Package connect carries out the subresources that are streams: an
// authorized request for a pod's log, a shell in it, a forwarded port or a
// proxied page comes in, and goes on to the node's kubelet or straight to the
// pod, service or node.
package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// Config says what the connectors read and how they reach kubelets.
type Config struct {
	Pods, Nodes, Services, EndpointSlices store.Interface

	// Kubelet is the TLS configuration towards kubelets: the API server's
	// client certificate and the CA of the kubelets' serving certificates.
	Kubelet *tls.Config
	// AddressTypes is the order in which a node's addresses are tried for;
	// nil is InternalIP, ExternalIP, Hostname.
	AddressTypes []corev1.NodeAddressType
	// Dial, where set, opens the connections to kubelets, pods and services.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Log  *slog.Logger
}

// kubeletPort is where kubelets listen that do not say so themselves.
const kubeletPort = 10250

type connector struct {
	cfg     Config
	log     *slog.Logger
	kubelet *http.Transport // to kubelets, which are verified
	plain   *http.Transport // to pods and services, whose certificates mean nothing to us
}

// New returns the connectors of the built-in kinds, by "resource/subresource".
func New(cfg Config) map[string]apiserver.ConnectFunc {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	c := &connector{cfg: cfg, log: cfg.Log}
	c.kubelet = c.transport(cfg.Kubelet)
	c.plain = c.transport(&tls.Config{InsecureSkipVerify: true}) // as the API documentation of the proxy subresource says
	return map[string]apiserver.ConnectFunc{
		"pods/log":         c.logs,
		"pods/exec":        c.exec,
		"pods/attach":      c.attach,
		"pods/portforward": c.portForward,
		"pods/proxy":       c.podProxy,
		"services/proxy":   c.serviceProxy,
		"nodes/proxy":      c.nodeProxy,
	}
}

// transport is HTTP/1.1 only, since streams are upgrades of it.
func (c *connector) transport(t *tls.Config) *http.Transport {
	if t != nil {
		t = t.Clone()
		t.NextProtos = []string{"http/1.1"}
	}
	return &http.Transport{
		DialContext: c.cfg.Dial, TLSClientConfig: t, DisableCompression: true,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
}

// pod reads the pod that a request names.
func (c *connector) pod(ctx context.Context, req *client.Request) (*corev1.Pod, error) {
	return c.podNamed(ctx, req.Namespace, req.Name)
}

func (c *connector) podNamed(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	e, err := c.cfg.Pods.Get(ctx, namespace+"/"+name, "")
	if err != nil {
		return nil, err
	}
	return e.Object.(*corev1.Pod), nil
}

// node is where a node's kubelet listens, as "host:port".
func (c *connector) node(ctx context.Context, name string) (string, error) {
	e, err := c.cfg.Nodes.Get(ctx, name, "0")
	if apierrors.IsNotFound(err) {
		e, err = c.cfg.Nodes.Get(ctx, name, "")
	}
	if err != nil {
		return "", err
	}
	return KubeletAddress(e.Object.(*corev1.Node), c.cfg.AddressTypes)
}

// KubeletAddress is where a node's kubelet listens, as "host:port": the first
// address of the first of the types that it has one of; nil types are
// InternalIP, ExternalIP, Hostname.
func KubeletAddress(n *corev1.Node, types []corev1.NodeAddressType) (string, error) {
	if types == nil {
		types = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName}
	}
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = kubeletPort
	}
	for _, t := range types {
		for _, a := range n.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return net.JoinHostPort(a.Address, strconv.Itoa(port)), nil
			}
		}
	}
	return "", apierrors.NewInternalError(fmt.Errorf("no preferred addresses found; known addresses: %v", n.Status.Addresses))
}

// container picks the container that a request means.
func container(pod *corev1.Pod, name string) (string, error) {
	if name == "" {
		switch len(pod.Spec.Containers) {
		case 1:
			return pod.Spec.Containers[0].Name, nil
		case 0:
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
		}
		return "", apierrors.NewBadRequest(chooseOne(pod))
	}
	for _, list := range [][]string{containerNames(pod), initNames(pod), ephemeralNames(pod)} {
		for _, n := range list {
			if n == name {
				return name, nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

func chooseOne(pod *corev1.Pod) string {
	msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(containerNames(pod), " "))
	if n := initNames(pod); len(n) > 0 {
		msg += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(n, " "))
	}
	if n := ephemeralNames(pod); len(n) > 0 {
		msg += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(n, " "))
	}
	return msg
}

func containerNames(pod *corev1.Pod) (out []string) {
	for i := range pod.Spec.Containers {
		out = append(out, pod.Spec.Containers[i].Name)
	}
	return out
}

func initNames(pod *corev1.Pod) (out []string) {
	for i := range pod.Spec.InitContainers {
		out = append(out, pod.Spec.InitContainers[i].Name)
	}
	return out
}

func ephemeralNames(pod *corev1.Pod) (out []string) {
	for i := range pod.Spec.EphemeralContainers {
		out = append(out, pod.Spec.EphemeralContainers[i].Name)
	}
	return out
}

// hostless is the refusal of a stream to a pod that no node runs yet.
func hostless(pod *corev1.Pod) error {
	return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
}

// kubeletURL is a kubelet's address for a pod.
func (c *connector) kubeletURL(ctx context.Context, pod *corev1.Pod, path string, q url.Values) (*url.URL, error) {
	host, err := c.node(ctx, pod.Spec.NodeName)
	if apierrors.IsNotFound(err) { // clients are told so of a pod by the node's name
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, pod.Spec.NodeName)
	}
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: q.Encode()}, nil
}

// upgrade passes a request on to a kubelet and joins the two connections once
// both have switched protocols, whichever protocol it is.
func (c *connector) upgrade(w http.ResponseWriter, r *http.Request, to *url.URL) {
	h := utilproxy.NewUpgradeAwareHandler(to, c.kubelet, false, true, responder{})
	h.UseLocationHost = true
	h.ServeHTTP(w, r)
}

// responder words the errors of proxied requests.
type responder struct{}

// Error answers with err.
func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	var st apierrors.APIStatus
	switch {
	case errors.As(err, &st):
	case errors.Is(err, context.Canceled):
		return // the client is gone
	default:
		err = apierrors.NewInternalError(err)
	}
	wire.Fail(w, r, err)
}

// exec starts a process in a container.
func (c *connector) exec(w http.ResponseWriter, r *http.Request, req *client.Request, opts runtime.Object, _ string) {
	o := opts.(*corev1.PodExecOptions)
	q := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, arg := range o.Command {
		q.Add("command", arg)
	}
	c.stream(w, r, req, "exec", o.Container, q)
}

// attach joins a container's running process.
func (c *connector) attach(w http.ResponseWriter, r *http.Request, req *client.Request, opts runtime.Object, _ string) {
	o := opts.(*corev1.PodAttachOptions)
	c.stream(w, r, req, "attach", o.Container, streams(o.Stdin, o.Stdout, o.Stderr, o.TTY))
}

// streams are the kubelet's parameters for the streams of a process.
func streams(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"input": stdin, "output": stdout, "error": stderr, "tty": tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

func (c *connector) stream(w http.ResponseWriter, r *http.Request, req *client.Request, what, name string, q url.Values) {
	to, err := func() (*url.URL, error) {
		pod, err := c.pod(r.Context(), req)
		if err != nil {
			return nil, err
		}
		if name, err = container(pod, name); err != nil {
			return nil, err
		}
		if pod.Spec.NodeName == "" {
			return nil, hostless(pod)
		}
		return c.kubeletURL(r.Context(), pod, fmt.Sprintf("/%s/%s/%s/%s", what, pod.Namespace, pod.Name, name), q)
	}()
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	c.upgrade(w, r, to)
}

// portForward opens connections to ports of a pod.
func (c *connector) portForward(w http.ResponseWriter, r *http.Request, req *client.Request, opts runtime.Object, _ string) {
	q := url.Values{}
	for _, p := range opts.(*corev1.PodPortForwardOptions).Ports {
		q.Add("port", strconv.Itoa(int(p)))
	}
	pod, err := c.pod(r.Context(), req)
	if err == nil && pod.Spec.NodeName == "" {
		err = hostless(pod)
	}
	var to *url.URL
	if err == nil {
		to, err = c.kubeletURL(r.Context(), pod, fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), q)
	}
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	c.upgrade(w, r, to)
}

var podResource = schema.GroupResource{Resource: "pods"}
