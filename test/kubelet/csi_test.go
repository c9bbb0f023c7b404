package kubelet_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

const diskDriver = "disk.example.com"

// diskServer is a CSI driver whose only volume is a folder.
type diskServer struct {
	csiapi.UnimplementedIdentityServer
	csiapi.UnimplementedNodeServer
	registerapi.UnimplementedRegistrationServer
	dir, socket string
	registered  chan *registerapi.RegistrationStatus
}

func (d *diskServer) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: diskDriver, Endpoint: d.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (d *diskServer) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	d.registered <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (d *diskServer) NodeGetInfo(context.Context, *csiapi.NodeGetInfoRequest) (*csiapi.NodeGetInfoResponse, error) {
	return &csiapi.NodeGetInfoResponse{NodeId: nodeName}, nil
}

func (d *diskServer) NodeGetCapabilities(context.Context, *csiapi.NodeGetCapabilitiesRequest) (*csiapi.NodeGetCapabilitiesResponse, error) {
	return &csiapi.NodeGetCapabilitiesResponse{}, nil
}

func (d *diskServer) NodePublishVolume(_ context.Context, r *csiapi.NodePublishVolumeRequest) (*csiapi.NodePublishVolumeResponse, error) {
	if err := os.MkdirAll(r.TargetPath, 0o750); err != nil {
		return nil, err
	}
	return &csiapi.NodePublishVolumeResponse{}, unix.Mount(d.dir, r.TargetPath, "", unix.MS_BIND, "")
}

func (d *diskServer) NodeUnpublishVolume(_ context.Context, r *csiapi.NodeUnpublishVolumeRequest) (*csiapi.NodeUnpublishVolumeResponse, error) {
	if err := unix.Unmount(r.TargetPath, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return &csiapi.NodeUnpublishVolumeResponse{}, nil
}

// drive registers a CSI driver with one volume, and makes a claim bound to it.
func (w *world) drive(t *testing.T, claim string) *diskServer {
	ctx := t.Context()
	_, err := client.CSIDrivers.In(w.root, "").Create(ctx, &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: diskDriver},
		Spec:       storagev1.CSIDriverSpec{AttachRequired: ptr.To(false), FSGroupPolicy: ptr.To(storagev1.FileFSGroupPolicy)},
	})
	w.must(err)
	d := &diskServer{dir: t.TempDir(), registered: make(chan *registerapi.RegistrationStatus, 10), socket: w.path("csi.sock")}
	serveUnix(t, d.socket, func(s *grpc.Server) {
		csiapi.RegisterIdentityServer(s, d)
		csiapi.RegisterNodeServer(s, d)
	})
	w.eventually("the folder of plugins is there", func() bool { _, err := os.Stat(w.path("plugins_registry")); return err == nil })
	serveUnix(t, w.path("plugins_registry", "disk.sock"), func(s *grpc.Server) { registerapi.RegisterRegistrationServer(s, d) })
	if st := <-d.registered; !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pvc, err := client.PersistentVolumeClaims.In(w.root, "default").Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim, Namespace: "default"},
		Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: ptr.To(""), VolumeName: claim, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	})
	w.must(err)
	_, err = client.PersistentVolumes.In(w.root, "").Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: claim},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: claim, UID: pvc.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: diskDriver, VolumeHandle: "v"}},
		},
	})
	w.must(err)
	w.bind(claim)
	return d
}

// TestGroupOfADriversVolume: files in a CSI volume go to the pod's group, all of
// them every time, or only when the volume's root is not the group's yet
// (fsGroupChangePolicy, KEP-695).
func TestGroupOfADriversVolume(t *testing.T) {
	w := newWorld(t)
	d := w.drive(t, "disk")
	file := filepath.Join(d.dir, "was")
	w.must(os.WriteFile(file, []byte("here"), 0o600))
	runs := func(name, policy string) {
		t.Helper()
		w.pod(shell(name, "cat /data/was && id -G", "securityContext: {runAsUser: 1000}\nvolumeMounts: [{name: d, mountPath: /data}]",
			"restartPolicy: Never\nsecurityContext: {fsGroup: 4321, fsGroupChangePolicy: "+policy+"}\nvolumes: [{name: d, persistentVolumeClaim: {claimName: disk}}]"))
		p := w.until(name, "over", func(p *corev1.Pod) bool {
			return p != nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed)
		})
		readable := policy != "OnRootMismatch" || name == "first"
		if readable != (p.Status.Phase == corev1.PodSucceeded) {
			t.Errorf("%s ended as %s: %q", name, p.Status.Phase, w.podLog(p, "c", 0))
		}
		w.delete(name, 0)
		w.until(name, "gone", gone)
		w.empty()
	}
	group := func(want uint32) {
		t.Helper()
		var st unix.Stat_t
		w.must(unix.Stat(file, &st))
		if st.Gid != want {
			t.Errorf("the file is group %d's, want %d", st.Gid, want)
		}
	}
	runs("first", "OnRootMismatch")
	group(4321)
	// The root is the group's by now, so nobody looks further.
	w.must(os.Chown(file, 0, 5))
	runs("second", "OnRootMismatch")
	group(5)
	runs("third", "Always")
	group(4321)
}
