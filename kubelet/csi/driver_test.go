package csi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	events "k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/plugins"
)

const driverName = "disk.example.com"

// fake is a driver. It keeps folders instead of mounts, and fails as it is
// told to.
type fake struct {
	csiapi.UnimplementedNodeServer
	socket string
	server *grpc.Server

	mu    sync.Mutex
	calls []string
	last  map[string]any // requests, by method
	fail  map[string]error
	hold  chan struct{} // NodePublishVolume waits for it, if set
	began chan string   // gets the methods that are called, if set
	data  string        // a folder that is mounted for real, if set
	can   []csiapi.NodeServiceCapability_RPC_Type
	most  int64
}

// start serves at the driver's socket; stop ends it as a crash would.
func (f *fake) start(t *testing.T) {
	t.Helper()
	os.Remove(f.socket)
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = grpc.NewServer()
	csiapi.RegisterNodeServer(f.server, f)
	go f.server.Serve(l)
}

func (f *fake) stop() { f.server.Stop() }

// enter notes a call and returns what it is to fail with, once.
func (f *fake) enter(method string, req any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
	if f.last == nil {
		f.last = map[string]any{}
	}
	f.last[method] = req
	if f.began != nil {
		f.began <- method
	}
	err := f.fail[method]
	delete(f.fail, method)
	return err
}

// took returns the calls since the last look.
func (f *fake) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.calls, " ")
	f.calls = nil
	return out
}

func (f *fake) failing(method string, code codes.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = map[string]error{method: status.Error(code, "as told")}
}

func (f *fake) NodeGetInfo(context.Context, *csiapi.NodeGetInfoRequest) (*csiapi.NodeGetInfoResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &csiapi.NodeGetInfoResponse{
		NodeId: "n-1", MaxVolumesPerNode: f.most,
		AccessibleTopology: &csiapi.Topology{Segments: map[string]string{"topology.example.com/zone": "z1"}},
	}, nil
}

func (f *fake) NodeGetCapabilities(context.Context, *csiapi.NodeGetCapabilitiesRequest) (*csiapi.NodeGetCapabilitiesResponse, error) {
	out := &csiapi.NodeGetCapabilitiesResponse{}
	for _, c := range f.can {
		out.Capabilities = append(out.Capabilities, &csiapi.NodeServiceCapability{Type: &csiapi.NodeServiceCapability_Rpc{Rpc: &csiapi.NodeServiceCapability_RPC{Type: c}}})
	}
	return out, nil
}

func (f *fake) NodeStageVolume(_ context.Context, r *csiapi.NodeStageVolumeRequest) (*csiapi.NodeStageVolumeResponse, error) {
	return &csiapi.NodeStageVolumeResponse{}, f.enter("stage", r)
}

func (f *fake) NodePublishVolume(ctx context.Context, r *csiapi.NodePublishVolumeRequest) (*csiapi.NodePublishVolumeResponse, error) {
	if err := f.enter("publish", r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r.VolumeCapability.GetBlock() != nil {
		return &csiapi.NodePublishVolumeResponse{}, os.WriteFile(r.TargetPath, nil, 0o600)
	}
	err := os.Mkdir(r.TargetPath, 0o750)
	if os.IsExist(err) {
		err = nil
	}
	if err == nil && f.data != "" {
		err = unix.Mount(f.data, r.TargetPath, "", unix.MS_BIND, "")
	}
	return &csiapi.NodePublishVolumeResponse{}, err
}

func (f *fake) NodeUnpublishVolume(_ context.Context, r *csiapi.NodeUnpublishVolumeRequest) (*csiapi.NodeUnpublishVolumeResponse, error) {
	if err := f.enter("unpublish", r); err != nil {
		return nil, err
	}
	if f.data != "" {
		if err := unix.Unmount(r.TargetPath, 0); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(r.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return &csiapi.NodeUnpublishVolumeResponse{}, nil
}

func (f *fake) NodeUnstageVolume(_ context.Context, r *csiapi.NodeUnstageVolumeRequest) (*csiapi.NodeUnstageVolumeResponse, error) {
	return &csiapi.NodeUnstageVolumeResponse{}, f.enter("unstage", r)
}

func (f *fake) NodeExpandVolume(_ context.Context, r *csiapi.NodeExpandVolumeRequest) (*csiapi.NodeExpandVolumeResponse, error) {
	return &csiapi.NodeExpandVolumeResponse{CapacityBytes: r.CapacityRange.RequiredBytes}, f.enter("expand", r)
}

func (f *fake) NodeGetVolumeStats(_ context.Context, r *csiapi.NodeGetVolumeStatsRequest) (*csiapi.NodeGetVolumeStatsResponse, error) {
	return &csiapi.NodeGetVolumeStatsResponse{
		Usage:           []*csiapi.VolumeUsage{{Unit: csiapi.VolumeUsage_BYTES, Total: 100, Used: 40, Available: 60}},
		VolumeCondition: &csiapi.VolumeCondition{Abnormal: true, Message: "on fire"},
	}, f.enter("stats", r)
}

// door is an API server that keeps objects by resource and name.
type door struct {
	mu       sync.Mutex
	objects  map[string]client.Object
	watchers map[string][]*watch.FakeWatcher
}

func (d *door) put(resource string, o client.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o.SetResourceVersion("1")
	d.objects[resource+"/"+o.GetName()] = o
	for _, w := range d.watchers[resource] {
		w.Modify(o)
	}
}

func (d *door) Do(_ context.Context, r *client.Request) (*client.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := r.Resource.Resource + "/" + r.Name
	have := d.objects[key]
	switch {
	case r.Verb == client.List:
		l := &client.ListResult{ResourceVersion: "1"}
		for k, o := range d.objects {
			if strings.HasPrefix(k, r.Resource.Resource+"/") {
				l.Items = append(l.Items, o)
			}
		}
		return &client.Result{List: l}, nil
	case r.Verb == client.Create:
		d.objects[r.Resource.Resource+"/"+r.Object.(client.Object).GetName()] = r.Object.(client.Object)
		return &client.Result{Object: r.Object}, nil
	case have == nil:
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	case r.Verb == client.Get:
		return &client.Result{Object: have}, nil
	case r.Verb == client.Update:
		d.objects[key] = r.Object.(client.Object)
		return &client.Result{Object: r.Object}, nil
	case r.Verb == client.Patch:
		was, err := json.Marshal(have)
		if err != nil {
			return nil, err
		}
		now, err := strategicpatch.StrategicMergePatch(was, r.Patch, have)
		if err != nil {
			return nil, err
		}
		out := &corev1.PersistentVolumeClaim{}
		err = json.Unmarshal(now, out)
		d.objects[key] = out
		return &client.Result{Object: out}, err
	}
	return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), string(r.Verb))
}

func (d *door) Watch(_ context.Context, r *client.Request) (watch.Interface, error) {
	if r.Options.SendInitialEvents != nil {
		return nil, apierrors.NewBadRequest("list first")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w := watch.NewFakeWithChanSize(100, false)
	if d.watchers == nil {
		d.watchers = map[string][]*watch.FakeWatcher{}
	}
	d.watchers[r.Resource.Resource] = append(d.watchers[r.Resource.Resource], w)
	return w, nil
}

// node is a kubelet's part, its driver and its API server.
type node struct {
	*Manager
	dir    string
	driver *fake
	door   *door
	events *events.FakeRecorder
	asked  chan struct{} // to report what is in use
}

func newNode(t *testing.T, can ...csiapi.NodeServiceCapability_RPC_Type) *node {
	t.Helper()
	dir := t.TempDir()
	// Paths of sockets are short.
	sockets, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, events: events.NewFakeRecorder(100), driver: &fake{socket: filepath.Join(sockets, "s"), can: can}, door: &door{objects: map[string]client.Object{}}}
	n.door.put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}})
	n.driver.start(t)
	t.Cleanup(func() { n.driver.stop(); os.RemoveAll(sockets) })
	n.restart(t)
	return n
}

// Unmount waits until the pod's volumes have left the node as well.
func (n *node) Unmount(ctx context.Context, uid types.UID) error {
	err := n.Manager.Unmount(ctx, uid)
	n.drops.Wait()
	return err
}

// restart is a new life of the kubelet.
func (n *node) restart(t *testing.T) {
	t.Helper()
	pods := filepath.Join(n.dir, "pods")
	asked := make(chan struct{}, 10)
	n.asked = asked // earlier lives may still be told of things
	var m *Manager
	m = New(Config{
		Client: n.door, NodeName: "n1", PluginDir: n.dir, PodsDir: pods,
		PodDir: func(uid types.UID) string { return filepath.Join(pods, string(uid)) },
		Token: func(_ context.Context, _ *corev1.Pod, audience string, _ *int64) (string, time.Time, error) {
			return "token for " + audience, time.Unix(1000, 0), nil
		},
		Changed: func() {}, InUseChanged: func() { asked <- struct{}{}; go m.Reported(m.InUse()) },
		Events: func() client.Recorder { return n.events }, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	m.Run(ctx)
	n.Manager = m
	if err := m.Register(ctx, plugins.Plugin{Name: driverName, Endpoint: n.driver.socket, Versions: []string{"1.0.0"}}); err != nil {
		t.Fatal(err)
	}
}

func (n *node) object(spec storagev1.CSIDriverSpec) {
	// A change of one that is there comes through the watch.
	delete(n.door.objects, "csidrivers/"+driverName)
	n.door.put("csidrivers", &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: spec})
}

func pod(uid string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-" + uid, UID: types.UID(uid)}}
}

func persistent(p *corev1.Pod) *Volume {
	return &Volume{Pod: p, Name: "data", PV: &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: "h/1"}},
		},
	}}
}

// left says what is left on disk of any volume.
func (n *node) left(t *testing.T) string {
	t.Helper()
	var out []string
	_ = filepath.WalkDir(n.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return nil
	})
	slices.Sort(out)
	return strings.Join(out, " ")
}
