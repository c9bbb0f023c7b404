package actions

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"golang.org/x/sync/errgroup"

	"github.com/coxswain/cox/client"
)

// BootstrapConfig says what every cluster holds from its first second.
type BootstrapConfig struct {
	// ServiceCIDRs are the service ranges; the first address of the first one
	// is the API server's.
	ServiceCIDRs []netip.Prefix
	// Port is the one at which API servers listen.
	Port int32
	// Join makes this server one of the Service's endpoints, once there are
	// namespaces; nil leaves it out.
	Join func(context.Context) error
	// ClientCA and FrontProxyCA (PEM) are published for extension servers.
	ClientCA, FrontProxyCA string
	// FrontProxyNames are the common names that the front proxy may have.
	FrontProxyNames string
}

// Bootstrap creates what upstream's API server creates at its start and is
// still absent: the four namespaces, the system priority classes, the
// kubernetes Service with this server among its endpoints, the default ServiceCIDR, the CA
// data for extension servers, and the date since which tokens' use is noted. It
// is idempotent. c needs full rights.
func Bootstrap(ctx context.Context, c client.Interface, cfg BootstrapConfig) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		g.Go(func() error {
			return ensure(gctx, client.Namespaces.In(c, ""), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		})
	}
	for name, value := range map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000} {
		description := "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
		if name == "system-node-critical" {
			description = "Used for system critical pods that must not be moved from their current node."
		}
		g.Go(func() error {
			return ensure(gctx, client.PriorityClasses.In(c, ""), &schedulingv1.PriorityClass{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description,
			})
		})
	}
	g.Go(func() error {
		cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
		for _, p := range cfg.ServiceCIDRs {
			cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, p.String())
		}
		if err := ensure(gctx, client.ServiceCIDRs.In(c, ""), cidr); err != nil {
			return err
		}
		return cidrReady(gctx, c, cidr.Name)
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("create the objects every cluster has: %w", err)
	}
	g, gctx = errgroup.WithContext(ctx)
	g.Go(func() error { return kubernetesService(gctx, c, cfg) })
	if cfg.Join != nil {
		g.Go(func() error { return cfg.Join(gctx) })
	}
	g.Go(func() error { return tokenTracking(gctx, c) })
	if cfg.ClientCA != "" {
		g.Go(func() error { return extensionAuth(gctx, c, cfg) })
	}
	return g.Wait()
}

// cidrReady says of the default ServiceCIDR that it is ready, as the controller
// that upstream's API server has for it: without the reason that the condition
// has where users make ranges.
func cidrReady(ctx context.Context, c client.Interface, name string) error {
	cidrs := client.ServiceCIDRs.In(c, "")
	cur, err := cidrs.Get(ctx, name)
	if err != nil {
		return err
	}
	if apimeta.FindStatusCondition(cur.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil
	}
	_, err = cidrs.ApplyStatus(ctx, name, "kubernetes-service-cidr-controller", map[string]any{"conditions": []any{map[string]any{
		"type": networkingv1.ServiceCIDRConditionReady, "status": metav1.ConditionTrue,
		"lastTransitionTime": metav1.Now(), "message": "Kubernetes default Service CIDR is ready",
	}}})
	return err
}

// tokenTracking publishes since when the use of token Secrets is noted on
// them: the cleaner of legacy tokens deletes none that was used before
// (KEP-2799).
func tokenTracking(ctx context.Context, c client.Interface) error {
	return ensure(ctx, client.ConfigMaps.In(c, "kube-system"), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-apiserver-legacy-service-account-token-tracking"},
		Data:       map[string]string{"since": time.Now().UTC().Format(time.DateOnly)},
	})
}

// ensure creates obj unless it exists.
func ensure[T client.Object](ctx context.Context, r client.Resource[T], obj T) error {
	if _, err := r.Get(ctx, obj.GetName()); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	name := obj.GetName()
	if _, err := r.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %q: %w", name, err)
	}
	return nil
}

// kubernetesService publishes the API servers as Service default/kubernetes,
// whose endpoints are those that Join tells of.
func kubernetesService(ctx context.Context, c client.Interface, cfg BootstrapConfig) error {
	first := cfg.ServiceCIDRs[0].Masked().Addr().Next().String()
	labels := map[string]string{"component": "apiserver", "provider": "kubernetes"}
	publish := func() error {
		return ensure(ctx, client.Services.In(c, "default"), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: labels},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: first, SessionAffinity: corev1.ServiceAffinityNone,
				IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack),
				Ports:          []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(cfg.Port), Protocol: corev1.ProtocolTCP}},
			},
		})
	}
	err := publish()
	if apierrors.IsInvalid(err) {
		// A server that was killed between the two has taken the address and
		// not made the Service.
		freed, ferr := freeLeft(ctx, c, first, "default", "kubernetes")
		if ferr != nil {
			err = errors.Join(err, ferr)
		} else if freed {
			err = publish()
		}
	}
	if err != nil {
		return fmt.Errorf("publish the kubernetes service: %w", err)
	}
	return nil
}

// freeLeft frees an address that was taken for a Service which does not exist.
// It says whether it was taken for that one. Should another server be about to
// make the Service, the address is taken anew for whichever is made.
func freeLeft(ctx context.Context, c client.Interface, ip, namespace, name string) (bool, error) {
	addresses := client.IPAddresses.In(c, "")
	left, err := addresses.Get(ctx, ip)
	if apierrors.IsNotFound(err) {
		return true, nil // freed meanwhile
	}
	if err != nil || serviceOf(left) != namespace+"/"+name {
		return false, err
	}
	if err := addresses.Delete(ctx, ip, client.Exactly(left.UID)); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return false, fmt.Errorf("free cluster IP %s: %w", ip, err)
	}
	return true, nil
}

// extensionAuth publishes the CAs that extension API servers check callers by.
func extensionAuth(ctx context.Context, c client.Interface, cfg BootstrapConfig) error {
	data := map[string]string{"client-ca-file": cfg.ClientCA}
	if cfg.FrontProxyCA != "" {
		data["requestheader-client-ca-file"] = cfg.FrontProxyCA
		data["requestheader-allowed-names"] = cfg.FrontProxyNames
		data["requestheader-username-headers"] = `["X-Remote-User"]`
		data["requestheader-uid-headers"] = `["X-Remote-Uid"]`
		data["requestheader-group-headers"] = `["X-Remote-Group"]`
		data["requestheader-extra-headers-prefix"] = `["X-Remote-Extra-"]`
	}
	maps := client.ConfigMaps.In(c, "kube-system")
	name := "extension-apiserver-authentication"
	if err := ensure(ctx, maps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}); err != nil {
		return err
	}
	_, err := maps.Mutate(ctx, name, "", func(m *corev1.ConfigMap) (bool, error) {
		same := reflect.DeepEqual(m.Data, data)
		m.Data = data
		return !same, nil
	})
	return err
}
