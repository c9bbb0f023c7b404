package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// disk is a volume of the driver "d".
func disk(name string) *corev1.PersistentVolume {
	v := volumeOn(name, "", "")
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: name}
	return v
}

func TestVolumeLimits(t *testing.T) {
	limit := int32(2)
	s := &shelf{
		claims: map[string]*corev1.PersistentVolumeClaim{}, classes: map[string]*storagev1.StorageClass{"d": storageClass("d", "d", storagev1.VolumeBindingWaitForFirstConsumer)},
		volumes: []*corev1.PersistentVolume{disk("v1"), disk("v2"), disk("v3"), volumeOn("plain", "", "")},
		nodes: map[string]*storagev1.CSINode{"a": {ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: "other"}, {Name: "d", Allocatable: &storagev1.VolumeNodeResources{Count: &limit}},
		}}}},
	}
	for _, c := range []*corev1.PersistentVolumeClaim{
		claimOf("c1", "", boundTo("v1")), claimOf("c2", "", boundTo("v2")), claimOf("c3", "", boundTo("v3")), claimOf("cp", "", boundTo("plain")), claimOf("new", "d"),
	} {
		s.claims[c.Name] = c
	}
	profile := withVolumes(DefaultProfile(), s)
	const full = "0/1 nodes are available: 1 node(s) exceed max volume count."
	for name, c := range map[string]struct {
		placed [][]string
		claims []string
		want   string
	}{
		"room":              {[][]string{{"c1"}}, []string{"c2"}, "a"},
		"full":              {[][]string{{"c1"}, {"c2"}}, []string{"c3"}, full},
		"full, to be made":  {[][]string{{"c1"}, {"c2"}}, []string{"new"}, full},
		"shared":            {[][]string{{"c1"}, {"c2"}, {"c1"}}, []string{"c2"}, "a"},
		"two of one pod":    {[][]string{{"c1"}}, []string{"c2", "c3"}, full},
		"not of the driver": {[][]string{{"c1"}, {"c2"}}, []string{"cp"}, "a"},
	} {
		snap := snapshot([]*corev1.Node{node("a")}, nil)
		for _, claims := range c.placed {
			p := pod("", withClaims(claims...))
			p.UID = types.UID(name + claims[0] + string(rune(len(snap.where))))
			snap.SetPod(NewPod(p), "a")
		}
		n, d := placeWith(NewPod(pod(name, withClaims(c.claims...))), profile, snap)
		if got := placedOn(n, d); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func placedOn(n *Node, d *Diagnosis) string {
	if n != nil {
		return n.Name
	}
	return d.Message()
}

func TestClaimsOfOnePod(t *testing.T) {
	claim := claimOf("c", "", boundTo("v"))
	claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	s := &shelf{claims: map[string]*corev1.PersistentVolumeClaim{"c": claim}, volumes: []*corev1.PersistentVolume{disk("v")}}
	profile := withVolumes(DefaultProfile(), s)
	snap := snapshot([]*corev1.Node{node("a"), node("b")}, nil)
	first := NewPod(pod("first", withClaims("c")))
	snap.SetPod(first, "a")
	s.placed = snap.claimUsers["default/c"]
	if len(s.placed) != 1 || s.placed[first.UID] != "a" {
		t.Fatalf("users of the claim: %v", snap.claimUsers)
	}
	second := NewPod(pod("second", withClaims("c")))
	n, d := placeWith(second, profile, snap)
	if got := placedOn(n, d); got != "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode." {
		t.Error(got)
	}
	snap.RemovePod(first.UID)
	s.placed = snap.claimUsers["default/c"]
	if n, d := placeWith(second, profile, snap); n == nil {
		t.Error(d.Message())
	}
}

func TestCapacity(t *testing.T) {
	says := true
	size := func(s string) *resource.Quantity { q := resource.MustParse(s); return &q }
	s := &shelf{
		claims:  map[string]*corev1.PersistentVolumeClaim{"c": claimOf("c", "d")},
		classes: map[string]*storagev1.StorageClass{"d": storageClass("d", "d", storagev1.VolumeBindingWaitForFirstConsumer)},
		drivers: map[string]*storagev1.CSIDriver{"d": {Spec: storagev1.CSIDriverSpec{StorageCapacity: &says}}},
	}
	at := func(zone string, capacity, most *resource.Quantity) *storagev1.CSIStorageCapacity {
		return &storagev1.CSIStorageCapacity{NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{"zone": zone}}, StorageClassName: "d", Capacity: capacity, MaximumVolumeSize: most}
	}
	profile := withVolumes(DefaultProfile(), s)
	const none = "0/2 nodes are available: 2 node(s) did not have enough free storage."
	for name, c := range map[string]struct {
		space []*storagev1.CSIStorageCapacity
		want  string
	}{
		"nothing told":       {nil, none},
		"enough in one zone": {[]*storagev1.CSIStorageCapacity{at("1", size("1Mi"), nil), at("2", size("5Gi"), nil)}, "b"},
		"too large a volume": {[]*storagev1.CSIStorageCapacity{at("1", size("5Gi"), size("1Mi"))}, none},
		"no topology":        {[]*storagev1.CSIStorageCapacity{{StorageClassName: "d", Capacity: size("5Gi")}}, none},
	} {
		s.space = c.space
		n, d := placeWith(NewPod(pod("p", withClaims("c"))), profile, snapshot([]*corev1.Node{node("a", nodeLabel("zone", "1")), node("b", nodeLabel("zone", "2"))}, nil))
		if got := placedOn(n, d); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestViewOfStorage makes the view that a running scheduler has, every kind of
// it there and empty.
func TestViewOfStorage(t *testing.T) {
	b, synced, err := newVolumeBinder(nil, client.NewInformers(nil), func() {})
	if err != nil || len(synced) != 6 {
		t.Fatal(len(synced), err)
	}
	b.snapshot = NewSnapshot()
	if b.driver("d") != nil || b.csiNode("n") != nil || len(b.capacities("c")) != 0 || len(b.users("ns", "c")) != 0 {
		t.Error("an empty cluster has drivers")
	}
}
