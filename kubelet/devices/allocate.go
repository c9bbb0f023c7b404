package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/coxswain/cox/kubelet/numa"
)

// Wish is what a container wants of one resource. Reusable are devices that
// init containers of its pod had and are done with.
type Wish struct {
	Resource string
	Count    int
	Reusable []string
}

// taken are the devices of a resource that containers have, but for those of
// one container. Call with the lock held.
func (m *Manager) taken(resource string) map[string]bool {
	out := map[string]bool{}
	for _, pod := range m.grants {
		for _, c := range pod {
			if g := c[resource]; g != nil {
				for _, id := range g.IDs {
					out[id] = true
				}
			}
		}
	}
	return out
}

// available lists the healthy devices that a wish may get.
func (m *Manager) available(w Wish) ([]string, *endpoint, error) {
	e := m.endpoints[w.Resource]
	if e == nil || e.client == nil || !e.gone.IsZero() {
		return nil, nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", w.Resource)
	}
	taken := m.taken(w.Resource)
	for _, id := range w.Reusable {
		delete(taken, id)
	}
	return slices.DeleteFunc(e.healthy(), func(id string) bool { return taken[id] }), e, nil
}

// Hints says on which NUMA nodes a wish could be granted; nil if the devices
// are not near to any, or the container has them already.
func (m *Manager) Hints(uid types.UID, container string, w Wish, all numa.Mask) []numa.Hint {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grants[uid][container][w.Resource] != nil {
		return nil
	}
	free, e, err := m.available(w)
	if err != nil {
		return []numa.Hint{}
	}
	aligned := false
	for _, d := range e.devices {
		aligned = aligned || hintsOf(d) != 0
	}
	if !aligned {
		return nil
	}
	least := all.Len() + 1
	out := []numa.Hint{}
	count := func(mask numa.Mask, ids []string) (n int) {
		for _, id := range ids {
			if near := hintsOf(e.devices[id]); near == 0 || near&mask != 0 {
				n++
			}
		}
		return n
	}
	every := slices.Collect(maps.Keys(e.devices))
	for _, mask := range all.Subsets() {
		if count(mask, every) < w.Count {
			continue
		}
		least = min(least, mask.Len())
		if count(mask, free) >= w.Count {
			out = append(out, numa.Hint{Nodes: mask})
		}
	}
	for i := range out {
		out[i].Preferred = out[i].Nodes.Len() == least
	}
	return out
}

// Allocate gives a container the devices it wishes for, near the nodes (0 for
// any), and asks the plugin what the runtime must be told. A container that
// has them already keeps them.
func (m *Manager) Allocate(ctx context.Context, uid types.UID, container string, w Wish, near numa.Mask) error {
	m.mu.Lock()
	if m.grants[uid][container][w.Resource] != nil {
		m.mu.Unlock()
		return nil
	}
	free, e, err := m.available(w)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	if len(free) < w.Count {
		m.mu.Unlock()
		return fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", w.Resource, w.Count, len(free))
	}
	ordered := order(free, e, w.Reusable, near)
	client, options := e.client, e.options
	m.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ids := ordered[:w.Count]
	if options.GetGetPreferredAllocationAvailable() {
		if ids, err = prefer(ctx, client, ordered, w, ids); err != nil {
			return err
		}
	}
	res, err := client.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return fmt.Errorf("allocate %s: %w", w.Resource, err)
	}
	if len(res.ContainerResponses) == 0 {
		return fmt.Errorf("no containers return in allocation response of %s", w.Resource)
	}
	answer, err := proto.Marshal(res.ContainerResponses[0])
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grants[uid] == nil {
		m.grants[uid] = map[string]map[string]*grant{}
	}
	if m.grants[uid][container] == nil {
		m.grants[uid][container] = map[string]*grant{}
	}
	m.grants[uid][container][w.Resource] = &grant{IDs: ids, Answer: answer}
	return m.save()
}

// order puts the devices first that should be used first: those that the pod
// has already, then those near the nodes.
func order(free []string, e *endpoint, reusable []string, near numa.Mask) []string {
	rank := func(id string) int {
		switch n := hintsOf(e.devices[id]); {
		case slices.Contains(reusable, id):
			return 0
		case near == 0 || n&near != 0:
			return 1
		case n == 0:
			return 2
		}
		return 3
	}
	out := slices.Clone(free)
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	return out
}

// prefer asks the plugin which of the devices it would choose; its answer
// counts only if it can be given.
func prefer(ctx context.Context, client pluginapi.DevicePluginClient, free []string, w Wish, otherwise []string) ([]string, error) {
	left := make(map[string]bool, len(free)) // that have not been chosen
	for _, id := range free {
		left[id] = true
	}
	var must []string
	for _, id := range w.Reusable {
		if left[id] && len(must) < w.Count {
			must = append(must, id)
		}
	}
	res, err := client.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: free, MustIncludeDeviceIDs: must, AllocationSize: int32(w.Count),
	}}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(res.ContainerResponses) == 0 {
		return otherwise, nil
	}
	var ids []string
	for _, id := range res.ContainerResponses[0].DeviceIDs {
		if left[id] {
			ids, left[id] = append(ids, id), false
		}
	}
	if len(ids) != w.Count {
		return otherwise, nil
	}
	return ids, nil
}

// PreStart calls the plugins that want to be told before a container with
// their devices starts.
func (m *Manager) PreStart(ctx context.Context, uid types.UID, container string) error {
	m.mu.Lock()
	type call struct {
		client pluginapi.DevicePluginClient
		ids    []string
		name   string
	}
	var calls []call
	for name, g := range m.grants[uid][container] {
		if e := m.endpoints[name]; e != nil && e.client != nil && e.options.GetPreStartRequired() {
			calls = append(calls, call{e.client, g.IDs, name})
		}
	}
	m.mu.Unlock()
	for _, c := range calls {
		cctx, cancel := context.WithTimeout(ctx, pluginapi.KubeletPreStartContainerRPCTimeoutInSecs*1e9)
		_, err := c.client.PreStartContainer(cctx, &pluginapi.PreStartContainerRequest{DevicesIds: c.ids})
		cancel()
		if err != nil {
			return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %s: %w", c.name, err)
		}
	}
	return nil
}

// Options is what the runtime must be told about a container's devices.
type Options struct {
	Envs        map[string]string
	Annotations map[string]string
	Mounts      []*pluginapi.Mount
	Devices     []*pluginapi.DeviceSpec
	CDI         []string
}

// Options joins the plugins' answers for a container.
func (m *Manager) Options(uid types.UID, container string) (*Options, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &Options{Envs: map[string]string{}, Annotations: map[string]string{}}
	grants := m.grants[uid][container]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		var a pluginapi.ContainerAllocateResponse
		if err := proto.Unmarshal(grants[name].Answer, &a); err != nil {
			return nil, fmt.Errorf("devices of %s: %w", name, err)
		}
		maps.Copy(out.Envs, a.Envs)
		maps.Copy(out.Annotations, a.Annotations)
		out.Mounts = append(out.Mounts, a.Mounts...)
		out.Devices = append(out.Devices, a.Devices...)
		for _, d := range a.CdiDevices {
			out.CDI = append(out.CDI, d.Name)
		}
	}
	slices.SortFunc(out.Mounts, func(a, b *pluginapi.Mount) int { return strings.Compare(a.ContainerPath, b.ContainerPath) })
	return out, nil
}

// Of returns the ids of the devices that a container has, by resource.
func (m *Manager) Of(uid types.UID, container string) map[string][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]string{}
	for name, g := range m.grants[uid][container] {
		out[name] = slices.Clone(g.IDs)
	}
	return out
}

// Nodes are the NUMA nodes to which a device is near.
func (m *Manager) Nodes(resource, id string) numa.Mask {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.endpoints[resource]; e != nil && e.devices[id] != nil {
		return hintsOf(e.devices[id])
	}
	return 0
}

// All lists the devices that there are, by resource.
func (m *Manager) All() map[string][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]string{}
	for name, e := range m.endpoints {
		out[name] = e.healthy()
	}
	return out
}

// Release takes back what a pod had.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grants[uid] == nil {
		return nil
	}
	delete(m.grants, uid)
	return m.save()
}

// Pods lists the pods that have devices.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.grants))
}
