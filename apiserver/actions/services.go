package actions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/core"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// ServiceConfig says which addresses and ports Services get.
type ServiceConfig struct {
	// CIDRs are the service ranges, the primary family's first.
	CIDRs []netip.Prefix
	// NodePortBase and NodePortSize are the node port range.
	NodePortBase, NodePortSize int
	// Loopback is a door with full rights, through which IPAddress objects
	// are written.
	Loopback client.Interface
	// Ranges is the store of RangeKind.
	Ranges store.Interface
	Log    *slog.Logger
}

// Services allocates cluster IPs and node ports in the writes of Services.
type Services struct {
	ips   []*ipRange
	ports *portRange
	log   *slog.Logger
	// counts are of what was allocated, not of what was only tried.
	counts *counts

	mu     sync.Mutex
	leaked []int // ports that Repair found nobody to have
}

// NewServices makes the allocator. It is safe for concurrent use.
func NewServices(cfg ServiceConfig) *Services {
	s := &Services{ports: &portRange{base: cfg.NodePortBase, size: cfg.NodePortSize, store: cfg.Ranges}, log: cfg.Log, counts: newCounts()}
	for _, p := range cfg.CIDRs {
		s.ips = append(s.ips, &ipRange{prefix: p, c: cfg.Loopback})
	}
	return s
}

// Hook is what the pipeline calls in every write of a Service.
func (s *Services) Hook() apiserver.Hook { return apiserver.Hook{Begin: s.begin} }

// txn is what one write has reserved and what it will free once committed.
type txn struct {
	s        *Services
	svc      *corev1.Service
	dryRun   bool
	newIPs   []string
	oldIPs   []string
	newPorts []int
	oldPorts []int
}

func (s *Services) begin(ctx context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error) {
	t := &txn{s: s, dryRun: req.Options.DryRun}
	var svc, prev *corev1.Service
	if old != nil {
		prev = old.(*corev1.Service)
		t.svc = prev
	}
	if obj != nil {
		svc = obj.(*corev1.Service)
		t.svc = svc
		if req.Subresource != "" || svc.Name == "" { // validation refuses the latter
			return nil, nil
		}
		if err := t.allocate(ctx, svc, prev); err != nil {
			t.end(context.WithoutCancel(ctx), false)
			return nil, err
		}
	} else {
		t.oldIPs, t.oldPorts = clusterIPs(prev), nodePorts(prev)
	}
	return func(committed bool) { t.end(context.WithoutCancel(ctx), committed) }, nil
}

// allocate fills in what the Service asks for and plans what is freed.
func (t *txn) allocate(ctx context.Context, svc, old *corev1.Service) error {
	if old != nil {
		t.keep(svc, old)
	}
	if needsIP(svc) {
		if err := t.families(svc, old); err != nil {
			return err
		}
		if err := t.addresses(ctx, svc, old); err != nil {
			return err
		}
	}
	if err := t.nodePorts(ctx, svc, old); err != nil {
		return err
	}
	if old != nil {
		for _, ip := range clusterIPs(old) {
			if !slices.Contains(clusterIPs(svc), ip) {
				t.oldIPs = append(t.oldIPs, ip)
			}
		}
		now := nodePorts(svc)
		for _, p := range nodePorts(old) {
			if !slices.Contains(now, p) {
				t.oldPorts = append(t.oldPorts, p)
			}
		}
	}
	return nil
}

// keep carries over what an update left out, and clears what the new type
// has no use for.
func (t *txn) keep(svc, old *corev1.Service) {
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		if old.Spec.Type == corev1.ServiceTypeExternalName {
			break
		}
		if svc.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(svc.Spec.IPFamilies, old.Spec.IPFamilies) {
			svc.Spec.IPFamilies = nil
		}
		if ptr.Equal(svc.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
			svc.Spec.IPFamilyPolicy = nil
		}
	case old.Spec.Type != corev1.ServiceTypeExternalName:
		if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = old.Spec.ClusterIP, slices.Clone(old.Spec.ClusterIPs)
		}
		if svc.Spec.IPFamilyPolicy == nil {
			svc.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
		if len(svc.Spec.IPFamilies) == 0 {
			svc.Spec.IPFamilies = slices.Clone(old.Spec.IPFamilies)
		}
	}
	keepPorts(svc, old)
}

func keepPorts(svc, old *corev1.Service) {
	if needsNodePort(svc) && needsNodePort(old) {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			for _, o := range old.Spec.Ports {
				if p.NodePort == 0 && o.NodePort != 0 && o.Port == p.Port && o.Protocol == p.Protocol {
					p.NodePort = o.NodePort
				}
			}
		}
		if svc.Spec.HealthCheckNodePort == 0 && needsHealthPort(svc) && needsHealthPort(old) {
			svc.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
		}
	} else if !mayHaveNodePort(svc) && needsNodePort(old) {
		before := nodePorts(old)
		for i := range svc.Spec.Ports {
			if slices.Contains(before, int(svc.Spec.Ports[i].NodePort)) {
				svc.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if !needsHealthPort(svc) && svc.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		svc.Spec.HealthCheckNodePort = 0
	}
}

// served refuses addresses of a family that the cluster does not have.
func (t *txn) served(svc *corev1.Service) error {
	for i, ip := range svc.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue // None
		}
		family := corev1.IPv4Protocol
		if a.Is6() {
			family = corev1.IPv6Protocol
		}
		if t.s.rangeOf(family) == nil {
			return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, field.ErrorList{field.Invalid(
				field.NewPath("spec", "clusterIPs").Index(i), svc.Spec.ClusterIPs, string(family)+" is not configured on this cluster")})
		}
	}
	return nil
}

// families settles ipFamilyPolicy and ipFamilies.
func (t *txn) families(svc, old *corev1.Service) error {
	var stored corev1.ServiceSpec
	if old != nil {
		stored = old.Spec
	}
	if errs := core.ValidateClusterIPs(&svc.Spec, &stored); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, errs)
	}
	if err := t.served(svc); err != nil {
		return err
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	if svc.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case headless && len(svc.Spec.Selector) == 0:
			policy = corev1.IPFamilyPolicyRequireDualStack
		case len(svc.Spec.ClusterIPs) == 2 || len(svc.Spec.IPFamilies) == 2:
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		svc.Spec.IPFamilyPolicy = ptr.To(policy)
	}
	if !headless {
		for i, ip := range svc.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil && i >= len(svc.Spec.IPFamilies) {
				f := corev1.IPv4Protocol
				if a.Is6() {
					f = corev1.IPv6Protocol
				}
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, f)
			}
		}
	}
	for i, f := range svc.Spec.IPFamilies {
		if t.s.rangeOf(f) == nil && !(headless && len(svc.Spec.Selector) == 0) {
			return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"),
			})
		}
	}
	if *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(t.s.ips) < 2 && !(headless && len(svc.Spec.Selector) == 0) {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *svc.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"),
		})
	}
	want := 1
	if *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		want = 2
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = []corev1.IPFamily{t.s.ips[0].family()}
	}
	if want == 2 && len(svc.Spec.IPFamilies) == 1 {
		other := corev1.IPv6Protocol
		if svc.Spec.IPFamilies[0] == other {
			other = corev1.IPv4Protocol
		}
		if t.s.rangeOf(other) != nil || headless && len(svc.Spec.Selector) == 0 {
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, other)
		}
	}
	if want == 1 && len(svc.Spec.IPFamilies) > 1 {
		svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1]
		if len(svc.Spec.ClusterIPs) > 1 {
			svc.Spec.ClusterIPs = svc.Spec.ClusterIPs[:1]
		}
	}
	return nil
}

func (s *Services) rangeOf(f corev1.IPFamily) *ipRange {
	for _, r := range s.ips {
		if r.family() == f {
			return r
		}
	}
	return nil
}

// addresses allocates one cluster IP for each family.
func (t *txn) addresses(ctx context.Context, svc, old *corev1.Service) error {
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		svc.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
		return nil
	}
	if old != nil && old.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil // validation has the words for it
	}
	var had []string
	if old != nil {
		had = clusterIPs(old)
	}
	for i, f := range svc.Spec.IPFamilies {
		r := t.s.rangeOf(f)
		path := field.NewPath("spec", "clusterIPs")
		if i < len(svc.Spec.ClusterIPs) && svc.Spec.ClusterIPs[i] != "" {
			ip := svc.Spec.ClusterIPs[i]
			if i < len(had) {
				continue // it stays, or validation has the words for the change
			}
			a, err := netip.ParseAddr(ip)
			if err != nil {
				continue // validation has the words for it
			}
			begin := time.Now()
			err = r.take(ctx, a, svc, t.dryRun)
			if !t.dryRun {
				t.s.counts.ip(r.prefix, static, err, time.Since(begin))
			}
			if err != nil {
				return t.failed(svc, path, svc.Spec.ClusterIPs, err, "failed to allocate IP %s: %v", ip, err)
			}
			t.newIPs = append(t.newIPs, ip)
			continue
		}
		begin := time.Now()
		a, err := r.next(ctx, svc, t.dryRun)
		if !t.dryRun {
			t.s.counts.ip(r.prefix, dynamic, err, time.Since(begin))
		}
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		t.newIPs = append(t.newIPs, a.String())
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs[:i], a.String())
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	return nil
}

// failed makes the answer for an address that cannot be had: the user's
// mistake is Invalid, a failing store stays what it is.
func (t *txn) failed(svc *corev1.Service, path *field.Path, value any, cause error, format string, args ...any) error {
	var status apierrors.APIStatus
	if errors.As(cause, &status) {
		return cause
	}
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name,
		field.ErrorList{field.Invalid(path, value, fmt.Sprintf(format, args...))})
}

// nodePorts allocates node ports and the health check port. One number may
// serve TCP and UDP of the same Service.
func (t *txn) nodePorts(ctx context.Context, svc, old *corev1.Service) error {
	var had []int
	if old != nil {
		had = nodePorts(old)
	}
	reserve := func(path *field.Path, port int) error {
		if slices.Contains(had, port) || slices.Contains(t.newPorts, port) {
			return nil
		}
		err := t.s.ports.take(ctx, port, t.dryRun)
		if !t.dryRun {
			t.s.counts.port(static, err)
		}
		if err != nil {
			return t.failed(svc, path, port, err, "%v", err)
		}
		t.newPorts = append(t.newPorts, port)
		return nil
	}
	choose := func() (int, error) {
		port, err := t.s.ports.next(ctx, t.dryRun)
		if !t.dryRun {
			t.s.counts.port(dynamic, err)
		}
		if err != nil {
			return 0, apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		t.newPorts = append(t.newPorts, port)
		return port, nil
	}
	if mayHaveNodePort(svc) {
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; p.NodePort != 0 {
				if err := reserve(field.NewPath("spec", "ports").Index(i).Child("nodePort"), int(p.NodePort)); err != nil {
					return err
				}
			}
		}
	}
	if needsNodePort(svc) {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			if p.NodePort != 0 {
				continue
			}
			if shared := sharedPort(svc, i); shared != 0 {
				p.NodePort = shared
				continue
			}
			port, err := choose()
			if err != nil {
				return err
			}
			p.NodePort = int32(port)
		}
	}
	if old != nil && needsHealthPort(old) && needsHealthPort(svc) {
		return nil // it stays, or validation has the words for the change
	}
	if needsHealthPort(svc) {
		if port := int(svc.Spec.HealthCheckNodePort); port != 0 {
			return reserve(field.NewPath("spec", "healthCheckNodePort"), port)
		}
		port, err := choose()
		if err != nil {
			return err
		}
		svc.Spec.HealthCheckNodePort = int32(port)
	}
	return nil
}

// sharedPort finds the node port of the same port number under another
// protocol.
func sharedPort(svc *corev1.Service, i int) int32 {
	for j, o := range svc.Spec.Ports {
		if j != i && o.NodePort != 0 && o.Port == svc.Spec.Ports[i].Port && o.Protocol != svc.Spec.Ports[i].Protocol {
			return o.NodePort
		}
	}
	return 0
}

// end keeps or undoes what the write reserved. A failure to free is logged
// and mended by Keep or the next Repair: the write itself is decided.
func (t *txn) end(ctx context.Context, committed bool) {
	if t.dryRun {
		return
	}
	ips, ports := t.newIPs, t.newPorts
	if committed {
		ips, ports = t.oldIPs, t.oldPorts
	}
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		for _, r := range t.s.ips {
			if r.holds(a) {
				if err := r.release(ctx, ip, t.svc); err != nil {
					t.s.log.Warn("cluster IP not released, it will be later", "ip", ip, "service", t.svc.Namespace+"/"+t.svc.Name, "error", err)
				}
			}
		}
	}
	if err := t.s.ports.release(ctx, ports...); err != nil {
		t.s.log.Warn("node ports not released, the next start repairs them", "ports", ports, "service", t.svc.Namespace+"/"+t.svc.Name, "error", err)
	}
}

func needsIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// needsNodePort says that each port gets a node port.
func needsNodePort(s *corev1.Service) bool {
	return mayHaveNodePort(s) && (s.Spec.Type == corev1.ServiceTypeNodePort || ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true))
}

// mayHaveNodePort says that node ports that somebody asks for are given.
func mayHaveNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// clusterIPs are the allocated addresses of a Service.
func clusterIPs(s *corev1.Service) []string {
	if !needsIP(s) || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	return s.Spec.ClusterIPs
}

// nodePorts are the allocated ports of a Service, each once.
func nodePorts(s *corev1.Service) []int {
	var out []int
	add := func(p int32) {
		if p != 0 && !slices.Contains(out, int(p)) {
			out = append(out, int(p))
		}
	}
	if mayHaveNodePort(s) {
		for _, p := range s.Spec.Ports {
			add(p.NodePort)
		}
		add(s.Spec.HealthCheckNodePort)
	}
	return out
}

// Repair makes addresses and ports agree with the Services that exist: what a
// crash between two writes left is freed or claimed again. What is young may
// belong to a Service that another server is just making, and ports tell no age:
// those are left to Keep.
func (s *Services) Repair(ctx context.Context, c client.Interface) error {
	services, _, err := client.Services.In(c, "").List(ctx, client.Options{})
	if err != nil {
		return fmt.Errorf("list services for repair: %w", err)
	}
	var ports []int
	owner := map[string]*corev1.Service{}
	for _, svc := range services {
		ports = append(ports, nodePorts(svc)...)
		for _, ip := range clusterIPs(svc) {
			owner[ip] = svc
		}
	}
	leaked, err := s.ports.repair(ctx, ports)
	if err != nil {
		return fmt.Errorf("repair node ports: %w", err)
	}
	s.mu.Lock()
	s.leaked = leaked
	s.mu.Unlock()
	taken, _, err := client.IPAddresses.In(c, "").List(ctx, client.Options{})
	if err != nil {
		return fmt.Errorf("list IP addresses for repair: %w", err)
	}
	for _, ip := range taken {
		svc := owner[ip.Name]
		ref := ip.Spec.ParentRef
		if svc != nil && ref != nil && ref.Namespace == svc.Namespace && ref.Name == svc.Name {
			delete(owner, ip.Name)
			continue
		}
		if ip.Labels[labelManagedBy] != managedBy || time.Since(ip.CreationTimestamp.Time) < Grace {
			continue
		}
		if err := client.IPAddresses.In(c, "").Delete(ctx, ip.Name, client.Options{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("free leaked cluster IP %s: %w", ip.Name, err)
		}
	}
	for ip, svc := range owner {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		for _, r := range s.ips {
			if r.holds(a) {
				if err := r.take(ctx, a, svc, false); err != nil {
					s.log.Warn("cluster IP of a Service could not be claimed", "ip", ip, "service", svc.Namespace+"/"+svc.Name, "error", err)
				}
			}
		}
	}
	return nil
}
