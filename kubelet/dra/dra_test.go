package dra

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet/plugins"
)

const driverName = "gpu.example.com"

// door is an API server with one claim.
type door struct{ claim *resourcev1.ResourceClaim }

func (d *door) Do(_ context.Context, r *client.Request) (*client.Result, error) {
	if r.Verb == client.Get && r.Resource.Resource == "resourceclaims" && r.Name == d.claim.Name {
		return &client.Result{Object: d.claim}, nil
	}
	return nil, fmt.Errorf("unexpected %s of %s %s", r.Verb, r.Resource.Resource, r.Name)
}

func (d *door) Watch(context.Context, *client.Request) (watch.Interface, error) { return nil, nil }

// driver is a DRA driver that announces itself by a socket.
type fake struct {
	drav1.UnimplementedDRAPluginServer
	registerapi.UnimplementedRegistrationServer
	mu       sync.Mutex
	prepared []string
	fail     string
	status   chan *registerapi.RegistrationStatus
	kind     string
}

func (f *fake) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: f.kind, Name: driverName, SupportedVersions: []string{drav1.DRAPluginService}}, nil
}

func (f *fake) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	f.status <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (f *fake) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		f.prepared = append(f.prepared, c.Name)
		out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Error: f.fail, Devices: []*drav1.Device{
			{RequestNames: []string{"big/first"}, PoolName: "p", DeviceName: "d1", CdiDeviceIds: []string{"example.com/gpu=1"}},
			{RequestNames: []string{"small"}, PoolName: "p", DeviceName: "d2", CdiDeviceIds: []string{"example.com/gpu=2"}},
		}}
	}
	return out, nil
}

func (f *fake) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		f.prepared = slices.DeleteFunc(f.prepared, func(n string) bool { return n == c.Name })
		out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
	}
	return out, nil
}

func (f *fake) has() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.prepared)
}

func (f *fake) serve(t *testing.T, socket string) *grpc.Server {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	drav1.RegisterDRAPluginServer(s, f)
	registerapi.RegisterRegistrationServer(s, f)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return s
}

func podOf(uid string, requests ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p" + uid, Namespace: "n", UID: types.UID(uid)}}
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("t")}}
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: ptr.To("claim")}}
	for i, r := range requests {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu", Request: r}}}})
	}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "none"})
	return p
}

func TestClaims(t *testing.T) {
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "claim", Namespace: "n", UID: "cu"}}
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: driverName}}}}
	claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", UID: "u1"}, {Resource: "pods", UID: "u2"}}
	cfg := Config{Client: &door{claim}, NodeName: "node", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	done := make(chan error, 1)
	w := plugins.New(plugins.Config{Dir: dir, Handlers: map[string]plugins.Handler{"DRAPlugin": m}, Log: cfg.Log, Clock: cfg.Clock})
	go func() { done <- w.Run(ctx) }()
	p := podOf("u1", "", "big", "small")
	if err := m.Prepare(ctx, p); err == nil {
		t.Error("the driver is not there yet")
	}
	f := &fake{kind: "DRAPlugin", status: make(chan *registerapi.RegistrationStatus, 10), fail: "no power"}
	s := f.serve(t, filepath.Join(dir, "gpu.sock"))
	if st := <-f.status; !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	if err := m.Prepare(ctx, p); err == nil || err.Error() != "NodePrepareResources failed for ResourceClaim claim: no power" {
		t.Error(err)
	}
	f.mu.Lock()
	f.fail, f.prepared = "", nil
	f.mu.Unlock()
	for _, pod := range []*corev1.Pod{p, podOf("u2", ""), p} {
		if err := m.Prepare(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.has(); len(got) != 1 {
		t.Errorf("a shared claim is prepared once: %v", got)
	}
	for i, want := range [][]string{{"example.com/gpu=1", "example.com/gpu=2"}, {"example.com/gpu=1"}, {"example.com/gpu=2"}, nil} {
		if got := m.CDI(p, &p.Spec.Containers[i]); !slices.Equal(got, want) {
			t.Errorf("container %d: %v, want %v", i, got, want)
		}
	}
	if err := m.Prepare(ctx, podOf("u3", "")); err == nil {
		t.Error("a pod that the claim is not reserved for")
	}
	// After a restart all of it is known; the last pod has it undone.
	again, err := New(cfg)
	if err != nil || len(again.Pods()) != 2 {
		t.Fatal(again.Pods(), err)
	}
	if err := m.Unprepare(ctx, "u1"); err != nil || len(f.has()) != 1 {
		t.Error(f.has(), err)
	}
	if err := m.Unprepare(ctx, "u2"); err != nil || len(f.has()) != 0 || len(m.Pods()) != 0 {
		t.Error(f.has(), m.Pods(), err)
	}
	s.Stop() // removes the socket: the driver is let go
	for range 400 {
		if _, err = m.driver(driverName); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err == nil {
		t.Error("the driver is still known")
	}
	other := &fake{kind: "Unheard", status: make(chan *registerapi.RegistrationStatus, 10)}
	other.serve(t, filepath.Join(dir, "other.sock"))
	if st := <-other.status; st.PluginRegistered || st.Error == "" {
		t.Errorf("a type that nobody handles: %+v", st)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
