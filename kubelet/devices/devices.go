// Package devices gives the devices of device plugins to containers: plugins
// register over a socket and list their devices (device plugin API v1beta1),
// containers' wishes flow in, and what the runtime must be told flows out.
package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/kubelet/numa"
)

// Config is what a Manager needs.
type Config struct {
	// Dir holds the sockets of the plugins, kubelet.sock for registration, and
	// the checkpoint.
	Dir string
	// Changed is called, without locks held, when capacities have changed.
	Changed func()
	Log     *slog.Logger
	Clock   clock.WithDelayedExecution
}

// Bounds of calls to plugins, and how long a resource is remembered whose
// plugin is gone.
const (
	callTimeout = 30 * time.Second
	forgetAfter = 5 * time.Minute
)

// Manager knows the plugins and who has which device. It is safe for
// concurrent use; Allocate calls must come one at a time.
type Manager struct {
	cfg Config

	mu        sync.Mutex
	endpoints map[string]*endpoint                       // by resource
	grants    map[types.UID]map[string]map[string]*grant // by pod, container, resource
}

// endpoint is one plugin.
type endpoint struct {
	resource string
	options  *pluginapi.DevicePluginOptions
	conn     *grpc.ClientConn
	client   pluginapi.DevicePluginClient
	cancel   context.CancelFunc
	devices  map[string]*pluginapi.Device
	gone     time.Time // when the plugin went; zero while it is there
}

// grant is what a container has of one resource.
type grant struct {
	IDs    []string `json:"ids"`
	Answer []byte   `json:"answer"` // pluginapi.ContainerAllocateResponse, in protobuf
}

// New makes a manager and takes up what its checkpoint holds.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, endpoints: map[string]*endpoint{}, grants: map[types.UID]map[string]map[string]*grant{}}
	return m, m.recall()
}

// Run serves the registration socket until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := os.MkdirAll(m.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("folder of device plugins: %w", err)
	}
	// Plugins watch for this socket: that it is made anew tells them to
	// register again. Sockets of their own that are left are of no use.
	entries, _ := os.ReadDir(m.cfg.Dir)
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			os.Remove(filepath.Join(m.cfg.Dir, e.Name()))
		}
	}
	l, err := net.Listen("unix", filepath.Join(m.cfg.Dir, "kubelet.sock"))
	if err != nil {
		return fmt.Errorf("device plugins' registration: %w", err)
	}
	s := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(s, &registration{m: m, ctx: ctx})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("device plugins' registration: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.endpoints {
		e.close()
	}
	return nil
}

type registration struct {
	pluginapi.UnimplementedRegistrationServer
	m   *Manager
	ctx context.Context
}

// Register takes in a plugin (device plugin API).
func (r *registration) Register(_ context.Context, req *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if !slices.Contains(pluginapi.SupportedVersions[:], req.Version) {
		return nil, fmt.Errorf("unsupported device plugin API version %q, want %s", req.Version, pluginapi.Version)
	}
	if err := checkName(req.ResourceName); err != nil {
		return nil, err
	}
	if req.Endpoint == "" || filepath.Base(req.Endpoint) != req.Endpoint {
		return nil, fmt.Errorf("the endpoint %q is no name of a socket in the folder of device plugins", req.Endpoint)
	}
	return &pluginapi.Empty{}, r.m.connect(r.ctx, req.ResourceName, filepath.Join(r.m.cfg.Dir, req.Endpoint), req.Options)
}

// checkName says that a name is one of an extended resource.
func checkName(name string) error {
	domain, _, ok := strings.Cut(name, "/")
	if !ok || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasPrefix(name, "requests.") ||
		len(validation.IsQualifiedName(name)) > 0 || len(validation.IsQualifiedName("requests."+name)) > 0 {
		return fmt.Errorf("invalid name of an extended resource: %q", name)
	}
	return nil
}

// connect follows a plugin's devices from now on, in place of an earlier one
// for the same resource.
func (m *Manager) connect(ctx context.Context, name, socket string, options *pluginapi.DevicePluginOptions) error {
	conn, err := grpc.NewClient("passthrough:///unix", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return err
	}
	e := &endpoint{resource: name, options: options, conn: conn, client: pluginapi.NewDevicePluginClient(conn), devices: map[string]*pluginapi.Device{}}
	ctx, e.cancel = context.WithCancel(ctx)
	m.mu.Lock()
	old := m.endpoints[name]
	m.endpoints[name] = e
	if old != nil {
		e.devices = old.devices // until the new one has listed its own
		old.close()
	}
	m.mu.Unlock()
	m.cfg.Log.Info("a device plugin registered", "resource", name)
	go m.follow(ctx, e)
	return nil
}

func (e *endpoint) close() {
	e.cancel()
	if e.conn != nil { // one of the checkpoint has none
		e.conn.Close()
	}
}

// follow takes in what a plugin lists until it goes.
func (m *Manager) follow(ctx context.Context, e *endpoint) {
	stream, err := e.client.ListAndWatch(ctx, &pluginapi.Empty{})
	for err == nil {
		var list *pluginapi.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			m.listed(e, list.Devices)
		}
	}
	m.mu.Lock()
	current := m.endpoints[e.resource] == e && ctx.Err() == nil
	if current {
		e.gone = m.cfg.Clock.Now()
		for _, d := range e.devices {
			d.Health = pluginapi.Unhealthy
		}
	}
	m.mu.Unlock()
	if !current {
		return
	}
	m.cfg.Log.Warn("a device plugin is gone", "resource", e.resource, "error", err)
	m.cfg.Changed()
	// The node's status forgets the resource when the plugin stays away.
	m.cfg.Clock.AfterFunc(forgetAfter, m.cfg.Changed)
}

func (m *Manager) listed(e *endpoint, list []*pluginapi.Device) {
	devices := make(map[string]*pluginapi.Device, len(list))
	for _, d := range list {
		devices[d.ID] = d
	}
	m.mu.Lock()
	e.devices = devices
	err := m.save()
	m.mu.Unlock()
	if err != nil {
		m.cfg.Log.Warn("cannot keep which devices there are", "error", err)
	}
	m.cfg.Changed()
}

// Capacity returns how many devices there are of each resource, and how many
// of them are well. gone names resources whose plugins have left for good.
func (m *Manager) Capacity() (capacity, allocatable corev1.ResourceList, gone []corev1.ResourceName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, e := range m.endpoints {
		if !e.gone.IsZero() && m.cfg.Clock.Since(e.gone) >= forgetAfter {
			delete(m.endpoints, name)
			gone = append(gone, corev1.ResourceName(name))
			continue
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(e.devices)), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(e.healthy())), resource.DecimalSI)
	}
	return capacity, allocatable, gone
}

func (e *endpoint) healthy() []string {
	var out []string
	for id, d := range e.devices {
		if d.Health == pluginapi.Healthy {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Manages says that a plugin registered for a resource, now or before the
// kubelet restarted.
func (m *Manager) Manages(name corev1.ResourceName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.endpoints[string(name)] != nil
}

// Health tells how a device is; it is unknown while its plugin is away.
func (m *Manager) Health(resource, id string) corev1.ResourceHealthStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.endpoints[resource]
	switch {
	case e == nil, !e.gone.IsZero(), e.devices[id] == nil:
		return corev1.ResourceHealthStatusUnknown
	case e.devices[id].Health == pluginapi.Healthy:
		return corev1.ResourceHealthStatusHealthy
	}
	return corev1.ResourceHealthStatusUnhealthy
}

// checkpoint is what outlives a restart of the kubelet.
type checkpoint struct {
	Grants  map[types.UID]map[string]map[string]*grant `json:"grants"`
	Devices map[string][]string                        `json:"devices"`
}

func (m *Manager) file() string { return filepath.Join(m.cfg.Dir, "cox_checkpoint.json") }

// save writes the checkpoint. Call with the lock held.
func (m *Manager) save() error {
	c := checkpoint{Grants: m.grants, Devices: map[string][]string{}}
	for name, e := range m.endpoints {
		c.Devices[name] = slices.Sorted(maps.Keys(e.devices))
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.cfg.Dir, 0o750); err != nil {
		return err
	}
	return atomicfile.Write(m.file(), b, 0o600)
}

func (m *Manager) recall() error {
	b, err := os.ReadFile(m.file())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("which devices containers have: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("which devices containers have: %s: %w", m.file(), err)
	}
	if c.Grants != nil {
		m.grants = c.Grants
	}
	for name, ids := range c.Devices {
		e := &endpoint{resource: name, devices: map[string]*pluginapi.Device{}, gone: m.cfg.Clock.Now(), cancel: func() {}}
		for _, id := range ids {
			e.devices[id] = &pluginapi.Device{ID: id, Health: pluginapi.Unhealthy}
		}
		m.endpoints[name] = e
	}
	return nil
}

// hintsOf are the nodes of a device; none means that it is near to all.
func hintsOf(d *pluginapi.Device) numa.Mask {
	var out numa.Mask
	for _, n := range d.GetTopology().GetNodes() {
		if n.ID >= 0 && n.ID < 64 {
			out |= 1 << n.ID
		}
	}
	return out
}
