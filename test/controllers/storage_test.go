package controllers_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/localvolume"
	"github.com/coxswain/cox/scheduler"
)

func claim(ns, name, size string, class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
}

func persistentVolume(name, size string, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: policy,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt/" + name}},
		},
	}
}

func claimPhase(want corev1.PersistentVolumeClaimPhase) func(*corev1.PersistentVolumeClaim) bool {
	return func(c *corev1.PersistentVolumeClaim) bool { return c != nil && c.Status.Phase == want }
}

func volumePhase(want corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) bool {
	return func(v *corev1.PersistentVolume) bool { return v != nil && v.Status.Phase == want }
}

func event(w *world, ns, object, reason, text string) {
	w.t.Helper()
	eventually(w, client.Events, ns, reason+" of "+object, func(all []*corev1.Event) bool {
		return slices.ContainsFunc(all, func(e *corev1.Event) bool {
			return e.InvolvedObject.Name == object && e.Reason == reason && strings.Contains(e.Message, text)
		})
	})
}

func TestClaimsAndVolumesBind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("data"), t.Context()
	volumes, claims := client.PersistentVolumes.In(w.root, ""), client.PersistentVolumeClaims.In(w.root, ns)
	for name, size := range map[string]string{"big": "10Gi", "fits": "2Gi", "small": "500Mi"} {
		_, err := volumes.Create(ctx, persistentVolume(name, size, corev1.PersistentVolumeReclaimRetain))
		w.must(err)
	}
	object(w, client.PersistentVolumes, "", "fits", "available", volumePhase(corev1.VolumeAvailable))
	_, err := claims.Create(ctx, claim(ns, "a", "1Gi", ptr.To("")))
	w.must(err)
	a := object(w, client.PersistentVolumeClaims, ns, "a", "bound", claimPhase(corev1.ClaimBound))
	if size := a.Status.Capacity[corev1.ResourceStorage]; a.Spec.VolumeName != "fits" || size.String() != "2Gi" ||
		a.Annotations[volume.AnnBindCompleted] != "yes" || a.Annotations[volume.AnnBoundByController] != "yes" {
		t.Errorf("bound as %+v", a)
	}
	object(w, client.PersistentVolumes, "", "fits", "bound", func(v *corev1.PersistentVolume) bool {
		return v.Status.Phase == corev1.VolumeBound && v.Spec.ClaimRef.UID == a.UID
	})
	// Nothing large enough yet: the claim waits, and takes the volume that comes.
	_, err = claims.Create(ctx, claim(ns, "late", "20Gi", ptr.To("")))
	w.must(err)
	event(w, ns, "late", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	_, err = volumes.Create(ctx, persistentVolume("huge", "30Gi", corev1.PersistentVolumeReclaimDelete))
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "late", "bound", claimPhase(corev1.ClaimBound))
	// A claim in use stays until the pod goes; then its volume is released.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "user"}, Spec: corev1.PodSpec{
		NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "a"}}}},
	}}
	_, err = client.Pods.In(w.root, ns).Create(ctx, pod)
	w.must(err)
	w.must(claims.Delete(ctx, "a", client.Options{}))
	w.must(claims.Delete(ctx, "late", client.Options{}))
	object(w, client.PersistentVolumeClaims, ns, "late", "gone", func(c *corev1.PersistentVolumeClaim) bool { return c == nil })
	if _, err := claims.Get(ctx, "a"); err != nil {
		t.Errorf("a claim in use went: %v", err)
	}
	w.must(client.Pods.In(w.root, ns).Delete(ctx, "user", client.Options{}))
	object(w, client.PersistentVolumeClaims, ns, "a", "gone", func(c *corev1.PersistentVolumeClaim) bool { return c == nil })
	object(w, client.PersistentVolumes, "", "fits", "released", volumePhase(corev1.VolumeReleased))
	object(w, client.PersistentVolumes, "", "huge", "failed", volumePhase(corev1.VolumeFailed))
	w.must(volumes.Delete(ctx, "fits", client.Options{}))
	object(w, client.PersistentVolumes, "", "fits", "gone", func(v *corev1.PersistentVolume) bool { return v == nil })
}

func TestBoundVolumeGoesAfterItsClaimIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("data"), t.Context()
	volumes, claims := client.PersistentVolumes.In(w.root, ""), client.PersistentVolumeClaims.In(w.root, ns)
	v := persistentVolume("v", "1Gi", corev1.PersistentVolumeReclaimRetain)
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "mine"}
	_, err := volumes.Create(ctx, v)
	w.must(err)
	object(w, client.PersistentVolumes, "", "v", "available", volumePhase(corev1.VolumeAvailable))
	// Reserved by name: no other claim takes it.
	_, err = claims.Create(ctx, claim(ns, "other", "1Gi", ptr.To("")))
	w.must(err)
	named := claim(ns, "third", "1Gi", ptr.To(""))
	named.Spec.VolumeName = "v"
	_, err = claims.Create(ctx, named)
	w.must(err)
	event(w, ns, "other", "FailedBinding", "no persistent volumes available")
	event(w, ns, "third", "FailedBinding", `volume "v" already bound to a different claim.`)
	_, err = claims.Create(ctx, claim(ns, "mine", "1Gi", ptr.To("")))
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "mine", "bound", claimPhase(corev1.ClaimBound))
	w.must(volumes.Delete(ctx, "v", client.Options{}))
	_, err = volumes.Mutate(ctx, "v", "", func(v *corev1.PersistentVolume) (bool, error) {
		v.Finalizers = nil
		return true, nil
	})
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "mine", "lost", claimPhase(corev1.ClaimLost))
	event(w, ns, "mine", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
}

// TestPopulatedVolumeChangesItsClaim does what volume populators do (KEP-1495):
// a claim waits, whose data come from a kind that nobody here knows; another
// gets a volume, which is then given to the first.
func TestPopulatedVolumeChangesItsClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("data"), t.Context()
	volumes, claims := client.PersistentVolumes.In(w.root, ""), client.PersistentVolumeClaims.In(w.root, ns)
	_, err := client.StorageClasses.In(w.root, "").Create(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "slow"}, Provisioner: "disk.example.com"})
	w.must(err)
	waits := claim(ns, "waits", "1Gi", ptr.To("slow"))
	waits.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: ptr.To("hello.example.com"), Kind: "Hello", Name: "world"}
	waits, err = claims.Create(ctx, waits)
	w.must(err)
	event(w, ns, "waits", "ExternalProvisioning", "Waiting for a volume to be created")
	v := persistentVolume("v", "1Gi", corev1.PersistentVolumeReclaimDelete)
	v.Spec.StorageClassName, v.Spec.ClaimRef = "slow", &corev1.ObjectReference{Namespace: ns, Name: "prime"}
	_, err = volumes.Create(ctx, v)
	w.must(err)
	_, err = claims.Create(ctx, claim(ns, "prime", "1Gi", ptr.To("slow")))
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "prime", "bound", claimPhase(corev1.ClaimBound))
	_, err = volumes.Mutate(ctx, "v", "", func(v *corev1.PersistentVolume) (bool, error) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "waits", UID: waits.UID}
		return true, nil
	})
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "waits", "bound", claimPhase(corev1.ClaimBound))
	object(w, client.PersistentVolumeClaims, ns, "prime", "lost", claimPhase(corev1.ClaimLost))
	event(w, ns, "prime", "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	w.must(claims.Delete(ctx, "prime", client.Options{}))
	object(w, client.PersistentVolumeClaims, ns, "prime", "gone", func(c *corev1.PersistentVolumeClaim) bool { return c == nil })
	if v, err := volumes.Get(ctx, "v"); err != nil || v.Status.Phase != corev1.VolumeBound || v.Spec.ClaimRef.Name != "waits" {
		t.Errorf("the volume went with the claim that had lost it: %+v, %v", v, err)
	}
}

func (w *world) localClass() {
	w.t.Helper()
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := client.StorageClasses.In(w.root, "").Create(w.t.Context(), &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: localvolumes.Class, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner:       localvolumes.Provisioner,
		VolumeBindingMode: &mode, AllowVolumeExpansion: ptr.To(true),
	})
	w.must(err)
}

func TestLocalVolumeFromClaimToTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, folder := w.namespace("data"), filepath.Join(t.TempDir(), "volumes")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := client.Nodes.In(w.root, "").Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "n1"}}})
	w.must(err)
	ended := make(chan error, 1)
	go func() {
		ended <- localvolume.Run(ctx, localvolume.Config{Volumes: w.root, Node: w.root, NodeName: "n1", Folder: folder, Log: w.log})
	}()
	w.localClass()
	claims := client.PersistentVolumeClaims.In(w.root, ns)
	_, err = claims.Create(ctx, claim(ns, "c", "1Gi", nil))
	w.must(err)
	event(w, ns, "c", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	object(w, client.Nodes, "", "n1", "announced", func(n *corev1.Node) bool { return n.Annotations[localvolumes.FolderAnnotation] == folder })
	_, err = claims.Mutate(ctx, "c", "", func(c *corev1.PersistentVolumeClaim) (bool, error) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnSelectedNode, "n1")
		return true, nil
	})
	w.must(err)
	c := object(w, client.PersistentVolumeClaims, ns, "c", "bound", claimPhase(corev1.ClaimBound))
	dir := filepath.Join(folder, c.Spec.VolumeName)
	object(w, client.PersistentVolumes, "", c.Spec.VolumeName, "bound", volumePhase(corev1.VolumeBound))
	_, err = claims.Mutate(ctx, "c", "", func(c *corev1.PersistentVolumeClaim) (bool, error) {
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
		return true, nil
	})
	w.must(err)
	object(w, client.PersistentVolumeClaims, ns, "c", "grown", func(c *corev1.PersistentVolumeClaim) bool {
		size := c.Status.Capacity[corev1.ResourceStorage]
		return size.String() == "3Gi"
	})
	w.must(os.WriteFile(filepath.Join(dir, "data"), []byte("x"), 0o600))
	w.must(claims.Delete(ctx, "c", client.Options{}))
	object(w, client.PersistentVolumes, "", c.Spec.VolumeName, "gone", func(v *corev1.PersistentVolume) bool { return v == nil })
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	cancel()
	<-ended
}

func TestPodWithClaimsIsScheduledWithItsVolumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, folder := w.namespace("data"), filepath.Join(t.TempDir(), "volumes")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "n1"}}}
	_, err := client.Nodes.In(w.root, "").Create(ctx, node)
	w.must(err)
	_, err = client.Nodes.In(w.root, "").Mutate(ctx, "n1", "status", func(n *corev1.Node) (bool, error) {
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		return true, nil
	})
	w.must(err)
	_, err = client.Nodes.In(w.root, "").Mutate(ctx, "n1", "", func(n *corev1.Node) (bool, error) {
		n.Spec.Taints = nil
		return true, nil
	})
	w.must(err)
	running.Go(func() {
		_ = localvolume.Run(ctx, localvolume.Config{Volumes: w.root, Node: w.root, NodeName: "n1", Folder: folder, Log: w.log})
	})
	door := client.As(w.server.Door(), client.User{Name: "system:kube-scheduler", Groups: []string{"system:authenticated"}})
	informers := client.NewInformers(door)
	sched, err := scheduler.New(scheduler.Config{Client: door, Informers: informers, Recorder: client.NewRecorder(ctx, door, "default-scheduler", ""), Log: w.log})
	w.must(err)
	informers.Start(ctx)
	running.Go(func() { sched.Run(ctx) })
	w.localClass()
	object(w, client.Nodes, "", "n1", "announced", func(n *corev1.Node) bool { return n.Annotations[localvolumes.FolderAnnotation] == folder })

	// The pod comes before its claim, and has a volume of its own.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db", Labels: map[string]string{"hollow": "no"}}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "i"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Volumes: []corev1.Volume{
			{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
			{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
				VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claim(ns, "", "1Gi", nil).Spec},
			}}},
		},
	}}
	_, err = client.Pods.In(w.root, ns).Create(ctx, pod)
	w.must(err)
	event(w, ns, "db", "FailedScheduling", `0/1 nodes are available: persistentvolumeclaim "c" not found.`)
	_, err = client.PersistentVolumeClaims.In(w.root, ns).Create(ctx, claim(ns, "c", "1Gi", nil))
	w.must(err)
	object(w, client.Pods, ns, "db", "on its node", func(p *corev1.Pod) bool { return p != nil && p.Spec.NodeName == "n1" })
	for _, name := range []string{"c", "db-own"} {
		c, err := client.PersistentVolumeClaims.In(w.root, ns).Get(ctx, name)
		w.must(err)
		if c.Spec.VolumeName == "" || c.Annotations["pv.kubernetes.io/bind-completed"] != "yes" {
			t.Errorf("the pod was bound before its claim %s: %v", name, c)
		}
		// The status tells of it by a write of its own.
		object(w, client.PersistentVolumeClaims, ns, name, "bound", func(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == corev1.ClaimBound })
	}
	// With the pod goes the volume of its own, and it alone.
	zero := int64(0)
	w.must(client.Pods.In(w.root, ns).Delete(ctx, "db", client.Options{GracePeriodSeconds: &zero}))
	object(w, client.PersistentVolumeClaims, ns, "db-own", "gone", func(c *corev1.PersistentVolumeClaim) bool { return c == nil })
	eventually(w, client.PersistentVolumes, "", "one", func(all []*corev1.PersistentVolume) bool { return len(all) == 1 })
}
