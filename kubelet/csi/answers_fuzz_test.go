package csi

import (
	"testing"
	"unicode/utf8"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/internal/wiretest"
)

// FuzzAnswers takes what a driver answers: of who it is only what is new gets
// onto the node, once, and of a volume's use only what can be.
func FuzzAnswers(f *testing.F) {
	info := &csiapi.NodeGetInfoResponse{NodeId: "n-1", MaxVolumesPerNode: 1 << 40, AccessibleTopology: &csiapi.Topology{Segments: map[string]string{"z/zone": "a", "kubernetes.io/hostname": "other"}}}
	can := &csiapi.NodeGetCapabilitiesResponse{Capabilities: []*csiapi.NodeServiceCapability{
		{}, {Type: &csiapi.NodeServiceCapability_Rpc{Rpc: &csiapi.NodeServiceCapability_RPC{Type: csiapi.NodeServiceCapability_RPC_VOLUME_CONDITION}}},
	}}
	use := &csiapi.NodeGetVolumeStatsResponse{
		Usage:           []*csiapi.VolumeUsage{{Unit: csiapi.VolumeUsage_BYTES, Total: 7, Used: -3}, {Unit: 9}, {Unit: csiapi.VolumeUsage_INODES}},
		VolumeCondition: &csiapi.VolumeCondition{Abnormal: true, Message: "é"},
	}
	for _, ids := range []string{"", "null", `{"d":"n-1"}`, `{"d":1}`, `[]`} {
		f.Add(wiretest.Marshal(f, info), wiretest.Marshal(f, can), wiretest.Marshal(f, use), ids)
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte, ids string) {
		var info csiapi.NodeGetInfoResponse
		var can csiapi.NodeGetCapabilitiesResponse
		var use csiapi.NodeGetVolumeStatsResponse
		if proto.Unmarshal(a, &info) != nil || proto.Unmarshal(b, &can) != nil || proto.Unmarshal(c, &use) != nil {
			return // gRPC hands no such thing on
		}
		n := &corev1.Node{}
		n.Labels, n.Annotations = map[string]string{"kubernetes.io/hostname": "n"}, map[string]string{annotationNodeID: ids}
		if changed, err := labelNode(n, "d", &info); err == nil && changed {
			if again, err := labelNode(n, "d", &info); err != nil || again {
				t.Errorf("entered twice: %v, %v", again, err)
			}
		}
		if n.Labels["kubernetes.io/hostname"] != "n" {
			t.Errorf("the driver renamed the host: %v", n.Labels)
		}
		cn := &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "other"}}}}
		if !setDriver(cn, "d", &info) || setDriver(cn, "d", &info) || len(cn.Spec.Drivers) != 2 {
			t.Errorf("entered as %+v", cn.Spec.Drivers)
		}
		if d := cn.Spec.Drivers[1]; d.Allocatable != nil && *d.Allocatable.Count < 1 {
			t.Errorf("takes %d volumes", *d.Allocatable.Count)
		}
		s := statsOf(&use, abilitiesOf(&can))
		if min(s.Capacity, s.Available, s.Used, s.Inodes, s.InodesFree, s.InodesUsed) < 0 || len(s.Message) > mostMessage || !utf8.ValidString(s.Message) {
			t.Errorf("%+v", s)
		}
	})
}

// TestLabelsOfDrivers: a driver adds labels, and changes none.
func TestLabelsOfDrivers(t *testing.T) {
	info := &csiapi.NodeGetInfoResponse{NodeId: "x", AccessibleTopology: &csiapi.Topology{Segments: map[string]string{"z/zone": "b"}}}
	n := &corev1.Node{}
	n.Annotations = map[string]string{annotationNodeID: "null"}
	if changed, err := labelNode(n, "d", info); !changed || err != nil || n.Labels["z/zone"] != "b" || n.Annotations[annotationNodeID] != `{"d":"x"}` {
		t.Errorf("%v, %v: %v %v", changed, err, n.Labels, n.Annotations)
	}
	n.Labels["z/zone"] = "a"
	const want = `detected topology value collision: driver reported "z/zone":"b" but existing label is "z/zone":"a"`
	if _, err := labelNode(n, "d", info); err == nil || err.Error() != want || n.Labels["z/zone"] != "a" {
		t.Errorf("%v, %v", err, n.Labels)
	}
}
