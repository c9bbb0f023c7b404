package dra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/coxswain/cox/client"
)

// Prepare has the drivers prepare a pod's claims. It may be called again. The
// drivers are called at the same time, and a claim is free again when its own
// are done: one that hangs keeps nobody from the devices of others.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) (err error) {
	begin := m.cfg.Clock.Now()
	defer func() { m.counts.did("PrepareResources", m.cfg.Clock.Since(begin), err) }()
	claims, err := m.claimsOf(ctx, pod)
	if err != nil {
		return err
	}
	uids := make([]types.UID, 0, len(claims))
	for _, c := range claims {
		uids = append(uids, c.UID)
	}
	if err := m.busy.take(ctx, uids...); err != nil {
		return err
	}
	todo, err := m.note(claims, pod)
	for _, uid := range uids {
		if err != nil || !slices.ContainsFunc(todo, func(c *Claim) bool { return c.UID == uid }) {
			m.busy.free(uid)
		}
	}
	if err != nil {
		return err
	}
	return m.prepareAll(ctx, todo)
}

// claimsOf are the claims of a pod, each once: allocated ones that it may use.
func (m *Manager) claimsOf(ctx context.Context, pod *corev1.Pod) ([]*resourcev1.ResourceClaim, error) {
	list, err := uses(pod)
	if err != nil {
		return nil, err
	}
	var claims []*resourcev1.ResourceClaim
	for _, u := range list {
		claim, err := client.ResourceClaims.In(m.cfg.Client, pod.Namespace).Get(ctx, u.name)
		if err != nil {
			return nil, fmt.Errorf("fetch ResourceClaim %s: %w", u.name, err)
		}
		if err := mayUse(claim, pod); err != nil {
			return nil, err
		}
		if claim.Status.Allocation == nil {
			return nil, fmt.Errorf("claim %s not allocated", u.name)
		}
		if !slices.ContainsFunc(claims, func(c *resourcev1.ResourceClaim) bool { return c.UID == claim.UID }) {
			claims = append(claims, claim)
		}
	}
	return claims, nil
}

// mayUse says that a claim is reserved for the pod, and was made for it if it
// was made for any.
func mayUse(claim *resourcev1.ResourceClaim, pod *corev1.Pod) error {
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" && r.UID == pod.UID {
			return nil
		}
	}
	return fmt.Errorf("pod %s(%s) is not allowed to use resource claim %s(%s)", pod.Name, pod.UID, claim.Name, claim.UID)
}

// note remembers that the pod uses claims, before any driver is called, and
// returns those that are to be prepared. What no driver was asked for needs no
// driver to undo it: so all of a pod's claims are remembered, or none.
func (m *Manager) note(claims []*resourcev1.ResourceClaim, pod *corev1.Pod) (todo []*Claim, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, claim := range claims {
		if err := m.askable(claim); err != nil {
			return nil, err
		}
	}
	for _, claim := range claims {
		c := m.claims[claim.UID]
		if c == nil {
			c = &Claim{UID: claim.UID, Namespace: claim.Namespace, Name: claim.Name, Devices: map[string][]Device{}}
			for _, r := range claim.Status.Allocation.Devices.Results {
				c.Devices[r.Driver] = nil
			}
			m.claims[claim.UID] = c
		}
		if !slices.Contains(c.Pods, pod.UID) {
			c.Pods = append(c.Pods, pod.UID)
		}
		if !c.Ready {
			todo = append(todo, c)
		}
	}
	return todo, m.save()
}

// askable says that the drivers of a claim are there, unless they have been
// asked already, and that they have undone what they did for another of its
// name. Call with the lock held.
func (m *Manager) askable(claim *resourcev1.ResourceClaim) error {
	for _, c := range m.claims {
		if c.UID != claim.UID && c.Namespace == claim.Namespace && c.Name == claim.Name {
			return fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", c.Name, c.UID)
		}
	}
	if m.claims[claim.UID] != nil {
		return nil
	}
	for i := range claim.Status.Allocation.Devices.Results {
		if name := claim.Status.Allocation.Devices.Results[i].Driver; m.drivers[name] == nil {
			return notRegistered(name)
		}
	}
	return nil
}

func notRegistered(driver string) error { return fmt.Errorf("DRA driver %s is not registered", driver) }

func (m *Manager) driver(name string) (drav1.DRAPluginClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.drivers[name]
	if d == nil {
		return nil, notRegistered(name)
	}
	return d.client, nil
}

// prepareAll has every driver prepare what is its of claims, and frees each
// claim when its drivers are done with it. The error is that of the first driver
// by name that has one.
func (m *Manager) prepareAll(ctx context.Context, todo []*Claim) error {
	work := map[string][]*Claim{} // by driver
	left := map[*Claim]int{}      // drivers that are still to answer
	for _, c := range todo {
		left[c] = len(c.Devices)
		for name := range c.Devices {
			work[name] = append(work[name], c)
		}
		if left[c] == 0 { // of no driver's
			defer m.busy.free(c.UID)
		}
	}
	names := slices.Sorted(maps.Keys(work))
	errs := make([]error, len(names))
	failed := map[*Claim]bool{}
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			done, err := m.prepare(ctx, name, work[name])
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, c := range work[name] {
				failed[c] = failed[c] || !slices.Contains(done, c)
				if left[c]--; left[c] > 0 {
					continue
				}
				c.Ready = !failed[c]
				defer m.busy.free(c.UID)
			}
			if e := m.save(); err == nil {
				err = e
			}
			errs[i] = err
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// prepare calls one driver, and returns the claims that it has prepared, and
// why it has not the others.
func (m *Manager) prepare(ctx context.Context, name string, claims []*Claim) (done []*Claim, err error) {
	c, err := m.driver(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := &drav1.NodePrepareResourcesRequest{}
	for _, claim := range claims {
		req.Claims = append(req.Claims, &drav1.Claim{Uid: string(claim.UID), Namespace: claim.Namespace, Name: claim.Name})
	}
	begin := m.cfg.Clock.Now()
	res, err := c.NodePrepareResources(ctx, req)
	m.counts.called(name, drav1.DRAPlugin_NodePrepareResources_FullMethodName, m.cfg.Clock.Since(begin), err)
	if err != nil {
		return nil, fmt.Errorf("NodePrepareResources: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, claim := range claims {
		r := res.Claims[string(claim.UID)]
		if r == nil {
			return done, fmt.Errorf("NodePrepareResources skipped 1 ResourceClaims, first one: %s", claim.Name)
		}
		if r.Error != "" {
			return done, fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", claim.Name, r.Error)
		}
		var devices []Device
		for _, d := range r.Devices {
			devices = append(devices, Device{Requests: d.RequestNames, Pool: d.PoolName, Name: d.DeviceName, Share: d.ShareId, CDI: d.CdiDeviceIds})
		}
		claim.Devices[name] = devices
		done = append(done, claim)
	}
	return done, nil
}

// Unprepare has the drivers undo what only this pod used. It may be called
// again, and for pods without claims.
func (m *Manager) Unprepare(ctx context.Context, uid types.UID) (err error) {
	begin := m.cfg.Clock.Now()
	claims := m.usedBy(uid)
	if len(claims) == 0 {
		return nil
	}
	defer func() { m.counts.did("UnprepareResources", m.cfg.Clock.Since(begin), err) }()
	errs := make([]error, len(claims))
	var all sync.WaitGroup
	for i, c := range claims {
		all.Go(func() { errs[i] = m.leave(ctx, c, uid) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// usedBy lists the claims of a pod, by name.
func (m *Manager) usedBy(pod types.UID) []*Claim {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Claim
	for _, c := range m.claims {
		if slices.Contains(c.Pods, pod) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Claim) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// leave notes that a pod uses a claim no more. If no other does, its drivers
// undo it first.
func (m *Manager) leave(ctx context.Context, c *Claim, pod types.UID) error {
	if err := m.busy.take(ctx, c.UID); err != nil {
		return err
	}
	defer m.busy.free(c.UID)
	m.mu.Lock()
	at := slices.Index(c.Pods, pod)
	if at >= 0 && len(c.Pods) > 1 {
		defer m.mu.Unlock()
		c.Pods = slices.Delete(c.Pods, at, at+1)
		return m.save()
	}
	m.mu.Unlock()
	if at < 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.Devices)) {
		if err := m.unprepare(ctx, name, c); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.claims, c.UID)
	return m.save()
}

func (m *Manager) unprepare(ctx context.Context, name string, claim *Claim) error {
	c, err := m.driver(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	begin := m.cfg.Clock.Now()
	res, err := c.NodeUnprepareResources(ctx, &drav1.NodeUnprepareResourcesRequest{Claims: []*drav1.Claim{{
		Uid: string(claim.UID), Namespace: claim.Namespace, Name: claim.Name,
	}}})
	m.counts.called(name, drav1.DRAPlugin_NodeUnprepareResources_FullMethodName, m.cfg.Clock.Since(begin), err)
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	r, ok := res.Claims[string(claim.UID)]
	switch {
	case !ok:
		return fmt.Errorf("NodeUnprepareResources skipped 1 ResourceClaims, first one: %s", claim.Name)
	case r.GetError() != "":
		return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", claim.Name, r.Error)
	}
	return nil
}
