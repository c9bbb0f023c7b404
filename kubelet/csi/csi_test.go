package csi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/kubelet/plugins"
)

const (
	stages  = csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME
	expands = csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME
	tells   = csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS
)

func noAttach() storagev1.CSIDriverSpec {
	return storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}
}

func TestRegistration(t *testing.T) {
	n := newNode(t)
	n.driver.most = 7
	p := plugins.Plugin{Name: driverName, Endpoint: n.driver.socket, Versions: []string{"1.3.0"}}
	if err := n.Register(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c := n.door.objects["csinodes/n1"].(*storagev1.CSINode)
	if len(c.Spec.Drivers) != 1 || c.Spec.Drivers[0].NodeID != "n-1" || *c.Spec.Drivers[0].Allocatable.Count != 7 || c.Spec.Drivers[0].TopologyKeys[0] != "topology.example.com/zone" {
		t.Fatalf("%+v", c.Spec.Drivers)
	}
	if ref := c.OwnerReferences; len(ref) != 1 || ref[0].UID != "node-uid" {
		t.Errorf("the CSINode is not the node's: %v", ref)
	}
	node := n.door.objects["nodes/n1"].(*corev1.Node)
	if node.Labels["topology.example.com/zone"] != "z1" || node.Annotations[annotationNodeID] != `{"disk.example.com":"n-1"}` {
		t.Errorf("labels %v, annotations %v", node.Labels, node.Annotations)
	}
	if err := n.Register(t.Context(), plugins.Plugin{Name: "old", Endpoint: n.driver.socket, Versions: []string{"0.3.0"}}); err == nil {
		t.Error("a driver of another CSI was taken in")
	}
	n.Deregister(p)
	if c := n.door.objects["csinodes/n1"].(*storagev1.CSINode); len(c.Spec.Drivers) != 0 {
		t.Errorf("a driver that is gone is still entered: %v", c.Spec.Drivers)
	}
}

// TestLife is a volume's with two pods.
func TestLife(t *testing.T) {
	n := newNode(t, stages)
	n.object(noAttach())
	for _, uid := range []string{"a", "b"} {
		at, err := n.Mount(t.Context(), persistent(pod(uid)))
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(n.dir, "pods", uid, "volumes/kubernetes.io~csi/pv/mount"); at.Path != want || !at.Fresh {
			t.Errorf("at %+v, want %s", at, want)
		}
	}
	if got := n.driver.took(); got != "stage publish publish" {
		t.Error(got)
	}
	staged := n.driver.last["stage"].(*csiapi.NodeStageVolumeRequest).StagingTargetPath
	if want := filepath.Join(n.dir, "plugins/kubernetes.io/csi", driverName, hash("h/1"), "globalmount"); staged != want {
		t.Errorf("staged at %s, want %s", staged, want)
	}
	if at, err := n.Mount(t.Context(), persistent(pod("a"))); err != nil || at.Fresh || n.driver.took() != "" {
		t.Errorf("again: %+v, %v", at, err)
	}
	for _, uid := range []types.UID{"a", "a", "b"} {
		if err := n.Unmount(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.driver.took(); got != "unpublish unpublish unstage" {
		t.Error(got)
	}
	if left := n.left(t); left != "" {
		t.Error("left:", left)
	}
}

// TestRestarts ends the kubelet at every step: the next life ends what it
// began.
func TestRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		fail string
		want string // calls of the second life
	}{
		"after publishing":          {"", "unpublish unstage"},
		"between stage and publish": {"publish", "unpublish unstage"},
		"in the middle of staging":  {"stage", "unstage"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, stages)
			n.object(noAttach())
			if c.fail != "" {
				n.driver.failing(c.fail, codes.Unavailable)
			}
			if _, err := n.Mount(t.Context(), persistent(pod("a"))); (err != nil) != (c.fail != "") {
				t.Fatal(err)
			}
			n.driver.took()
			n.restart(t)
			n.Sweep(t.Context(), func(types.UID) bool { return false })
			n.drops.Wait()
			if got := n.driver.took(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if left := n.left(t); left != "" {
				t.Error("left:", left)
			}
		})
	}
}

// TestGoesOn restarts the kubelet under a pod that stays.
func TestGoesOn(t *testing.T) {
	n := newNode(t, stages)
	n.object(noAttach())
	v := persistent(pod("a"))
	if _, err := n.Mount(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	if !n.Holds("a") {
		t.Error("the next life does not know the pod's volume")
	}
	n.Sweep(t.Context(), func(uid types.UID) bool { return uid == "a" })
	at, err := n.Mount(t.Context(), v)
	if err != nil || !strings.HasSuffix(at.Path, "/a/volumes/kubernetes.io~csi/pv/mount") {
		t.Fatal(at, err)
	}
	// This driver mounts nothing, so that it is asked again.
	if got := n.driver.took(); got != "stage publish stage publish" {
		t.Error(got)
	}
}

// TestRefusals tells a driver's final no from an answer that was lost.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		code   codes.Code
		want   string // calls, the pod's end included
		step   string
	}{
		"stage refused":   {"stage", codes.InvalidArgument, "stage", "MountVolume.MountDevice"},
		"stage lost":      {"stage", codes.DeadlineExceeded, "stage unstage", "MountVolume.MountDevice"},
		"publish refused": {"publish", codes.Internal, "stage publish unstage", "MountVolume.SetUp"},
		"publish lost":    {"publish", codes.Unavailable, "stage publish unpublish unstage", "MountVolume.SetUp"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, stages)
			n.object(noAttach())
			n.driver.failing(c.method, c.code)
			_, err := n.Mount(t.Context(), persistent(pod("a")))
			var step *Error
			if !errors.As(err, &step) || step.Step != c.step || step.Volume != "pv" {
				t.Error(err)
			}
			if err := n.Unmount(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if got := n.driver.took(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if left := n.left(t); left != "" {
				t.Error("left:", left)
			}
		})
	}
}

// TestDriverDies ends the driver in the middle of a call, and starts it anew.
func TestDriverDies(t *testing.T) {
	n := newNode(t, stages)
	n.object(noAttach())
	hold := make(chan struct{})
	n.driver.hold, n.driver.began = hold, make(chan string, 100)
	failed := make(chan error)
	go func() {
		_, err := n.Mount(t.Context(), persistent(pod("a")))
		failed <- err
	}()
	for method := range n.driver.began {
		if method == "publish" {
			break
		}
	}
	n.driver.stop()
	if err := <-failed; err == nil || final(err) {
		t.Fatalf("the call's outcome is not open: %v", err)
	}
	if err := n.Unmount(t.Context(), "a"); err == nil {
		t.Fatal("the volume went without its driver")
	}
	close(hold)
	n.driver.start(t)
	if _, err := n.Mount(t.Context(), persistent(pod("a"))); err != nil {
		t.Fatal(err)
	}
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if left := n.left(t); left != "" {
		t.Error("left:", left)
	}
}

// TestData never removes what is in a volume, whatever a driver says.
func TestData(t *testing.T) {
	n := newNode(t)
	n.object(noAttach())
	at, err := n.Mount(t.Context(), persistent(pod("a")))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(at.Path, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Unmount(t.Context(), "a"); err == nil {
		t.Error("a volume with data in it counts as gone")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestBlock(t *testing.T) {
	n := newNode(t, stages)
	n.object(noAttach())
	v := persistent(pod("a"))
	v.PV.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	at, err := n.Mount(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(n.dir, "plugins/kubernetes.io/csi/volumeDevices/publish/pv/a"); at.Path != want || !at.Block {
		t.Errorf("%+v", at)
	}
	if to, err := os.Readlink(filepath.Join(n.dir, "pods/a/volumeDevices/kubernetes.io~csi/pv")); err != nil || to != at.Path {
		t.Error(to, err)
	}
	n.restart(t)
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got := n.driver.took(); got != "stage publish unpublish unstage" {
		t.Error(got)
	}
	if left := n.left(t); left != "" {
		t.Error("left:", left)
	}
}

func TestInline(t *testing.T) {
	n := newNode(t, stages)
	v := &Volume{Pod: pod("a"), Name: "scratch", Inline: &corev1.CSIVolumeSource{Driver: driverName, VolumeAttributes: map[string]string{"size": "1"}}}
	if _, err := n.Mount(t.Context(), v); err == nil || !strings.Contains(err.Error(), `volume mode "Ephemeral" not supported by driver`) {
		t.Error(err)
	}
	n.restart(t)
	n.object(storagev1.CSIDriverSpec{
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}, PodInfoOnMount: ptr.To(true),
		TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}},
	})
	n.restart(t)
	if _, err := n.Mount(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	r := n.driver.last["publish"].(*csiapi.NodePublishVolumeRequest)
	for key, want := range map[string]string{
		"size": "1", keyPodName: "p-a", keyNamespace: "ns", keyUID: "a", keyEphemeral: "true",
		keyTokens: `{"vault":{"token":"token for vault","expirationTimestamp":"1970-01-01T00:16:40Z"}}`,
	} {
		if got := r.VolumeContext[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if r.StagingTargetPath != "" || r.VolumeId != "csi-"+hash("ascratch") {
		t.Errorf("%+v", r)
	}
	if got := n.driver.took(); got != "publish" {
		t.Error(got)
	}
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

// TestAttached waits for the node's status and the VolumeAttachment, after it
// has told that the volume is in use.
func TestAttached(t *testing.T) {
	n := newNode(t)
	v := persistent(pod("a"))
	name := AttachmentName(driverName, "h/1", "n1")
	done := make(chan error)
	go func() {
		_, err := n.Mount(t.Context(), v)
		done <- err
	}()
	<-n.asked
	if got := n.InUse()[0]; got != "kubernetes.io/csi/disk.example.com^h/1" {
		t.Error(got)
	}
	select {
	case err := <-done:
		t.Fatal("mounted before it was attached", err)
	default:
	}
	n.door.put("volumeattachments", &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: storagev1.VolumeAttachmentStatus{
		Attached: true, AttachmentMetadata: map[string]string{"device": "sdx"},
	}})
	node := n.door.objects["nodes/n1"].(*corev1.Node).DeepCopy()
	node.Status.VolumesAttached = []corev1.AttachedVolume{{Name: n.InUse()[0]}}
	n.door.put("nodes", node)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := n.driver.last["publish"].(*csiapi.NodePublishVolumeRequest).PublishContext["device"]; got != "sdx" {
		t.Errorf("the controller's word is lost: %q", got)
	}
	n.restart(t)
	if len(n.InUse()) != 1 {
		t.Error("a restarted kubelet would let the volume be detached")
	}
	n.object(noAttach()) // the driver does without from now on
	<-n.asked
	if len(n.InUse()) != 0 {
		t.Error("what needs no attaching keeps its attachment:", n.InUse())
	}
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestStats(t *testing.T) {
	n := newNode(t, tells, csiapi.NodeServiceCapability_RPC_VOLUME_CONDITION)
	n.object(noAttach())
	p := pod("a")
	if _, err := n.Mount(t.Context(), persistent(p)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, ok := n.Stats(t.Context(), p, "data")
		if !ok || s.Used != 40 || s.Capacity != 100 || s.HasInodes || !s.Abnormal {
			t.Errorf("%+v", s)
		}
	}
	if got := n.driver.took(); got != "publish stats" {
		t.Error(got)
	}
	if got := <-n.events.Events; !strings.Contains(got, "VolumeConditionAbnormal Volume data: on fire") {
		t.Error(got)
	}
	if _, ok := n.Stats(t.Context(), p, "none"); ok {
		t.Error("a volume that is none has a size")
	}
}

func TestRequests(t *testing.T) {
	modes := func(m ...corev1.PersistentVolumeAccessMode) *Volume {
		v := persistent(pod("a"))
		v.PV.Spec.AccessModes = m
		return v
	}
	precise := abilities{csiapi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER: true}
	for _, c := range []struct {
		v    *Volume
		can  abilities
		want csiapi.VolumeCapability_AccessMode_Mode
	}{
		{modes(), nil, csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{modes(corev1.ReadWriteOnce), precise, csiapi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		{modes(corev1.ReadWriteOncePod), precise, csiapi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		{modes(corev1.ReadWriteOncePod), nil, csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{modes(corev1.ReadOnlyMany), nil, csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		{modes(corev1.ReadWriteMany), nil, csiapi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
	} {
		if got := accessMode(c.v, c.can); got != c.want {
			t.Errorf("%v, %v: %v, want %v", c.v.PV.Spec.AccessModes, c.can, got, c.want)
		}
	}
	group := func(v *Volume, fs string) *Volume {
		v.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(5))}
		v.PV.Spec.CSI.FSType = fs
		return v
	}
	policy := func(p storagev1.FSGroupPolicy) *storagev1.CSIDriver {
		return &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{FSGroupPolicy: &p}}
	}
	for name, c := range map[string]struct {
		v      *Volume
		object *storagev1.CSIDriver
		want   bool
	}{
		"once with type": {group(modes(corev1.ReadWriteOnce), "ext4"), nil, true},
		"once without":   {group(modes(corev1.ReadWriteOnce), ""), nil, false},
		"many with type": {group(modes(corev1.ReadWriteMany), "ext4"), nil, false},
		"always":         {group(modes(corev1.ReadWriteMany), ""), policy(storagev1.FileFSGroupPolicy), true},
		"never":          {group(modes(corev1.ReadWriteOnce), "ext4"), policy(storagev1.NoneFSGroupPolicy), false},
		"no group":       {modes(corev1.ReadWriteOnce), policy(storagev1.FileFSGroupPolicy), false},
	} {
		if got := givesGroup(c.v, c.object); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	v := group(modes(corev1.ReadWriteOnce), "ext4")
	v.PV.Spec.MountOptions = []string{"noatime"}
	m := capability(v, abilities{csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP: true}, Group(v.Pod)).GetMount()
	if m.VolumeMountGroup != "5" || m.FsType != "ext4" || m.MountFlags[0] != "noatime" {
		t.Errorf("%+v", m)
	}
}

// TestTimeout bounds the wait for a driver that is not there.
func TestTimeout(t *testing.T) {
	n := newNode(t)
	n.object(noAttach())
	v := persistent(pod("a"))
	v.PV.Spec.CSI.Driver = "none.example.com"
	n.door.put("csidrivers", &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "none.example.com"}, Spec: noAttach()})
	_, err := n.Mount(t.Context(), v)
	if err == nil || !strings.Contains(err.Error(), "driver name none.example.com not found in the list of registered CSI drivers") {
		t.Error(err)
	}
	n.driver.hold, n.driver.began = make(chan struct{}), make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-n.driver.began
		cancel()
	}()
	if _, err := n.Mount(ctx, persistent(pod("b"))); err == nil || final(err) {
		t.Error("a call that was broken off counts as final", err)
	}
}

// TestMounts has the driver mount for real: a restarted kubelet finds the mount
// and asks for nothing, and what is in the volume outlives the pod.
func TestMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	n := newNode(t)
	n.object(noAttach())
	n.driver.data = t.TempDir()
	v := persistent(pod("a"))
	at, err := n.Mount(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at.Path, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(at.Path, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.driver.took()
	n.restart(t)
	again, err := n.Mount(t.Context(), v)
	if err != nil || again.Path != at.Path || n.driver.took() != "" {
		t.Error(again, err)
	}
	n.driver.failing("unpublish", codes.Internal)
	if err := n.Unmount(t.Context(), "a"); err == nil {
		t.Error("a volume that its driver does not let go counts as gone")
	}
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(n.driver.data, "precious")); err != nil {
		t.Error(err)
	}
	if left := n.left(t); left != "" {
		t.Error("left:", left)
	}
}

// TestOnePod keeps a volume for one pod from a second that came here past the
// scheduler, until the first is gone.
func TestOnePod(t *testing.T) {
	n := newNode(t)
	n.object(noAttach())
	first, second := persistent(pod("a")), persistent(pod("b"))
	for _, v := range []*Volume{first, second} {
		v.PV.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	}
	if _, err := n.Mount(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	_, err := n.Mount(t.Context(), second)
	if err == nil || !strings.Contains(err.Error(), "volume uses the ReadWriteOncePod access mode and is already in use by another pod") {
		t.Error(err)
	}
	if err := n.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Mount(t.Context(), second); err != nil {
		t.Error(err)
	}
}

// TestUnstageFails lets the pod go though its volume cannot leave the node; the
// next pod has it staged anew.
func TestUnstageFails(t *testing.T) {
	n := newNode(t, stages)
	n.object(noAttach())
	if _, err := n.Mount(t.Context(), persistent(pod("a"))); err != nil {
		t.Fatal(err)
	}
	n.driver.failing("unstage", codes.DeadlineExceeded)
	n.driver.began = make(chan string, 100)
	if err := n.Manager.Unmount(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for method := range n.driver.began {
		if method == "unstage" {
			break
		}
	}
	if _, err := n.Mount(t.Context(), persistent(pod("b"))); err != nil {
		t.Fatal(err)
	}
	n.drops.Wait()
	if got := n.driver.took(); got != "stage publish unpublish unstage stage publish" {
		t.Error(got)
	}
	if err := n.Unmount(t.Context(), "b"); err != nil || n.left(t) != "" {
		t.Error(err, n.left(t))
	}
}
