package actions

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

// Grace is how long what is reserved for a Service may wait for it: longer than
// any request takes, through whichever server.
const Grace = 90 * time.Second

// byService indexes addresses by the Service that they are reserved for.
const byService = "service"

// Keep makes addresses and Services agree for as long as ctx lives: an address
// that somebody deletes is claimed again for the Service that has it, one whose
// Service does not come, or has gone without it, is freed after grace, and so
// are the ports that Repair found nobody to have. c must be allowed all that.
func (s *Services) Keep(ctx context.Context, c client.Interface, grace time.Duration) error {
	k := &keeper{s: s, c: c, grace: grace}
	all := client.NewInformers(c)
	k.addresses = client.InformerFor(all, client.IPAddresses)
	k.loop = client.NewLoop("service-addresses", s.log, k.reconcile)
	if err := k.addresses.AddIndex(byService, func(ip *networkingv1.IPAddress) []string {
		if key := serviceOf(ip); key != "" {
			return []string{key}
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := k.addresses.OnChange(func(ip, old *networkingv1.IPAddress) {
		for _, x := range [...]*networkingv1.IPAddress{ip, old} {
			if key := serviceOf(x); key != "" {
				k.loop.Add(key)
			}
		}
	}); err != nil {
		return err
	}
	// What is not freed with a Service, for its server fails in between.
	if _, err := client.InformerFor(all, client.Services).OnChange(func(svc, old *corev1.Service) {
		if svc == nil {
			k.loop.AddAfter(old.Namespace+"/"+old.Name, grace)
		}
	}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.freePorts(ctx) })
	all.Start(ctx)
	if all.WaitForSync(ctx) {
		k.loop.Run(ctx, 1)
	}
	return ctx.Err()
}

type keeper struct {
	s         *Services
	c         client.Interface
	grace     time.Duration
	addresses client.Informer[*networkingv1.IPAddress]
	loop      *client.Loop
}

// serviceOf is the namespace and name of the Service that this allocator has
// reserved an address for, "" if it is not one of its own.
func serviceOf(ip *networkingv1.IPAddress) string {
	if ip == nil || ip.Labels[labelManagedBy] != managedBy || ip.Spec.ParentRef == nil || ip.Spec.ParentRef.Resource != "services" {
		return ""
	}
	return ip.Spec.ParentRef.Namespace + "/" + ip.Spec.ParentRef.Name
}

// reconcile looks at the addresses of one Service.
func (k *keeper) reconcile(ctx context.Context, key string) (again time.Duration, err error) {
	namespace, name, _ := strings.Cut(key, "/")
	var missing []string
	svc, err := client.Services.In(k.c, namespace).Get(ctx, name)
	switch {
	case err == nil:
		missing = slices.Clone(clusterIPs(svc))
	case !apierrors.IsNotFound(err):
		return 0, err
	}
	for _, ip := range k.addresses.ByIndex(byService, key) {
		if i := slices.Index(missing, ip.Name); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		if left := k.grace - time.Since(ip.CreationTimestamp.Time); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		k.s.log.Warn("a cluster IP is freed that no Service has", "ip", ip.Name, "service", key)
		err := client.IPAddresses.In(k.c, "").Delete(ctx, ip.Name, client.Exactly(ip.UID))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return 0, fmt.Errorf("free cluster IP %s: %w", ip.Name, err)
		}
	}
	for _, ip := range missing {
		if err := k.claim(ctx, ip, svc); err != nil {
			return 0, err
		}
	}
	return again, nil
}

// claim reserves an address that a Service has, unless the informer is only
// behind.
func (k *keeper) claim(ctx context.Context, ip string, svc *corev1.Service) error {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // validation refuses it
	}
	if _, err = client.IPAddresses.In(k.c, "").Get(ctx, a.String()); !apierrors.IsNotFound(err) {
		return err
	}
	for _, r := range k.s.ips {
		if r.holds(a) {
			k.s.log.Warn("a cluster IP is reserved again for the Service that has it", "ip", ip, "service", svc.Namespace+"/"+svc.Name)
			return r.claim(ctx, a, svc, false)
		}
	}
	return nil
}

// freePorts frees, after grace, the ports that nobody had when Repair looked,
// and nobody has now.
func (k *keeper) freePorts(ctx context.Context) {
	t := time.NewTimer(k.grace)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	leaked := k.s.takeLeaked()
	if len(leaked) == 0 {
		return
	}
	services, _, err := client.Services.In(k.c, "").List(ctx, client.Options{})
	if err == nil {
		for _, svc := range services {
			used := nodePorts(svc)
			leaked = slices.DeleteFunc(leaked, func(p int) bool { return slices.Contains(used, p) })
		}
		err = k.s.ports.release(ctx, leaked...)
	}
	if err != nil && ctx.Err() == nil {
		k.s.log.Warn("node ports that no Service has are not freed, the next start tries again", "ports", leaked, "error", err)
	}
}

func (s *Services) takeLeaked() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.leaked
	s.leaked = nil
	return out
}
