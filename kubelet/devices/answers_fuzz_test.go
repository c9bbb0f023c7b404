package devices

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/coxswain/cox/internal/wiretest"
	"github.com/coxswain/cox/kubelet/numa"
)

// said is a plugin that answers what it was given.
type said struct {
	pluginapi.DevicePluginClient
	preferred *pluginapi.PreferredAllocationResponse
	allocated *pluginapi.AllocateResponse
}

func (s said) GetPreferredAllocation(context.Context, *pluginapi.PreferredAllocationRequest, ...grpc.CallOption) (*pluginapi.PreferredAllocationResponse, error) {
	return s.preferred, nil
}

func (s said) Allocate(context.Context, *pluginapi.AllocateRequest, ...grpc.CallOption) (*pluginapi.AllocateResponse, error) {
	return s.allocated, nil
}

// FuzzAnswers takes what a plugin lists and answers: containers get as many
// devices as they asked for, each of them listed, well, and nobody else's.
func FuzzAnswers(f *testing.F) {
	device := func(id, health string, nodes ...int64) *pluginapi.Device {
		d := &pluginapi.Device{ID: id, Health: health}
		for _, n := range nodes {
			d.Topology = &pluginapi.TopologyInfo{Nodes: append(d.GetTopology().GetNodes(), &pluginapi.NUMANode{ID: n})}
		}
		return d
	}
	list := &pluginapi.ListAndWatchResponse{Devices: []*pluginapi.Device{
		device("a", pluginapi.Healthy, 0), device("a", pluginapi.Unhealthy), device("b", pluginapi.Healthy, 1, -7, 99), device("", pluginapi.Healthy), device("c", "?"), device("d", pluginapi.Healthy),
	}}
	preferred := &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: []string{"d", "d", "b", "x"}}}}
	allocated := &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs: map[string]string{"": "", "A=B": "c"}, Mounts: []*pluginapi.Mount{{ContainerPath: "/../etc", HostPath: "/"}, {}}, Devices: []*pluginapi.DeviceSpec{{Permissions: "rwmx"}},
		CdiDevices: []*pluginapi.CDIDevice{{}}, Annotations: map[string]string{"a": "b"},
	}}}
	f.Add(wiretest.Marshal(f, list), wiretest.Marshal(f, preferred), wiretest.Marshal(f, allocated), uint8(1), uint8(1))
	f.Add(wiretest.Marshal(f, list), []byte{}, []byte{}, uint8(2), uint8(2))
	f.Fuzz(func(t *testing.T, a, b, c []byte, first, second uint8) {
		var list pluginapi.ListAndWatchResponse
		s := said{preferred: &pluginapi.PreferredAllocationResponse{}, allocated: &pluginapi.AllocateResponse{}}
		if proto.Unmarshal(a, &list) != nil || proto.Unmarshal(b, s.preferred) != nil || proto.Unmarshal(c, s.allocated) != nil {
			return
		}
		m := &Manager{
			cfg:       Config{Dir: t.TempDir(), Changed: func() {}, Log: slog.New(slog.DiscardHandler), Clock: clocktesting.NewFakeClock(time.Unix(1e9, 0))},
			endpoints: map[string]*endpoint{}, grants: map[types.UID]map[string]map[string]*grant{},
		}
		e := &endpoint{resource: "r/x", client: s, cancel: func() {}, options: &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true}}
		m.endpoints["r/x"] = e
		m.listed(e, list.Devices)
		all := numa.Mask(3)
		taken := map[string]bool{}
		for i, count := range []uint8{first, second} {
			uid, w := types.UID(rune('a'+i)), Wish{Resource: "r/x", Count: int(count), Reusable: []string{"nobody's", "d"}[:2-2*i]}
			m.Hints(uid, "c", w, all)
			if m.Allocate(t.Context(), uid, "c", w, 1) != nil {
				continue
			}
			ids := m.Of(uid, "c")["r/x"]
			if len(ids) != int(count) || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != int(count) {
				t.Errorf("%d devices were asked for, %q given", count, ids)
			}
			for _, id := range ids {
				if taken[id] || e.devices[id] == nil || e.devices[id].Health != pluginapi.Healthy {
					t.Errorf("%q was given to two, or is not well", id)
				}
				taken[id] = true
			}
			if _, err := m.Options(uid, "c"); err != nil {
				t.Error(err)
			}
		}
		capacity, allocatable, _ := m.Capacity()
		have, well := capacity["r/x"], allocatable["r/x"]
		if have.Cmp(well) < 0 || have.Value() > int64(len(list.Devices)) {
			t.Errorf("%v devices, %v of them well", &have, &well)
		}
		again := &Manager{cfg: m.cfg, endpoints: map[string]*endpoint{}, grants: map[types.UID]map[string]map[string]*grant{}}
		if err := again.recall(); err != nil {
			t.Error(err)
		}
	})
}
