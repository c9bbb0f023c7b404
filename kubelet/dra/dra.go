// Package dra has drivers prepare the devices of resource claims (dynamic
// resource allocation, KEP-4381): pods with claims flow in, the drivers that
// registered are called, and the devices' CDI names flow out.
package dra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/kubelet/plugins"
)

// Config is what a Manager needs.
type Config struct {
	Client   client.Interface
	NodeName string
	Dir      string // holds the checkpoint, dra_manager_state
	Log      *slog.Logger
	Clock    clock.WithDelayedExecution
	// Changed is called, without locks held, when devices may be better or
	// worse than they were; nil for nobody.
	Changed func()
}

// callTimeout bounds a call to a driver. wipeAfter is how long a driver may be
// away before what it offered is deleted (KEP-4381).
const (
	callTimeout = 45 * time.Second
	wipeAfter   = 30 * time.Second
)

// Manager knows the drivers and what they have prepared. It is safe for
// concurrent use.
type Manager struct {
	cfg Config
	// preparing is held over the calls to drivers, so that a claim that pods
	// share is prepared once.
	preparing sync.Mutex

	mu      sync.Mutex
	drivers map[string]*driver
	claims  map[types.UID]*Claim

	counts counts
}

type driver struct {
	endpoint string
	conn     *grpc.ClientConn
	client   drav1.DRAPluginClient
	cancel   context.CancelFunc // ends the watch of health
	health   map[deviceID]Health
	aging    clock.Timer // until the first of health is too old
	before   *driver     // an instance that registered earlier
}

// Claim is a claim that was prepared on this node, or is to be unprepared.
type Claim struct {
	UID       types.UID           `json:"uid"`
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Pods      []types.UID         `json:"pods"`
	Devices   map[string][]Device `json:"devices"` // by driver
	Ready     bool                `json:"ready"`
}

// Device is a device of a claim, and the requests of the claim that it is for.
type Device struct {
	Requests []string `json:"requests,omitempty"` // none: all
	Pool     string   `json:"pool"`
	Name     string   `json:"name"`
	Share    *string  `json:"share,omitempty"`
	CDI      []string `json:"cdi,omitempty"`
}

// New makes a manager and takes up what its checkpoint holds.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, drivers: map[string]*driver{}, claims: map[types.UID]*Claim{}, counts: newCounts()}
	b, err := os.ReadFile(m.file())
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m.claims)
	}
	if err != nil {
		return nil, fmt.Errorf("which claims were prepared: %w", err)
	}
	return m, nil
}

func (m *Manager) file() string { return filepath.Join(m.cfg.Dir, "dra_manager_state") }

// save writes the checkpoint. Call with the lock held.
func (m *Manager) save() error {
	b, err := json.Marshal(m.claims)
	if err != nil {
		return err
	}
	return atomicfile.Write(m.file(), b, 0o600)
}

// Register takes in a driver; it implements plugins.Handler.
func (m *Manager) Register(_ context.Context, p plugins.Plugin) error {
	conn, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	d := &driver{endpoint: p.Endpoint, conn: conn}
	switch {
	case slices.Contains(p.Versions, drav1.DRAPluginService):
		d.client = drav1.NewDRAPluginClient(conn)
	case slices.Contains(p.Versions, drav1beta1.DRAPluginService):
		d.client = drav1beta1.V1Beta1ClientWrapper{DRAPluginClient: drav1beta1.NewDRAPluginClient(conn)}
	default:
		conn.Close()
		return fmt.Errorf("none of the DRA gRPC interfaces %v of driver %q is supported", p.Versions, p.Name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	m.mu.Lock()
	// During an update two instances of a driver are there (KEP-4381): the last
	// one is called, and the one before it again if that goes first.
	m.unlink(p)
	d.before = m.drivers[p.Name]
	m.drivers[p.Name] = d
	m.mu.Unlock()
	if slices.Contains(p.Versions, healthv1alpha1.DRAResourceHealth_ServiceDesc.ServiceName) {
		go m.watchHealth(ctx, p.Name, d)
	}
	return nil
}

// Deregister lets a driver go. If it stays away, what it offered is deleted,
// so that nothing is placed on it.
func (m *Manager) Deregister(p plugins.Plugin) {
	m.mu.Lock()
	ours := m.unlink(p)
	if ours && m.drivers[p.Name] == nil {
		m.cfg.Clock.AfterFunc(wipeAfter, func() { m.wipe(p.Name) })
	}
	m.mu.Unlock()
	if ours && m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

// unlink closes and forgets the instance of a driver at an endpoint; false when
// there is none. Call with the lock held.
func (m *Manager) unlink(p plugins.Plugin) bool {
	var after *driver
	for d := m.drivers[p.Name]; d != nil; after, d = d, d.before {
		if d.endpoint != p.Endpoint {
			continue
		}
		d.close()
		switch {
		case after != nil:
			after.before = d.before
		case d.before != nil:
			m.drivers[p.Name] = d.before
		default:
			delete(m.drivers, p.Name)
		}
		return true
	}
	return false
}

func (m *Manager) wipe(name string) {
	m.mu.Lock()
	back := m.drivers[name] != nil
	m.mu.Unlock()
	if back {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := client.ResourceSlices.In(m.cfg.Client, "").DeleteCollection(ctx, client.Options{FieldSelector: fields.SelectorFromSet(fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: m.cfg.NodeName, resourcev1.ResourceSliceSelectorDriver: name,
	})})
	if err != nil {
		m.cfg.Log.Warn("cannot delete what a driver offered that is gone", "driver", name, "error", err)
	}
}

// use is a claim as a pod refers to it.
type use struct {
	entry string // in pod.spec.resourceClaims; "" for an extended resource's
	name  string // of the ResourceClaim
}

// uses lists the claims of a pod.
func uses(pod *corev1.Pod) ([]use, error) {
	var out []use
	for i := range pod.Spec.ResourceClaims {
		c := &pod.Spec.ResourceClaims[i]
		if c.ResourceClaimName != nil {
			out = append(out, use{c.Name, *c.ResourceClaimName})
			continue
		}
		at := slices.IndexFunc(pod.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == c.Name })
		if at < 0 {
			return nil, fmt.Errorf("pod %q: pod claim %q not created yet", pod.Name, c.Name)
		}
		if n := pod.Status.ResourceClaimStatuses[at].ResourceClaimName; n != nil {
			out = append(out, use{c.Name, *n}) // else none was needed
		}
	}
	if e := pod.Status.ExtendedResourceClaimStatus; e != nil {
		out = append(out, use{"", e.ResourceClaimName})
	}
	return out, nil
}

// HasClaims says that a pod uses claims.
func HasClaims(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

// Prepare has the drivers prepare a pod's claims. It may be called again.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) (err error) {
	begin := m.cfg.Clock.Now()
	defer func() { m.counts.did("PrepareResources", m.cfg.Clock.Since(begin), err) }()
	list, err := uses(pod)
	if err != nil {
		return err
	}
	m.preparing.Lock()
	defer m.preparing.Unlock()
	work := map[string][]*Claim{} // by driver
	var claims []*resourcev1.ResourceClaim
	for _, u := range list {
		claim, err := client.ResourceClaims.In(m.cfg.Client, pod.Namespace).Get(ctx, u.name)
		if err != nil {
			return fmt.Errorf("fetch ResourceClaim %s: %w", u.name, err)
		}
		if err := mayUse(claim, pod); err != nil {
			return err
		}
		if claim.Status.Allocation == nil {
			return fmt.Errorf("claim %s not allocated", u.name)
		}
		// What no driver was asked for needs no driver to undo it.
		if err := m.askable(claim); err != nil {
			return err
		}
		claims = append(claims, claim)
	}
	for _, claim := range claims {
		if err := m.note(claim, pod, work); err != nil {
			return err
		}
	}
	for name, claims := range work {
		if err := m.prepare(ctx, name, claims); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, claims := range work {
		for _, c := range claims {
			c.Ready = true
		}
	}
	return m.save()
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

// note remembers that the pod uses a claim, before any driver is called, and
// adds to work what is to be prepared.
func (m *Manager) note(claim *resourcev1.ResourceClaim, pod *corev1.Pod, work map[string][]*Claim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
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
		for driver := range c.Devices {
			work[driver] = append(work[driver], c)
		}
	}
	return m.save()
}

// askable says that the drivers of a claim are there, unless they have been
// asked already, and that they have undone what they did for another of its
// name.
func (m *Manager) askable(claim *resourcev1.ResourceClaim) error {
	m.mu.Lock()
	known := m.claims[claim.UID] != nil
	var old *Claim
	for _, c := range m.claims {
		if c.UID != claim.UID && c.Namespace == claim.Namespace && c.Name == claim.Name {
			old = c
		}
	}
	m.mu.Unlock()
	if old != nil {
		return fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", old.Name, old.UID)
	}
	if known {
		return nil
	}
	for i := range claim.Status.Allocation.Devices.Results {
		if _, err := m.driver(claim.Status.Allocation.Devices.Results[i].Driver); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) driver(name string) (drav1.DRAPluginClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.drivers[name]
	if d == nil {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	return d.client, nil
}

// prepare calls one driver.
func (m *Manager) prepare(ctx context.Context, name string, claims []*Claim) error {
	c, err := m.driver(name)
	if err != nil {
		return err
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
		return fmt.Errorf("NodePrepareResources: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, claim := range claims {
		r := res.Claims[string(claim.UID)]
		if r == nil {
			return fmt.Errorf("NodePrepareResources skipped 1 ResourceClaims, first one: %s", claim.Name)
		}
		if r.Error != "" {
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", claim.Name, r.Error)
		}
		var devices []Device
		for _, d := range r.Devices {
			devices = append(devices, Device{Requests: d.RequestNames, Pool: d.PoolName, Name: d.DeviceName, Share: d.ShareId, CDI: d.CdiDeviceIds})
		}
		claim.Devices[name] = devices
	}
	return nil
}

// Unprepare has the drivers undo what only this pod used. It may be called
// again, and for pods without claims.
func (m *Manager) Unprepare(ctx context.Context, uid types.UID) (err error) {
	begin := m.cfg.Clock.Now()
	var last []*Claim
	shared := false
	defer func() {
		if shared || len(last) > 0 {
			m.counts.did("UnprepareResources", m.cfg.Clock.Since(begin), err)
		}
	}()
	m.preparing.Lock()
	defer m.preparing.Unlock()
	m.mu.Lock()
	for _, c := range m.claims {
		at := slices.Index(c.Pods, uid)
		switch {
		case at < 0:
		case len(c.Pods) == 1:
			last = append(last, c)
		default:
			c.Pods, shared = slices.Delete(c.Pods, at, at+1), true
		}
	}
	if shared {
		err = m.save()
	}
	m.mu.Unlock()
	for _, c := range last {
		for name := range c.Devices {
			if err := m.unprepare(ctx, name, c); err != nil {
				return err
			}
		}
		m.mu.Lock()
		delete(m.claims, c.UID)
		err = errors.Join(err, m.save())
		m.mu.Unlock()
	}
	return err
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

// Resource is what a container has of one claim.
type Resource struct {
	Claim, Namespace string
	Entry            string              // in pod.spec.resourceClaims; "" for an extended resource's
	Devices          map[string][]Device // by driver
}

// Of returns what a container of the pod has of its claims.
func (m *Manager) Of(pod *corev1.Pod, c *corev1.Container) []Resource {
	list, err := uses(pod)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Resource
	for _, u := range list {
		requests, all := requestsOf(pod, c, u)
		if !all && len(requests) == 0 {
			continue
		}
		for _, claim := range m.claims {
			if claim.Namespace != pod.Namespace || claim.Name != u.name || !slices.Contains(claim.Pods, pod.UID) {
				continue
			}
			r := Resource{Claim: claim.Name, Namespace: claim.Namespace, Entry: u.entry, Devices: map[string][]Device{}}
			for name, devices := range claim.Devices {
				for _, d := range devices {
					if all || d.IsFor(requests...) {
						r.Devices[name] = append(r.Devices[name], d)
					}
				}
			}
			out = append(out, r)
		}
	}
	return out
}

// requestsOf are the requests of a claim that a container uses.
func requestsOf(pod *corev1.Pod, c *corev1.Container, u use) (requests []string, all bool) {
	if u.entry == "" {
		for _, m := range pod.Status.ExtendedResourceClaimStatus.RequestMappings {
			if m.ContainerName == c.Name {
				requests = append(requests, m.RequestName)
			}
		}
		return requests, false
	}
	for _, r := range c.Resources.Claims {
		if r.Name == u.entry {
			if r.Request == "" {
				return nil, true
			}
			requests = append(requests, r.Request)
		}
	}
	return requests, false
}

// IsFor says that a device is for one of the requests; a device of one of a
// request's alternatives ("request/alternative") is for the request.
func (d *Device) IsFor(requests ...string) bool {
	if len(d.Requests) == 0 {
		return true
	}
	for _, of := range d.Requests {
		base, _, _ := strings.Cut(of, "/")
		if slices.Contains(requests, of) || slices.Contains(requests, base) {
			return true
		}
	}
	return false
}

// CDI returns the names of the CDI devices that a container gets.
func (m *Manager) CDI(pod *corev1.Pod, c *corev1.Container) []string {
	var out []string
	for _, r := range m.Of(pod, c) {
		for _, devices := range r.Devices {
			for _, d := range devices {
				out = append(out, d.CDI...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Pods lists the pods that have claims.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []types.UID
	for _, c := range m.claims {
		out = append(out, c.Pods...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
