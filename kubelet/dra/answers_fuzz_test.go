package dra

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/coxswain/cox/internal/wiretest"
)

// said is a driver that answers what it was given.
type said struct {
	prepare   *drav1.NodePrepareResourcesResponse
	unprepare *drav1.NodeUnprepareResourcesResponse
}

func (s said) NodePrepareResources(context.Context, *drav1.NodePrepareResourcesRequest, ...grpc.CallOption) (*drav1.NodePrepareResourcesResponse, error) {
	return s.prepare, nil
}

func (s said) NodeUnprepareResources(context.Context, *drav1.NodeUnprepareResourcesRequest, ...grpc.CallOption) (*drav1.NodeUnprepareResourcesResponse, error) {
	return s.unprepare, nil
}

// FuzzAnswers takes what a driver answers: claims are prepared with what it
// says of them or are not, what is kept of it can be read again, and what it
// says of its devices' health stays within bounds.
func FuzzAnswers(f *testing.F) {
	dev := &drav1.Device{RequestNames: []string{"r", "r/s"}, PoolName: "p", DeviceName: "d", CdiDeviceIds: []string{"v/c=1", "v/c=1"}}
	good := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{"c1": {Devices: []*drav1.Device{dev, dev}}, "c2": {}, "": {Error: "x"}}}
	some := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{"c1": {Devices: []*drav1.Device{{}}}}}
	undone := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{"c1": {}, "c2": {Error: "busy"}}}
	health := &healthv1alpha1.NodeWatchResourcesResponse{Devices: []*healthv1alpha1.DeviceHealth{
		{}, {Device: &healthv1alpha1.DeviceIdentifier{PoolName: "p", DeviceName: "d"}, Health: healthv1alpha1.HealthStatus_HEALTHY, LastUpdatedTime: 1e9, HealthCheckTimeoutSeconds: 1<<63 - 1, Message: strings.Repeat("é", 600)},
	}}
	f.Add(wiretest.Marshal(f, good), wiretest.Marshal(f, undone), wiretest.Marshal(f, health))
	f.Add(wiretest.Marshal(f, some), []byte{}, wiretest.Marshal(f, health))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		s := said{&drav1.NodePrepareResourcesResponse{}, &drav1.NodeUnprepareResourcesResponse{}}
		var list healthv1alpha1.NodeWatchResourcesResponse
		if proto.Unmarshal(a, s.prepare) != nil || proto.Unmarshal(b, s.unprepare) != nil || proto.Unmarshal(c, &list) != nil {
			return
		}
		clk := clocktesting.NewFakeClock(time.Unix(1e9, 0))
		m := &Manager{cfg: Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: clk}, drivers: map[string]*driver{}, claims: map[types.UID]*Claim{}, counts: newCounts()}
		d := &driver{client: s}
		m.drivers["g"] = d
		claims := []*Claim{
			{UID: "c1", Namespace: "n", Name: "a", Pods: []types.UID{"u"}, Devices: map[string][]Device{"g": nil}},
			{UID: "c2", Namespace: "n", Name: "b", Pods: []types.UID{"u"}, Devices: map[string][]Device{"g": nil}},
		}
		for _, x := range claims {
			m.claims[x.UID] = x
		}
		done, _ := m.prepare(t.Context(), "g", claims)
		for _, x := range done {
			if r := s.prepare.Claims[string(x.UID)]; r == nil || r.Error != "" || len(x.Devices["g"]) != len(r.Devices) {
				t.Errorf("claim %s counts as prepared: %v", x.UID, r)
			}
		}
		name := "a"
		pod := podOf("u", "r")
		pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &name}}
		for i := range pod.Spec.Containers {
			m.CDI(pod, &pod.Spec.Containers[i])
		}
		kept, err := json.Marshal(m.claims)
		var again map[types.UID]*Claim
		if err != nil || json.Unmarshal(kept, &again) != nil {
			t.Errorf("what is kept cannot be read: %s, %v", kept, err)
		}
		err = m.unprepare(t.Context(), "g", claims[0])
		if r, ok := s.unprepare.Claims["c1"]; err == nil && (!ok || r.GetError() != "") {
			t.Errorf("counts as undone: %v", r)
		}
		m.healthListed(d, list.Devices)
		for id, h := range d.health {
			if got := m.Health("g", id.pool, id.device); len(got.Message) > corev1.ResourceHealthMessageMaxLength || !utf8.ValidString(got.Message) || got.Status == "" || h.Message != got.Message {
				t.Errorf("%+v", got)
			}
		}
		clk.Step(time.Hour)
	})
}

// TestHealthBounds: a time that no Duration holds is still one, and a message
// is cut between characters.
func TestHealthBounds(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	m := &Manager{cfg: Config{Log: slog.New(slog.DiscardHandler), Clock: clk}, drivers: map[string]*driver{}}
	d := &driver{}
	m.drivers["g"] = d
	m.healthListed(d, []*healthv1alpha1.DeviceHealth{{
		Device: &healthv1alpha1.DeviceIdentifier{PoolName: "p", DeviceName: "d"}, Health: healthv1alpha1.HealthStatus_HEALTHY,
		LastUpdatedTime: 1e9, HealthCheckTimeoutSeconds: 1<<63 - 1, Message: "x" + strings.Repeat("é", 600),
	}})
	h := m.Health("g", "p", "d")
	if h.Status != corev1.ResourceHealthStatusHealthy || !utf8.ValidString(h.Message) || !strings.HasSuffix(h.Message, "é...") {
		t.Errorf("%+v", h)
	}
}
