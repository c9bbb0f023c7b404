package servicecidr

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 5

// Controller looks after ServiceCIDRs.
type Controller struct {
	env       controllers.Env
	cidrs     client.Informer[*networkingv1.ServiceCIDR]
	addresses client.Informer[*networkingv1.IPAddress]
	loop      *client.Loop
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:       env,
		cidrs:     client.InformerFor(env.Informers, client.ServiceCIDRs),
		addresses: client.InformerFor(env.Informers, client.IPAddresses),
	}
	c.loop = env.NewLoop("ipaddresses", c.reconcile)
	if _, err := c.cidrs.OnChange(func(cidr, old *networkingv1.ServiceCIDR) {
		changed := cidr
		if cidr != nil {
			c.loop.AddObject(cidr)
		} else {
			changed = old
		}
		// One that comes may free others that are being deleted.
		if old == nil || cidr == nil {
			c.wakeEnding(prefixes(changed))
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.addresses.OnChange(func(a, old *networkingv1.IPAddress) {
		if a != nil {
			return // only one that goes lets a range go
		}
		if ip, err := netip.ParseAddr(old.Name); err == nil {
			c.wakeEnding([]netip.Prefix{netip.PrefixFrom(ip, ip.BitLen())})
		}
	})
	return c, err
}

// wakeEnding puts the ranges that are being deleted and overlap into the loop.
func (c *Controller) wakeEnding(near []netip.Prefix) {
	for _, o := range c.cidrs.List("", nil) {
		if o.DeletionTimestamp != nil && overlap(prefixes(o), near) {
			c.loop.AddObject(o)
		}
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// orphans looks through all addresses; it is asked only of ranges that are
// being deleted.
func (c *Controller) orphans(cidr *networkingv1.ServiceCIDR) bool {
	var others []netip.Prefix
	for _, o := range c.cidrs.List("", nil) {
		if o.UID != cidr.UID && o.DeletionTimestamp == nil {
			others = append(others, prefixes(o)...)
		}
	}
	var addresses []netip.Addr
	for _, a := range c.addresses.List("", nil) {
		if ip, err := netip.ParseAddr(a.Name); err == nil {
			addresses = append(addresses, ip)
		}
	}
	return Orphans(prefixes(cidr), others, addresses)
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	cidr, ok := c.cidrs.GetKey(key)
	if !ok {
		return 0, nil
	}
	p := Decide(cidr, func() bool { return c.orphans(cidr) }, c.env.Clock.Now())
	if p.Finalize || p.Release {
		if err := c.finalizers(ctx, cidr, p.Finalize); err != nil {
			return 0, err
		}
	}
	if p.Ready != nil {
		if err := c.condition(ctx, cidr, p.Ready); err != nil {
			return 0, err
		}
	}
	return p.Again, nil
}

// finalizers adds or removes ours; the resource version guards those of others.
func (c *Controller) finalizers(ctx context.Context, cidr *networkingv1.ServiceCIDR, add bool) error {
	list := slices.DeleteFunc(slices.Clone(cidr.Finalizers), func(f string) bool { return f == Finalizer })
	if add {
		list = append(list, Finalizer)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": cidr.UID, "resourceVersion": cidr.ResourceVersion, "finalizers": list}})
	if err != nil {
		return err
	}
	if _, err = client.ServiceCIDRs.In(c.env.Client, "").Patch(ctx, cidr.Name, types.MergePatchType, patch); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalizer of service range %s: %w", cidr.Name, err)
	}
	return nil
}

func (c *Controller) condition(ctx context.Context, cidr *networkingv1.ServiceCIDR, cond *metav1.Condition) error {
	cond.LastTransitionTime = metav1.NewTime(c.env.Clock.Now())
	_, err := client.ServiceCIDRs.In(c.env.Client, "").Mutate(ctx, cidr.Name, "status", func(cur *networkingv1.ServiceCIDR) (bool, error) {
		return cur.UID == cidr.UID && meta.SetStatusCondition(&cur.Status.Conditions, *cond), nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("condition of service range %s: %w", cidr.Name, err)
	}
	return nil
}
