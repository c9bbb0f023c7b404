package devices

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/kubelet/numa"
)

// plugin is a device plugin that prefers its last devices.
type plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	lists   chan []*pluginapi.Device
	mu      sync.Mutex
	started []string
}

func (p *plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *pluginapi.Empty, s grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		select {
		case l, ok := <-p.lists:
			if !ok {
				return nil
			}
			if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: l}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (p *plugin) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	c := r.ContainerRequests[0]
	ids := slices.Clone(c.AvailableDeviceIDs)
	slices.Sort(ids)
	slices.Reverse(ids)
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: ids[:c.AllocationSize]}}}, nil
}

func (p *plugin) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	ids := strings.Join(r.ContainerRequests[0].DevicesIds, ",")
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs: map[string]string{"DEVICES": ids}, Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/x", HostPath: "/dev/null", Permissions: "rw"}},
		CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/x=" + ids}},
	}}}, nil
}

func (p *plugin) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, r.DevicesIds...)
	return &pluginapi.PreStartContainerResponse{}, nil
}

// manager runs a manager until the test ends.
func manager(t *testing.T, dir string) (*Manager, chan struct{}, func()) {
	t.Helper()
	changed := make(chan struct{}, 100)
	m, err := New(Config{Dir: dir, Changed: func() { changed <- struct{}{} }, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return m, changed, stop
}

// serve starts a plugin and registers it.
func serve(t *testing.T, dir, name, resource string, o *pluginapi.DevicePluginOptions) (*plugin, *grpc.Server, error) {
	t.Helper()
	p := &plugin{lists: make(chan []*pluginapi.Device, 10)}
	s := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(s, p)
	// The manager clears the folder before it listens: wait for that.
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reg := pluginapi.NewRegistrationClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := reg.Register(ctx, &pluginapi.RegisterRequest{Version: "none"}, grpc.WaitForReady(true)); err == nil {
		t.Error("a version of the API that nobody knows")
	}
	l, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	_, err = reg.Register(ctx, &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: name, ResourceName: resource, Options: o}, grpc.WaitForReady(true))
	return p, s, err
}

func device(id, health string, node int64) *pluginapi.Device {
	d := &pluginapi.Device{ID: id, Health: health}
	if node >= 0 {
		d.Topology = &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: node}}}
	}
	return d
}

const resourceName = "example.com/x"

func amounts(m *Manager) (all, healthy int64) {
	c, a, _ := m.Capacity()
	qc, qa := c[resourceName], a[resourceName]
	return qc.Value(), qa.Value()
}

func TestPlugin(t *testing.T) {
	dir := t.TempDir()
	m, changed, stop := manager(t, dir)
	p, s, err := serve(t, dir, "x.sock", resourceName, &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true, PreStartRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	p.lists <- []*pluginapi.Device{device("a", "Healthy", 0), device("b", "Healthy", 1), device("c", "Unhealthy", 1), device("d", "Healthy", 1)}
	<-changed
	if all, ok := amounts(m); all != 4 || ok != 3 || !m.Manages(resourceName) {
		t.Errorf("%d devices, %d healthy", all, ok)
	}
	w := Wish{Resource: resourceName, Count: 2}
	if h := m.Hints("u1", "c", w, 3); len(h) != 2 || h[0] != (numa.Hint{Nodes: 2, Preferred: true}) || h[1] != (numa.Hint{Nodes: 3}) {
		t.Errorf("hints %+v", h)
	}
	if err := m.Allocate(t.Context(), "u1", "c", w, 2); err != nil {
		t.Fatal(err)
	}
	if got := m.Of("u1", "c")[resourceName]; !slices.Equal(got, []string{"d", "b"}) {
		t.Errorf("the plugin's preference counts: %v", got)
	}
	o, err := m.Options("u1", "c")
	if err != nil || o.Envs["DEVICES"] != "d,b" || len(o.Devices) != 1 || o.Devices[0].HostPath != "/dev/null" || len(o.CDI) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	if err := m.PreStart(t.Context(), "u1", "c"); err != nil || !slices.Equal(p.started, []string{"d", "b"}) {
		t.Errorf("%v %v", p.started, err)
	}
	if err := m.Allocate(t.Context(), "u2", "c", w, 0); err == nil || !strings.Contains(err.Error(), "Requested: 2, Available: 1") {
		t.Error(err)
	}
	// Devices of an init container that is done can be had again.
	w.Reusable = []string{"d", "b"}
	if err := m.Allocate(t.Context(), "u1", "app", w, 0); err != nil {
		t.Error(err)
	}
	// What was given survives a restart, and the plugin's death.
	s.Stop()
	<-changed
	if all, ok := amounts(m); all != 4 || ok != 0 {
		t.Errorf("without its plugin: %d devices, %d healthy", all, ok)
	}
	stop()
	restarted, _, end := manager(t, dir)
	if all, ok := amounts(restarted); all != 4 || ok != 0 {
		t.Errorf("after a restart: %d devices, %d healthy", all, ok)
	}
	end()
	again, err := New(Config{Dir: dir, Changed: func() {}, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Of("u1", "c")[resourceName]; !slices.Equal(got, []string{"d", "b"}) || !again.Manages(corev1.ResourceName(resourceName)) {
		t.Errorf("after a restart: %v", got)
	}
	if err := again.Release("u1"); err != nil || len(again.Pods()) != 0 {
		t.Error(again.Pods(), err)
	}
}

func TestRegistrationRefused(t *testing.T) {
	dir := t.TempDir()
	_, _, _ = manager(t, dir)
	for endpoint, resource := range map[string]string{"a.sock": "no-domain", "b.sock": "kubernetes.io/x", "c.sock": "x.kubernetes.io/y", "d.sock": "requests.a/b"} {
		if _, _, err := serve(t, dir, endpoint, resource, nil); err == nil {
			t.Errorf("%s was taken", resource)
		}
	}
	r := &registration{m: &Manager{}, ctx: t.Context()}
	if _, err := r.Register(t.Context(), &pluginapi.RegisterRequest{Version: pluginapi.Version, ResourceName: resourceName, Endpoint: "../../x.sock"}); err == nil {
		t.Error("a socket outside of the folder")
	}
}
