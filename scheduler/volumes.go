package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/coxswain/cox/api/podspec"
)

// storage is what the volume plugins see of claims, volumes and classes. What
// is returned is nil when there is none, and read only.
type storage interface {
	claim(namespace, name string) *corev1.PersistentVolumeClaim
	volume(name string) *corev1.PersistentVolume
	// candidates are the volumes of a class.
	candidates(class string) []*corev1.PersistentVolume
	class(name string) *storagev1.StorageClass
	// reserved are volumes that are being bound for pods placed before.
	reserved() map[string]*corev1.PersistentVolume
	// driver and csiNode are what CSI drivers say of themselves, and of a node;
	// capacities what they have left for a class.
	driver(name string) *storagev1.CSIDriver
	csiNode(name string) *storagev1.CSINode
	capacities(class string) []*storagev1.CSIStorageCapacity
	// users are the nodes of the placed pods that use a claim.
	users(namespace, claim string) map[types.UID]string
}

// podVolumes is the state of a pod's claims: the volumes of those that are
// bound, and the claims that wait for the pod's node.
type podVolumes struct {
	bound   []*corev1.PersistentVolume
	waiting []*corev1.PersistentVolumeClaim
}

// volumesOf sorts a pod's claims, or says why no node can run the pod yet.
func volumesOf(s storage, p *corev1.Pod) (podVolumes, string) {
	var out podVolumes
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		name := podspec.ClaimName(p, v)
		if name == "" {
			continue
		}
		claim := s.claim(p.Namespace, name)
		switch {
		case claim == nil && v.Ephemeral != nil:
			return out, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return out, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return out, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return out, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		}
		if v.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(p, claim); err != nil {
				return out, err.Error()
			}
		}
		if fullyBound(claim) {
			pv := s.volume(claim.Spec.VolumeName)
			if pv == nil {
				return out, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
			}
			out.bound = append(out.bound, pv)
			continue
		}
		class := s.class(volume.GetPersistentVolumeClaimClass(claim))
		delayed := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
		if !delayed || claim.Spec.VolumeName != "" {
			return out, "pod has unbound immediate PersistentVolumeClaims"
		}
		if !slices.Contains(out.waiting, claim) {
			out.waiting = append(out.waiting, claim)
		}
	}
	return out, ""
}

func fullyBound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// choice is how one waiting claim gets its volume on a node: an existing one,
// or (nil) one that is provisioned there.
type choice struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

const (
	reasonAffinity = "node(s) had volume node affinity conflict"
	reasonNoVolume = "node(s) didn't find available persistent volumes to bind"
	reasonZone     = "node(s) had no available volume zone"
	reasonCapacity = "node(s) did not have enough free storage"
)

// choose finds a volume for every waiting claim on a node: smaller claims
// first, so that a large volume is not spent on a small claim. Without one it
// says why.
func choose(s storage, waiting []*corev1.PersistentVolumeClaim, node *corev1.Node) ([]choice, string) {
	waiting = slices.Clone(waiting)
	slices.SortStableFunc(waiting, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	taken := map[string]*corev1.PersistentVolume{}
	for name, v := range s.reserved() {
		taken[name] = v
	}
	var out []choice
	for _, claim := range waiting {
		selected := claim.Annotations[volume.AnnSelectedNode]
		if selected != "" && selected != node.Name {
			return nil, reasonNoVolume // being provisioned on another node
		}
		class := volume.GetPersistentVolumeClaimClass(claim)
		if selected == "" {
			v, err := volume.FindMatchingVolume(claim, s.candidates(class), node, taken, false, true)
			if err != nil {
				return nil, reasonNoVolume
			}
			if v != nil {
				taken[v.Name] = v
				out = append(out, choice{claim, v})
				continue
			}
		}
		c := s.class(class)
		if c == nil || c.Provisioner == "" || c.Provisioner == volume.NotSupportedProvisioner || !topologyAllows(c.AllowedTopologies, node) {
			return nil, reasonNoVolume
		}
		if !hasCapacity(s, c, claim, node) {
			return nil, reasonCapacity
		}
		out = append(out, choice{claim, nil})
	}
	return out, ""
}

// topologyAllows says that a class provisions on a node: it has no terms, or
// one of them matches the node's labels.
func topologyAllows(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, ok := node.Labels[e.Key]
			return !ok || !slices.Contains(e.Values, value)
		})
	})
}

// volumesReady refuses, for every node at once, pods whose claims are missing
// or not bound though nothing waits for the pod's node.
type volumesReady struct{ storage storage }

func (volumesReady) Name() string { return "VolumeBinding" }
func (volumesReady) Wakes() Event { return StorageChanged | PodUpdated }
func (f volumesReady) For(p *Pod) Check {
	if len(p.claims) == 0 {
		return nil
	}
	_, why := volumesOf(f.storage, p.Pod)
	if why == "" {
		return nil
	}
	reason := no(&Reason{Plugin: f.Name(), Text: why, Unresolvable: true, Whole: true})
	return func(*Node) []*Reason { return reason }
}

// volumeBinding refuses nodes that a bound volume cannot be used on, or on
// which a waiting claim would find no volume.
type volumeBinding struct{ storage storage }

func (volumeBinding) Name() string { return "VolumeBinding" }
func (volumeBinding) Wakes() Event { return StorageChanged | NodeAdded | NodeLabels | PodUpdated }
func (f volumeBinding) For(p *Pod) Check {
	if len(p.claims) == 0 {
		return nil
	}
	vols, why := volumesOf(f.storage, p.Pod)
	if why != "" {
		return nil // volumesReady has said so
	}
	conflict := no(&Reason{Plugin: f.Name(), Text: reasonAffinity, Unresolvable: true})
	none := map[string][]*Reason{}
	for _, why := range []string{reasonNoVolume, reasonCapacity} {
		none[why] = no(&Reason{Plugin: f.Name(), Text: why, Unresolvable: true})
	}
	return func(n *Node) []*Reason {
		for _, v := range vols.bound {
			if volume.CheckNodeAffinity(v, n.Labels) != nil {
				return conflict
			}
		}
		if len(vols.waiting) > 0 {
			if _, why := choose(f.storage, vols.waiting, n.Node); why != "" {
				return none[why]
			}
		}
		return nil
	}
}

// volumeZone refuses nodes outside the zone or region that the labels of a
// bound volume name.
type volumeZone struct{ storage storage }

var zoneLabels = []string{
	corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
}

func (volumeZone) Name() string { return "VolumeZone" }
func (volumeZone) Wakes() Event { return StorageChanged | NodeAdded | NodeLabels | PodUpdated }
func (f volumeZone) For(p *Pod) Check {
	if len(p.claims) == 0 {
		return nil
	}
	vols, _ := volumesOf(f.storage, p.Pod)
	type want struct {
		key  string
		zone []string
	}
	var wants []want
	for _, v := range vols.bound {
		for _, key := range zoneLabels {
			if value, ok := v.Labels[key]; ok {
				wants = append(wants, want{key, strings.Split(value, "__")}) // several zones of one volume
			}
		}
	}
	if len(wants) == 0 {
		return nil
	}
	reason := no(&Reason{Plugin: f.Name(), Text: reasonZone, Unresolvable: true})
	return func(n *Node) []*Reason {
		for _, w := range wants {
			if !slices.Contains(w.zone, n.Labels[w.key]) {
				return reason
			}
		}
		return nil
	}
}
