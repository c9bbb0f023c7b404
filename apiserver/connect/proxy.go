package connect

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// proxy passes a request on to a page behind us. Redirects and links in HTML
// come back as paths below the API server's.
func proxy(w http.ResponseWriter, r *http.Request, to *url.URL, path string, t *http.Transport) {
	to.Path = path
	h := utilproxy.NewUpgradeAwareHandler(to, t, true, false, responder{})
	h.ServeHTTP(w, r)
}

// split reads the forms "name", "name:port" and "scheme:name:port".
func split(req *client.Request, what string) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(req.Name)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", what, req.Name))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}

// reachable refuses addresses that would turn the proxy against this machine.
func reachable(ip string) error {
	a := net.ParseIP(ip)
	if a == nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast() || a.IsUnspecified() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

// podProxy passes a request on to a pod.
func (c *connector) podProxy(w http.ResponseWriter, r *http.Request, req *client.Request, _ runtime.Object, path string) {
	to, err := c.podURL(r.Context(), req)
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	proxy(w, r, to, path, c.plain)
}

func (c *connector) podURL(ctx context.Context, req *client.Request) (*url.URL, error) {
	scheme, name, port, err := split(req, "pod")
	if err != nil {
		return nil, err
	}
	pod, err := c.podNamed(ctx, req.Namespace, name)
	if err != nil {
		return nil, err
	}
	if port == "" {
		port = firstPort(pod)
	}
	ip := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	if err := reachable(ip); err != nil {
		return nil, err
	}
	return address(scheme, ip, port), nil
}

func firstPort(pod *corev1.Pod) string {
	for i := range pod.Spec.Containers {
		if p := pod.Spec.Containers[i].Ports; len(p) > 0 {
			return strconv.Itoa(int(p[0].ContainerPort))
		}
	}
	return ""
}

func address(scheme, ip, port string) *url.URL {
	host := ip
	switch {
	case port != "":
		host = net.JoinHostPort(ip, port)
	case net.ParseIP(ip).To4() == nil:
		host = "[" + ip + "]"
	}
	return &url.URL{Scheme: scheme, Host: host}
}

// serviceProxy passes a request on to one of a service's endpoints.
func (c *connector) serviceProxy(w http.ResponseWriter, r *http.Request, req *client.Request, _ runtime.Object, path string) {
	to, err := c.serviceURL(r.Context(), req)
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	proxy(w, r, to, path, c.plain)
}

func (c *connector) serviceURL(ctx context.Context, req *client.Request) (*url.URL, error) {
	scheme, name, port, err := split(req, "service")
	if err != nil {
		return nil, err
	}
	e, err := c.cfg.Services.Get(ctx, req.Namespace+"/"+name, "")
	if err != nil {
		return nil, err
	}
	portName, err := servicePort(e.Object.(*corev1.Service), port)
	if err != nil {
		return nil, err
	}
	list, err := c.cfg.EndpointSlices.List(ctx, req.Namespace+"/", store.ListOptions{
		ResourceVersion: "0", Predicate: ofService(name),
	})
	if err != nil {
		return nil, err
	}
	ip, number := pick(list.Entries, portName)
	if ip == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	if err := reachable(ip); err != nil {
		return nil, err
	}
	return address(scheme, ip, strconv.Itoa(int(number))), nil
}

func ofService(name string) store.Predicate {
	return store.Predicate{
		Label: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
		Attrs: func(o runtime.Object) (labels.Set, fields.Set) { return o.(*discoveryv1.EndpointSlice).Labels, nil },
	}
}

// servicePort finds the name of the port that a request means: by name, by
// number, or the only one.
func servicePort(svc *corev1.Service, port string) (string, error) {
	if port == "" {
		if len(svc.Spec.Ports) == 1 {
			return svc.Spec.Ports[0].Name, nil
		}
		return "", nil // the unnamed port, if there is one
	}
	n, err := strconv.ParseInt(port, 10, 32)
	for i := range svc.Spec.Ports {
		if p := &svc.Spec.Ports[i]; p.Name == port || (err == nil && int64(p.Port) == n) {
			return p.Name, nil
		}
	}
	if err == nil {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", n, svc.Name))
	}
	return port, nil
}

// pick chooses a ready endpoint at random.
func pick(slices []*store.Entry, portName string) (ip string, port int32) {
	type endpoint struct {
		ip   string
		port int32
	}
	var all []endpoint
	for _, e := range slices {
		s := e.Object.(*discoveryv1.EndpointSlice)
		for _, p := range s.Ports {
			if p.Port == nil || (p.Name == nil && portName != "") || (p.Name != nil && *p.Name != portName) {
				continue
			}
			for i := range s.Endpoints {
				ep := &s.Endpoints[i]
				if (ep.Conditions.Ready == nil || *ep.Conditions.Ready) && len(ep.Addresses) > 0 {
					all = append(all, endpoint{ep.Addresses[0], *p.Port})
				}
			}
		}
	}
	if len(all) == 0 {
		return "", 0
	}
	chosen := all[rand.IntN(len(all))]
	return chosen.ip, chosen.port
}

// nodeProxy passes a request on to a node: to its kubelet, or to another port
// of it if the name says so.
func (c *connector) nodeProxy(w http.ResponseWriter, r *http.Request, req *client.Request, _ runtime.Object, path string) {
	to, t, err := c.nodeURL(r.Context(), req)
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	proxy(w, r, to, path, t)
}

func (c *connector) nodeURL(ctx context.Context, req *client.Request) (*url.URL, *http.Transport, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(req.Name)
	if !ok {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", req.Name))
	}
	kubelet, err := c.node(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	host, kport, err := net.SplitHostPort(kubelet)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	if port == "" || port == kport {
		return &url.URL{Scheme: "https", Host: kubelet}, c.kubelet, nil
	}
	if err := reachable(host); err != nil {
		return nil, nil, err
	}
	if scheme == "" {
		scheme = "http"
	}
	return address(scheme, host, port), c.plain, nil
}
