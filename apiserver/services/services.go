// Package services connects the API server to Services: a namespace, a name
// and a port go in, a connection to one of the ready endpoints comes out. It
// needs no service proxy on the machine.
package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
)

// Dialer resolves Services through a door, whose user must be allowed to read
// Services and EndpointSlices. It is safe for concurrent use.
type Dialer struct {
	Door client.Interface
}

// Host is the name that a Service's server certificate must have.
func Host(namespace, name string) string { return name + "." + namespace + ".svc" }

// Endpoint finds where one of the endpoints of a Service listens. The error
// names the Service if it or its port is absent or has no ready endpoint.
func (d *Dialer) Endpoint(ctx context.Context, namespace, name string, port int32) (string, error) {
	svc, err := client.Services.In(d.Door, namespace).Get(ctx, name, client.WithOptions(client.Options{ResourceVersion: "0"}))
	if apierrors.IsNotFound(err) { // it may have been made a moment ago
		svc, err = client.Services.In(d.Door, namespace).Get(ctx, name)
	}
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("service %q not found", name)
	}
	if err != nil {
		return "", err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	portName, ok := "", false
	for i := range svc.Spec.Ports {
		if p := &svc.Spec.Ports[i]; p.Port == port && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
			portName, ok = p.Name, true
		}
	}
	if !ok {
		return "", fmt.Errorf("no service port %d found for service %q", port, name)
	}
	addresses, err := d.addresses(ctx, namespace, name, portName)
	if err != nil {
		return "", err
	}
	if len(addresses) == 0 {
		return "", fmt.Errorf("no endpoints available for service %q", name)
	}
	return addresses[rand.IntN(len(addresses))], nil
}

func (d *Dialer) addresses(ctx context.Context, namespace, name, port string) ([]string, error) {
	slices, _, err := client.EndpointSlices.In(d.Door, namespace).List(ctx, client.Options{
		ResourceVersion: "0", LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range slices {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || (p.Name != nil && *p.Name != port) || (p.Name == nil && port != "") {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, a := range e.Addresses {
					if usable(a) {
						out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	return out, nil
}

// usable refuses addresses by which a user could reach what listens on the
// control plane's own loopback interface or on its link.
func usable(address string) bool {
	ip := net.ParseIP(address)
	return ip != nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() && !ip.IsUnspecified()
}

// Dial connects to an endpoint of a Service, to another if one does not
// answer.
func (d *Dialer) Dial(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	var errs []error
	dialer := net.Dialer{Timeout: 5 * time.Second}
	for range 3 {
		address, err := d.Endpoint(ctx, namespace, name, port)
		if err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = []error{err}
	}
	return nil, errs[0]
}
