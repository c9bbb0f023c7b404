package kubelet_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
)

// devicePlugin offers two devices, which are files.
type devicePlugin struct {
	pluginapi.UnimplementedDevicePluginServer
	dir  string
	sick chan struct{} // device "one" and "two" are sick after it was closed
}

func (p *devicePlugin) ListAndWatch(_ *pluginapi.Empty, s grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	list := []*pluginapi.Device{{ID: "one", Health: pluginapi.Healthy}, {ID: "two", Health: pluginapi.Healthy}}
	if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
		return err
	}
	select {
	case <-p.sick:
		for _, d := range list {
			d.Health = pluginapi.Unhealthy
		}
		if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		<-s.Context().Done()
	case <-s.Context().Done():
	}
	return nil
}

// hasHealth says that a container's status shows one device, and how it is.
func hasHealth(resource, device string, health corev1.ResourceHealthStatus) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		st := status(p, "c").AllocatedResourcesStatus
		return len(st) == 1 && string(st[0].Name) == resource && len(st[0].Resources) == 1 &&
			(device == "" || string(st[0].Resources[0].ResourceID) == device) && st[0].Resources[0].Health == health
	}
}

func (p *devicePlugin) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs:    map[string]string{"LAMPS": strings.Join(r.ContainerRequests[0].DevicesIds, ",")},
		Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/lamp", HostPath: "/dev/null", Permissions: "rw"}},
		Mounts:  []*pluginapi.Mount{{ContainerPath: "/lamp", HostPath: p.dir, ReadOnly: true}},
	}}}, nil
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir, "kubelet"}, parts...)...)
}

func dialUnix(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func serveUnix(t *testing.T, path string, register func(*grpc.Server)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
}

func (w *world) node() *corev1.Node {
	n, err := client.Nodes.In(w.root, "").Get(w.t.Context(), nodeName)
	w.must(err)
	return n
}

// TestDevices: devices of a plugin and CPUs of its own reach a container, and
// the pod resources API tells of them.
func TestDevices(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.change = func(c *kubelet.Config) {
		c.Exclusive = kubelet.Exclusive{StaticCPUs: true, ReservedCPUs: cpuset.New(0), Topology: "best-effort"}
		c.Containers.PidsLimit = 77
	}
	w.startKubelet()
	marker := t.TempDir()
	w.must(os.WriteFile(filepath.Join(marker, "lit"), []byte("yes"), 0o644))
	plugins := w.path("device-plugins")
	lamps, sick := (*grpc.Server)(nil), make(chan struct{})
	serveUnix(t, filepath.Join(plugins, "lamp.sock"), func(s *grpc.Server) {
		lamps = s
		pluginapi.RegisterDevicePluginServer(s, &devicePlugin{dir: marker, sick: sick})
	})
	_, err := pluginapi.NewRegistrationClient(dialUnix(t, filepath.Join(plugins, "kubelet.sock"))).Register(t.Context(),
		&pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: "lamp.sock", ResourceName: "example.com/lamp"}, grpc.WaitForReady(true))
	w.must(err)
	w.eventually("the node offers lamps", func() bool {
		q := w.node().Status.Allocatable["example.com/lamp"]
		return q.Value() == 2
	})

	w.pod(shell("lit", `echo "$LAMPS $(cat /lamp/lit) $(test -c /dev/lamp && echo device) cpus $(grep Cpus_allowed_list /proc/self/status | cut -f2)"; sleep 1000`,
		"resources: {limits: {cpu: 1, memory: 64Mi, example.com/lamp: 1}}", "terminationGracePeriodSeconds: 1"))
	w.pod(shell("other", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	p := w.until("lit", "ready", isReady)
	fields := strings.Fields(w.logSays(p, "c", 0, "cpus"))
	if len(fields) != 5 || (fields[0] != "one" && fields[0] != "two") || fields[1] != "yes" || fields[2] != "device" || fields[4] != "1" {
		t.Errorf("the container sees %q", fields)
	}
	other := w.until("other", "ready", isReady)
	w.eventually("the other container is kept off that CPU", func() bool {
		return strings.TrimSpace(w.containerFile(other, "cpuset", "cpuset.cpus")) == "0"
	})

	list := podresourcesv1.NewPodResourcesListerClient(dialUnix(t, w.path("pod-resources", "kubelet.sock")))
	got, err := list.Get(t.Context(), &podresourcesv1.GetPodResourcesRequest{PodName: "lit", PodNamespace: "default"})
	w.must(err)
	c := got.PodResources.Containers[0]
	if !slices.Equal(c.CpuIds, []int64{1}) || len(c.Devices) != 1 || c.Devices[0].ResourceName != "example.com/lamp" {
		t.Errorf("pod resources: %v", got)
	}
	// A second one finds no CPU of its own, a third too few lamps.
	w.pod(shell("dark", "sleep 1000", "resources: {limits: {cpu: 1, memory: 64Mi}}", ""))
	if p := w.until("dark", "refused", inPhase(corev1.PodFailed)); p.Status.Reason != "UnexpectedAdmissionError" {
		t.Errorf("%+v", p.Status)
	}
	w.pod(shell("dim", "sleep 1000", "resources: {limits: {example.com/lamp: 2}}", ""))
	if p := w.until("dim", "refused", inPhase(corev1.PodFailed)); p.Status.Reason != "OutOfexample.com/lamp" {
		t.Errorf("%+v", p.Status)
	}
	w.until("lit", "with a healthy lamp", hasHealth("example.com/lamp", c.Devices[0].DeviceIds[0], corev1.ResourceHealthStatusHealthy))
	close(sick)
	w.until("lit", "with a sick lamp", hasHealth("example.com/lamp", c.Devices[0].DeviceIds[0], corev1.ResourceHealthStatusUnhealthy))
	lamps.Stop()
	w.until("lit", "with a lamp of which nobody tells", hasHealth("example.com/lamp", c.Devices[0].DeviceIds[0], corev1.ResourceHealthStatusUnknown))
	// A restart of the kubelet changes nothing.
	w.stop()
	w.startKubelet()
	again, err := list.Get(t.Context(), &podresourcesv1.GetPodResourcesRequest{PodName: "lit", PodNamespace: "default"}, grpc.WaitForReady(true))
	w.must(err)
	if a := again.PodResources.Containers[0]; !slices.Equal(a.CpuIds, c.CpuIds) || a.Devices[0].DeviceIds[0] != c.Devices[0].DeviceIds[0] {
		t.Errorf("after a restart: %v", again)
	}
	w.delete("lit", 1)
	w.until("lit", "gone", gone)
	w.eventually("its CPU is for all again", func() bool {
		return strings.TrimSpace(w.containerFile(other, "cpuset", "cpuset.cpus")) == "0-1"
	})
}

// draDriver prepares every claim with one CDI device.
type draDriver struct {
	drav1.UnimplementedDRAPluginServer
	registerapi.UnimplementedRegistrationServer
	healthv1alpha1.UnimplementedDRAResourceHealthServer
	health     chan healthv1alpha1.HealthStatus
	registered chan *registerapi.RegistrationStatus
	undone     chan string
}

func (d *draDriver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DRAPlugin, Name: "dra.example.com", SupportedVersions: []string{drav1.DRAPluginService, healthv1alpha1.DRAResourceHealth_ServiceDesc.ServiceName}}, nil
}

func (d *draDriver) NodeWatchResources(_ *healthv1alpha1.NodeWatchResourcesRequest, s grpc.ServerStreamingServer[healthv1alpha1.NodeWatchResourcesResponse]) error {
	for {
		select {
		case h := <-d.health:
			if err := s.Send(&healthv1alpha1.NodeWatchResourcesResponse{Devices: []*healthv1alpha1.DeviceHealth{{
				Device: &healthv1alpha1.DeviceIdentifier{PoolName: "p", DeviceName: "d"}, Health: h, LastUpdatedTime: time.Now().Unix(), HealthCheckTimeoutSeconds: 3600,
				Message: "as told",
			}}}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (d *draDriver) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	d.registered <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (d *draDriver) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Devices: []*drav1.Device{{PoolName: "p", DeviceName: "d", CdiDeviceIds: []string{cdiKind + "=d"}}}}
	}
	return out, nil
}

func (d *draDriver) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
		d.undone <- c.Name
	}
	return out, nil
}

const cdiKind = "kubelettest.coxswain.dev/thing"

// TestResourceClaims: what a driver prepares for a resource claim is in the container.
func TestResourceClaims(t *testing.T) {
	w := newWorld(t)
	w.must(os.MkdirAll("/var/run/cdi", 0o755))
	spec := "/var/run/cdi/kubelettest.coxswain.dev-thing.yaml"
	w.must(os.WriteFile(spec, []byte("cdiVersion: 0.5.0\nkind: "+cdiKind+"\ndevices:\n- name: d\n  containerEdits:\n    env: [THING=prepared]\n"), 0o644))
	t.Cleanup(func() { os.Remove(spec) })
	claims := client.ResourceClaims.In(w.root, "default")
	claim, err := claims.Create(t.Context(), &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "thing", Namespace: "default"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "class", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		}}}},
	})
	w.must(err)
	p := w.pod(shell("claims", "echo thing=$THING; sleep 1000", "resources: {claims: [{name: t}]}", "resourceClaims: [{name: t, resourceClaimName: thing}]\nterminationGracePeriodSeconds: 1"))
	w.untilEvent("claims", "FailedPrepareDynamicResources")
	claim = claim.DeepCopy()
	claim.Status = resourcev1.ResourceClaimStatus{
		Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "one", Driver: "dra.example.com", Pool: "p", Device: "d"},
		}}},
		ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: p.Name, UID: p.UID}},
	}
	_, err = claims.UpdateStatus(t.Context(), claim)
	w.must(err)
	d := &draDriver{health: make(chan healthv1alpha1.HealthStatus), registered: make(chan *registerapi.RegistrationStatus, 10), undone: make(chan string, 10)}
	w.eventually("the folder of plugins is there", func() bool { _, err := os.Stat(w.path("plugins_registry")); return err == nil })
	serveUnix(t, w.path("plugins_registry", "dra.sock"), func(s *grpc.Server) {
		drav1.RegisterDRAPluginServer(s, d)
		registerapi.RegisterRegistrationServer(s, d)
		healthv1alpha1.RegisterDRAResourceHealthServer(s, d)
	})
	if st := <-d.registered; !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	p = w.until("claims", "ready", isReady)
	w.logSays(p, "c", 0, "thing=prepared\n")
	const device = "dra.example.com/p/d"
	w.until("claims", "of unknown health", hasHealth("claim:t", device, corev1.ResourceHealthStatusUnknown))
	d.health <- healthv1alpha1.HealthStatus_UNHEALTHY
	p = w.until("claims", "sick", hasHealth("claim:t", device, corev1.ResourceHealthStatusUnhealthy))
	if m := status(p, "c").AllocatedResourcesStatus[0].Resources[0].Message; m == nil || *m != "as told" {
		t.Errorf("message: %v", m)
	}
	d.health <- healthv1alpha1.HealthStatus_HEALTHY
	w.until("claims", "well", hasHealth("claim:t", device, corev1.ResourceHealthStatusHealthy))
	w.delete("claims", 1)
	if name := <-d.undone; name != "thing" {
		t.Errorf("undone: %s", name)
	}
	w.until("claims", "gone", gone)
}
