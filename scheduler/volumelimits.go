package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

// hasCapacity says that a driver can make a volume for a claim where the node
// reaches it: one whose CSIDriver object says that it tells of its capacity
// must have told of enough (KEP-1472).
func hasCapacity(s storage, class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim, node *corev1.Node) bool {
	d := s.driver(class.Provisioner)
	if d == nil || d.Spec.StorageCapacity == nil || !*d.Spec.StorageCapacity {
		return true
	}
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return slices.ContainsFunc(s.capacities(class.Name), func(c *storagev1.CSIStorageCapacity) bool {
		most := c.MaximumVolumeSize
		if most == nil {
			most = c.Capacity
		}
		if most == nil || most.Cmp(want) < 0 || c.NodeTopology == nil {
			return false
		}
		sel, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		return err == nil && sel.Matches(labels.Set(node.Labels))
	})
}

// volumeRestrictions keeps a claim that is for one pod to one pod.
type volumeRestrictions struct{ storage storage }

func (volumeRestrictions) Name() string { return "VolumeRestrictions" }
func (volumeRestrictions) Wakes() Event { return StorageChanged | PodRemoved | PodUpdated }
func (f volumeRestrictions) For(p *Pod) Check {
	others := map[types.UID]string{}
	for _, name := range p.claims {
		claim := f.storage.claim(p.Namespace, name)
		if claim == nil || !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			continue
		}
		for uid, node := range f.storage.users(p.Namespace, name) {
			if uid != p.UID {
				others[uid] = node
			}
		}
	}
	if len(others) == 0 {
		return nil
	}
	reason := no(&Reason{Plugin: f.Name(), Text: "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"})
	return func(n *Node) []*Reason {
		for uid, node := range others {
			// On this node a preemption may have taken it off.
			if node != n.Name || n.pods[uid] != nil {
				return reason
			}
		}
		return nil
	}
}

// volumeLimits refuses nodes on which a driver has as many volumes as it
// takes.
type volumeLimits struct{ storage storage }

func (volumeLimits) Name() string { return "NodeVolumeLimits" }
func (volumeLimits) Wakes() Event { return StorageChanged | NodeAdded | PodRemoved | PodUpdated }
func (f volumeLimits) For(p *Pod) Check {
	wants := driverVolumes(f.storage, p)
	if len(wants) == 0 {
		return nil
	}
	reason := no(&Reason{Plugin: f.Name(), Text: "node(s) exceed max volume count"})
	return func(n *Node) []*Reason {
		csi := f.storage.csiNode(n.Name)
		if csi == nil {
			return nil
		}
		var have map[driverVolume]bool
		for _, d := range csi.Spec.Drivers {
			if d.Allocatable == nil || d.Allocatable.Count == nil || !slices.ContainsFunc(keys(wants), func(v driverVolume) bool { return v.driver == d.Name }) {
				continue
			}
			if have == nil {
				have = map[driverVolume]bool{}
				for _, other := range n.pods {
					for v := range driverVolumes(f.storage, other) {
						have[v] = true
					}
				}
			}
			total, fresh := 0, 0
			for v := range have {
				if v.driver == d.Name {
					total++
				}
			}
			for v := range wants {
				if v.driver == d.Name && !have[v] {
					fresh++
				}
			}
			if fresh > 0 && total+fresh > int(*d.Allocatable.Count) {
				return reason
			}
		}
		return nil
	}
}

// driverVolume is a volume of a CSI driver: by its handle, or by its claim as
// long as it is not made yet.
type driverVolume struct{ driver, handle string }

// driverVolumes are the volumes of CSI drivers behind a pod's claims.
func driverVolumes(s storage, p *Pod) map[driverVolume]bool {
	var out map[driverVolume]bool
	for _, name := range p.claims {
		claim := s.claim(p.Namespace, name)
		if claim == nil {
			continue
		}
		var v driverVolume
		if pv := s.volume(claim.Spec.VolumeName); claim.Spec.VolumeName != "" && pv != nil {
			if pv.Spec.CSI == nil {
				continue
			}
			v = driverVolume{pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle}
		} else if class := s.class(volume.GetPersistentVolumeClaimClass(claim)); class != nil {
			v = driverVolume{class.Provisioner, claim.Namespace + "/" + claim.Name}
		} else {
			continue
		}
		if out == nil {
			out = map[driverVolume]bool{}
		}
		out[v] = true
	}
	return out
}

func keys(m map[driverVolume]bool) []driverVolume {
	out := make([]driverVolume, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}
