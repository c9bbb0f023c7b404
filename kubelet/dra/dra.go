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
	// busy are the claims that drivers are being called for, so that a claim
	// that pods share is prepared once. Who waits for one waits for no other.
	busy busy

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
