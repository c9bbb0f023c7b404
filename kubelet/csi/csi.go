// Package csi has CSI drivers put volumes in place on this node: pods' volumes
// flow in, the drivers that registered are called over their sockets
// (Container Storage Interface 1.x), and paths to mount into containers flow
// out. What was asked of a driver is on disk before it is asked, so that
// whatever a kubelet began its successor finishes.
package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/plugins"
)

// Name is how the API calls this kind of volume ("kubernetes.io/csi/<driver>^<handle>").
const Name = "kubernetes.io/csi"

// Config is what a Manager needs.
type Config struct {
	// Client carries the node's identity.
	Client   client.Interface
	NodeName string
	// PluginDir holds the folder plugins, below which volumes are staged.
	PluginDir string
	// PodDir is the folder of one pod, PodsDir that of all.
	PodDir  func(types.UID) string
	PodsDir string
	// Token makes a service-account token for a pod and says when it ends.
	Token func(ctx context.Context, pod *corev1.Pod, audience string, seconds *int64) (token string, expires time.Time, err error)
	// Changed is called when a driver has come, for those that wait for it;
	// InUseChanged when InUse returns something else.
	Changed, InUseChanged func()
	Events                func() client.Recorder
	Log                   *slog.Logger
	Clock                 clock.WithDelayedExecution
}

// callTimeout bounds a call to a driver, attachTimeout the wait for a volume
// to be attached. refresh is how often drivers that ask for it are told of a
// published volume again, and how often claims are looked at for a new size.
const (
	callTimeout   = 2 * time.Minute
	attachTimeout = 2 * time.Minute
	refresh       = time.Minute
)

// Manager knows the drivers and the volumes of the node. It is safe for
// concurrent use; one pod is mounted or unmounted by one caller at a time.
type Manager struct {
	cfg Config

	registering sync.Mutex // held while the node's CSINode is written
	stats       heard
	drops       sync.WaitGroup // of volumes that are being taken off the node

	mu       sync.Mutex
	ctx      context.Context
	drivers  map[string]*driver
	volumes  map[volumeID]*volume
	info     *client.Informers // of CSIDriver objects, from the first driver on
	objects  client.Informer[*storagev1.CSIDriver]
	reported map[corev1.UniqueVolumeName]bool // in use, as the API shows the node
	telling  chan struct{}                    // closed when reported changes
}

// driver is one that registered.
type driver struct {
	name, endpoint string
	timer          clock.Timer // of the next look at how many volumes it takes
}

// volumeID names a volume: drivers give handles.
type volumeID struct{ driver, handle string }

// unique is the volume's name in a node's status.
func (id volumeID) unique() corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName(Name + "/" + id.driver + "^" + id.handle)
}

// volume is one that pods of this node use or used.
type volume struct {
	// busy holds a value while a driver works on the volume.
	busy chan struct{}
	// attached says that it is one that is attached to nodes.
	attached bool
	// pods are those that use it, or are about to, with what each has; guarded
	// by the manager's lock.
	pods     map[types.UID]*use
	dropping bool // it is being taken off the node; guarded by the manager's lock
	// Of whoever is busy with it: staged says that a driver was asked to stage
	// it, by this process or (recalled) before it, ready that this process had
	// it staged.
	staged, recalled, ready bool
}

// use is one pod's use of a volume, by whoever works on the pod.
type use struct {
	published map[string]*published // by the pod's name of it
}

type published struct {
	path  string
	again time.Time // when the driver is to be asked again; zero for never
	look  time.Time // when the claim is to be looked at; zero for never
	block bool
}

// New makes a manager that knows what is on disk.
func New(cfg Config) *Manager {
	m := &Manager{
		cfg: cfg, ctx: context.Background(), drivers: map[string]*driver{}, volumes: map[volumeID]*volume{},
		reported: map[corev1.UniqueVolumeName]bool{}, telling: make(chan struct{}),
	}
	m.recall()
	return m
}

// Run gives what the manager does by itself its context, and keeps the node's
// CSINode object there. It returns when that is done.
func (m *Manager) Run(ctx context.Context) {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		err := m.writeNode(ctx, func(*storagev1.CSINode) bool { return false })
		if err == nil || ctx.Err() != nil {
			break
		}
		m.cfg.Log.Debug("cannot make the node's CSINode, will retry", "error", err)
		t := m.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// Register takes in a driver; it implements plugins.Handler.
func (m *Manager) Register(ctx context.Context, p plugins.Plugin) error {
	if !supported(p.Versions) {
		return fmt.Errorf("%s: none of the CSI versions %v of driver %q is supported", Name, p.Versions, p.Name)
	}
	d := &driver{name: p.Name, endpoint: p.Endpoint}
	info, err := d.nodeInfo(ctx)
	if err != nil {
		return fmt.Errorf("%s: error during CSI NodeGetInfo() call: %w", Name, err)
	}
	if info.NodeId == "" {
		return fmt.Errorf("%s: driver %q returned an empty node id", Name, p.Name)
	}
	if err := m.writeNode(ctx, func(n *storagev1.CSINode) bool { return setDriver(n, p.Name, info) }); err != nil {
		return fmt.Errorf("%s: error updating CSINode object with CSI driver node info: %w", Name, err)
	}
	if err := m.writeLabels(ctx, p.Name, info); err != nil {
		return fmt.Errorf("%s: error updating Node object with CSI driver node info: %w", Name, err)
	}
	m.mu.Lock()
	if old := m.drivers[p.Name]; old != nil && old.timer != nil {
		old.timer.Stop()
	}
	m.drivers[p.Name] = d
	m.mu.Unlock()
	m.follow()
	m.schedule(d)
	m.cfg.Changed()
	return nil
}

// supported says that a driver speaks a version of CSI 1.
func supported(versions []string) bool {
	for _, v := range versions {
		major, _, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
		if n, err := strconv.Atoi(major); err == nil && n == 1 {
			return true
		}
	}
	return false
}

// Deregister lets a driver go.
func (m *Manager) Deregister(p plugins.Plugin) {
	m.mu.Lock()
	d, ctx := m.drivers[p.Name], m.ctx
	if d == nil || d.endpoint != p.Endpoint {
		m.mu.Unlock()
		return
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	delete(m.drivers, p.Name)
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := m.writeNode(ctx, func(n *storagev1.CSINode) bool { return dropDriver(n, p.Name) }); err != nil && ctx.Err() == nil {
		m.cfg.Log.Warn("cannot take a driver off the node's CSINode", "driver", p.Name, "error", err)
	}
}

// driver returns one that is registered.
func (m *Manager) driver(name string) (*driver, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.drivers[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// session is a connection to a driver, made for a few calls: an idle node
// holds none, and a driver that was restarted is found at once.
type session struct {
	conn *grpc.ClientConn
	csiapi.NodeClient
}

func (d *driver) open() (*session, error) {
	conn, err := plugins.Dial(d.endpoint)
	if err != nil {
		return nil, fmt.Errorf("connect to driver %s: %w", d.name, err)
	}
	return &session{conn, csiapi.NewNodeClient(conn)}, nil
}

func (s *session) close() { s.conn.Close() }

func (d *driver) nodeInfo(ctx context.Context) (*csiapi.NodeGetInfoResponse, error) {
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	defer s.close()
	return s.NodeGetInfo(ctx, &csiapi.NodeGetInfoRequest{})
}

// abilities are the capabilities of a driver's node service.
type abilities map[csiapi.NodeServiceCapability_RPC_Type]bool

func (s *session) abilities(ctx context.Context) (abilities, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := s.NodeGetCapabilities(ctx, &csiapi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	return abilitiesOf(res), nil
}

func abilitiesOf(res *csiapi.NodeGetCapabilitiesResponse) abilities {
	out := abilities{}
	for _, c := range res.GetCapabilities() {
		out[c.GetRpc().GetType()] = true
	}
	return out
}

// object returns the driver's CSIDriver object, nil where there is none.
func (m *Manager) object(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	m.follow()
	if !client.WaitForSync(ctx, m.objects.HasSyncedChecker()) {
		return nil, fmt.Errorf("read CSIDriver %s: %w", name, context.Cause(ctx))
	}
	if d, ok := m.objects.Get("", name); ok {
		return d, nil
	}
	// It may have been made a moment ago, for this very pod.
	d, err := client.CSIDrivers.In(m.cfg.Client, "").Get(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CSIDriver %s: %w", name, err)
	}
	return d, nil
}

// follow begins to watch CSIDriver objects, with the first driver: most nodes
// have none.
func (m *Manager) follow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.info != nil {
		return
	}
	m.info = client.NewInformers(m.cfg.Client)
	m.objects = client.InformerFor(m.info, client.CSIDrivers)
	if _, err := m.objects.OnChange(func(now, old *storagev1.CSIDriver) {
		if now == nil {
			return
		}
		m.mu.Lock()
		d := m.drivers[now.Name]
		m.mu.Unlock()
		if now.Spec.AttachRequired != nil && !*now.Spec.AttachRequired {
			m.detached(now.Name)
		}
		if d != nil && (old == nil || period(old) != period(now)) {
			go m.schedule(d)
		}
	}); err != nil {
		m.cfg.Log.Error("cannot follow CSIDriver objects", "error", err)
	}
	m.info.Start(m.ctx)
}

// final says that a driver has certainly not done, and will not do, what it
// was asked. Other errors leave that open (CSI specification, error scheme).
func final(err error) bool {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return false
	}
	switch s.GRPCStatus().Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}

// infeasible says that what was asked for will never be possible (KEP-1790).
func infeasible(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		return true
	}
	return false
}

func (m *Manager) root() string {
	return filepath.Join(m.cfg.PluginDir, "plugins", "kubernetes.io", "csi")
}
