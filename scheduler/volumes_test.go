package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

// shelf is storage in memory.
type shelf struct {
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes []*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	taken   map[string]*corev1.PersistentVolume
	drivers map[string]*storagev1.CSIDriver
	nodes   map[string]*storagev1.CSINode
	space   []*storagev1.CSIStorageCapacity
	placed  map[types.UID]string
}

func (s *shelf) driver(name string) *storagev1.CSIDriver           { return s.drivers[name] }
func (s *shelf) csiNode(name string) *storagev1.CSINode            { return s.nodes[name] }
func (s *shelf) capacities(string) []*storagev1.CSIStorageCapacity { return s.space }
func (s *shelf) users(string, string) map[types.UID]string         { return s.placed }

func (s *shelf) claim(_, name string) *corev1.PersistentVolumeClaim { return s.claims[name] }
func (s *shelf) class(name string) *storagev1.StorageClass          { return s.classes[name] }
func (s *shelf) reserved() map[string]*corev1.PersistentVolume      { return s.taken }
func (s *shelf) volume(name string) *corev1.PersistentVolume {
	for _, v := range s.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}
func (s *shelf) candidates(class string) []*corev1.PersistentVolume {
	var out []*corev1.PersistentVolume
	for _, v := range s.volumes {
		if volume.GetPersistentVolumeClass(v) == class {
			out = append(out, v)
		}
	}
	return out
}

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func claimOf(name, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	c.Spec.StorageClassName, c.Spec.AccessModes = &class, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	for _, f := range change {
		f(c)
	}
	return c
}

func boundTo(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName = name
		c.Annotations = map[string]string{volume.AnnBindCompleted: "yes"}
	}
}

func selected(node string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{volume.AnnSelectedNode: node}
	}
}

func volumeOn(name, class, host string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.StorageClassName, v.Spec.AccessModes = class, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	v.Status.Phase = corev1.VolumeAvailable
	if host != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
	}
	return v
}

func withClaims(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, n := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: n, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: n}}})
		}
	}
}

func TestVolumesDecideTheNode(t *testing.T) {
	zoned := volumeOn("zoned", "", "")
	zoned.Labels = map[string]string{corev1.LabelTopologyZone: "z2"}
	s := &shelf{
		claims: map[string]*corev1.PersistentVolumeClaim{},
		volumes: []*corev1.PersistentVolume{
			volumeOn("on-b", "", "b"), volumeOn("static-a", "static", "a"), zoned, volumeOn("nowhere", "", "c"),
		},
		classes: map[string]*storagev1.StorageClass{
			"now":    storageClass("now", "p", storagev1.VolumeBindingImmediate),
			"later":  storageClass("later", "p", storagev1.VolumeBindingWaitForFirstConsumer),
			"static": storageClass("static", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer),
			"in-z2":  storageClass("in-z2", "p", storagev1.VolumeBindingWaitForFirstConsumer),
		},
	}
	s.classes["in-z2"].AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"z2"}}}}}
	for _, c := range []*corev1.PersistentVolumeClaim{
		claimOf("bound-b", "", boundTo("on-b")), claimOf("bound-z2", "", boundTo("zoned")), claimOf("bound-c", "", boundTo("nowhere")),
		claimOf("orphan", "", boundTo("gone")), claimOf("immediate", "now"), claimOf("provisioned", "later"),
		claimOf("chosen-a", "later", selected("a")), claimOf("static1", "static"), claimOf("static2", "static"), claimOf("zone", "in-z2"),
	} {
		s.claims[c.Name] = c
	}
	nodes := []*corev1.Node{node("a", nodeLabel(corev1.LabelTopologyZone, "z1")), node("b", nodeLabel(corev1.LabelTopologyZone, "z2"))}
	for name, c := range map[string]struct {
		claims []string
		want   string // node, or message
	}{
		"bound volume's node":   {[]string{"bound-b"}, "b"},
		"bound volume's zone":   {[]string{"bound-z2"}, "b"},
		"no such node":          {[]string{"bound-c"}, "0/2 nodes are available: 2 node(s) had volume node affinity conflict."},
		"volume gone":           {[]string{"orphan"}, `0/2 nodes are available: persistentvolumeclaim "orphan" bound to non-existent persistentvolume "gone".`},
		"claim missing":         {[]string{"nope"}, `0/2 nodes are available: persistentvolumeclaim "nope" not found.`},
		"unbound immediate":     {[]string{"bound-b", "immediate"}, "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."},
		"node chosen before":    {[]string{"chosen-a"}, "a"},
		"volume that waits":     {[]string{"static1"}, "a"},
		"one volume, two ask":   {[]string{"static1", "static2"}, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."},
		"provisioned by zone":   {[]string{"zone"}, "b"},
		"conflict of two":       {[]string{"static1", "bound-b"}, "0/2 nodes are available: 1 node(s) didn't find available persistent volumes to bind, 1 node(s) had volume node affinity conflict."},
		"provisioned with bond": {[]string{"provisioned", "bound-b"}, "b"},
	} {
		profile := withVolumes(DefaultProfile(), s)
		p := NewPod(pod(name, withClaims(c.claims...)))
		snap := snapshot(nodes, nil)
		n, d := placeWith(p, profile, snap)
		got := ""
		if n != nil {
			got = n.Name
		} else {
			got = d.Message()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	// What another pod has reserved is not there for the next.
	s.taken = map[string]*corev1.PersistentVolume{"static-a": s.volumes[1]}
	if _, why := choose(s, []*corev1.PersistentVolumeClaim{s.claims["static1"]}, nodes[0]); why == "" {
		t.Error("a reserved volume was chosen again")
	}
}

func TestStorageChangesAreSeen(t *testing.T) {
	s := &shelf{claims: map[string]*corev1.PersistentVolumeClaim{"c": claimOf("c", "now")}, classes: map[string]*storagev1.StorageClass{}}
	profile, snap, cached := withVolumes(DefaultProfile(), s), snapshot([]*corev1.Node{node("a")}, nil), newClasses(8)
	p := NewPod(pod("p", withClaims("c")))
	before := cached.of(p, profile, snap)
	s.claims["c"], s.volumes = claimOf("c", "", boundTo("v")), []*corev1.PersistentVolume{volumeOn("v", "", "a")}
	snap.storage++
	after := cached.of(p, profile, snap)
	if before == after {
		t.Fatal("what was prepared before the storage changed is used again")
	}
}

func placeWith(p *Pod, profile *Profile, s *Snapshot) (*Node, *Diagnosis) {
	return newClasses(8).of(p, profile, s).place(p, profile, s, false)
}
