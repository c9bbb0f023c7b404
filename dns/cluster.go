package dns

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/client"
)

// Names of the indexes; other components add theirs to the same informers.
const (
	byClusterIP = "dns-cluster-ip"
	byService   = "dns-service"
	byEndpoint  = "dns-endpoint"
)

// informed is the Cluster that informers hold.
type informed struct {
	services   client.Informer[*corev1.Service]
	slices     client.Informer[*discoveryv1.EndpointSlice]
	namespaces client.Informer[*corev1.Namespace]
}

// FromInformers returns the cluster as a component's informers see it. It
// adds indexes and so must be called before they start.
func FromInformers(i *client.Informers) (Cluster, error) {
	c := &informed{
		services:   client.InformerFor(i, client.Services),
		slices:     client.InformerFor(i, client.EndpointSlices),
		namespaces: client.InformerFor(i, client.Namespaces),
	}
	err := c.services.AddIndexers(cache.Indexers{byClusterIP: func(o any) ([]string, error) {
		return o.(*corev1.Service).Spec.ClusterIPs, nil
	}})
	if err != nil {
		return nil, err
	}
	err = c.slices.AddIndexers(cache.Indexers{
		byService: func(o any) ([]string, error) {
			s := o.(*discoveryv1.EndpointSlice)
			return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
		},
		byEndpoint: func(o any) ([]string, error) {
			var out []string
			for _, e := range o.(*discoveryv1.EndpointSlice).Endpoints {
				out = append(out, e.Addresses...)
			}
			return out, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *informed) Service(namespace, name string) *corev1.Service {
	svc, _ := c.services.Get(namespace, name)
	return svc
}

func (c *informed) Slices(namespace, service string) []*discoveryv1.EndpointSlice {
	return c.slices.ByIndex(byService, namespace+"/"+service)
}

func (c *informed) NamespaceExists(name string) bool {
	_, ok := c.namespaces.Get("", name)
	return ok
}

func (c *informed) ServiceByIP(ip netip.Addr) *corev1.Service {
	if list := c.services.ByIndex(byClusterIP, ip.String()); len(list) > 0 {
		return list[0]
	}
	return nil
}

func (c *informed) SlicesByIP(ip netip.Addr) []*discoveryv1.EndpointSlice {
	return c.slices.ByIndex(byEndpoint, ip.String())
}
