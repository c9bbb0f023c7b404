package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// annotationNodeID holds, on the Node, the ids that drivers know it by.
const annotationNodeID = "csi.volume.kubernetes.io/nodeid"

// leastPeriod is how often at most a driver is asked how many volumes it takes
// (API documentation of CSIDriver).
const leastPeriod = 10 * time.Second

// writeNode changes the node's CSINode object, which it makes if need be.
// change returns false to leave it.
func (m *Manager) writeNode(ctx context.Context, change func(*storagev1.CSINode) bool) error {
	m.registering.Lock()
	defer m.registering.Unlock()
	nodes := client.CSINodes.In(m.cfg.Client, "")
	for {
		_, err := nodes.Mutate(ctx, m.cfg.NodeName, "", func(n *storagev1.CSINode) (bool, error) { return change(n), nil })
		if !apierrors.IsNotFound(err) {
			return err
		}
		node, err := client.Nodes.In(m.cfg.Client, "").Get(ctx, m.cfg.NodeName)
		if err != nil {
			return err
		}
		n := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{
			Name:            m.cfg.NodeName,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}
		change(n)
		if _, err = nodes.Create(ctx, n); !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
}

// setDriver enters what a driver said of itself; false when that is there
// already.
func setDriver(n *storagev1.CSINode, name string, info *csiapi.NodeGetInfoResponse) bool {
	want := storagev1.CSINodeDriver{Name: name, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(info.GetAccessibleTopology().GetSegments()))}
	if most := info.MaxVolumesPerNode; most > 0 {
		count := int32(min(most, 1<<31-1))
		want.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	i := slices.IndexFunc(n.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name })
	if i < 0 {
		n.Spec.Drivers = append(n.Spec.Drivers, want)
		return true
	}
	have := &n.Spec.Drivers[i]
	if have.NodeID == want.NodeID && slices.Equal(have.TopologyKeys, want.TopologyKeys) && count(have) == count(&want) {
		return false
	}
	if have.NodeID == want.NodeID && slices.Equal(have.TopologyKeys, want.TopologyKeys) {
		have.Allocatable = want.Allocatable
		return true
	}
	*have = want
	return true
}

// count is how many volumes a driver takes on the node, -1 for any number.
func count(d *storagev1.CSINodeDriver) int32 {
	if d.Allocatable == nil || d.Allocatable.Count == nil {
		return -1
	}
	return *d.Allocatable.Count
}

func dropDriver(n *storagev1.CSINode, name string) bool {
	had := len(n.Spec.Drivers)
	n.Spec.Drivers = slices.DeleteFunc(n.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name })
	return len(n.Spec.Drivers) != had
}

// writeLabels puts the node's place in the driver's topology, and its id, on
// the Node.
func (m *Manager) writeLabels(ctx context.Context, name string, info *csiapi.NodeGetInfoResponse) error {
	_, err := client.Nodes.In(m.cfg.Client, "").Mutate(ctx, m.cfg.NodeName, "", func(n *corev1.Node) (bool, error) {
		return labelNode(n, name, info)
	})
	return err
}

// labelNode enters a driver's topology and id; changed says that this made a
// difference. A label that is there already stays: a driver must not move the
// node in another's topology, nor rename its host.
func labelNode(n *corev1.Node, name string, info *csiapi.NodeGetInfoResponse) (changed bool, err error) {
	segments := info.GetAccessibleTopology().GetSegments()
	for _, key := range slices.Sorted(maps.Keys(segments)) {
		have, ok := n.Labels[key]
		switch {
		case !ok:
			metav1.SetMetaDataLabel(&n.ObjectMeta, key, segments[key])
			changed = true
		case have != segments[key]:
			return false, fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, segments[key], key, have)
		}
	}
	ids := map[string]string{}
	// What is not understood there is not ours to keep.
	if json.Unmarshal([]byte(n.Annotations[annotationNodeID]), &ids) != nil || ids == nil {
		ids = map[string]string{}
	}
	if ids[name] != info.GetNodeId() {
		ids[name] = info.GetNodeId()
		b, err := json.Marshal(ids)
		if err != nil {
			return false, err
		}
		metav1.SetMetaDataAnnotation(&n.ObjectMeta, annotationNodeID, string(b))
		changed = true
	}
	return changed, nil
}

// period is how often a driver is asked how many volumes it takes, 0 for
// never (KEP-4876).
func period(d *storagev1.CSIDriver) time.Duration {
	if d == nil || d.Spec.NodeAllocatableUpdatePeriodSeconds == nil {
		return 0
	}
	return max(time.Duration(*d.Spec.NodeAllocatableUpdatePeriodSeconds)*time.Second, leastPeriod)
}

// schedule sets when a driver is next asked how many volumes it takes.
func (m *Manager) schedule(d *driver) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	object, _ := m.objects.Get("", d.name)
	if p := period(object); p > 0 && m.drivers[d.name] == d && m.ctx.Err() == nil {
		d.timer = m.cfg.Clock.AfterFunc(p, func() {
			m.count(d)
			m.schedule(d)
		})
	}
}

// count asks a driver how many volumes it takes and enters that.
func (m *Manager) count(d *driver) {
	m.mu.Lock()
	ctx := m.ctx
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := d.nodeInfo(ctx)
	if err == nil {
		err = m.writeNode(ctx, func(n *storagev1.CSINode) bool {
			return slices.ContainsFunc(n.Spec.Drivers, func(have storagev1.CSINodeDriver) bool { return have.Name == d.name }) && setDriver(n, d.name, info)
		})
	}
	if err != nil && ctx.Err() == nil {
		m.cfg.Log.Warn("cannot update how many volumes a driver takes", "driver", d.name, "error", err)
	}
}
