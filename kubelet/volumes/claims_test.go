package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestClaims(t *testing.T) {
	local := t.TempDir()
	file := filepath.Join(local, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pv := func(s corev1.PersistentVolumeSource) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: s}}
	}
	block := pv(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}})
	block.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	src := &fakeSource{claims: map[string]*corev1.PersistentVolume{
		"local": pv(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}}),
		"host":  pv(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: local}}),
		"p-v":   pv(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}}),
		"lost":  pv(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local + "/none"}}),
		"file":  pv(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: file}}),
		"nfs":   pv(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}),
		"block": block,
	}}
	claim := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	}
	for name, c := range map[string]struct {
		source corev1.VolumeSource
		want   string // part of the error, "" for local
	}{
		"local":            {claim("local"), ""},
		"hostPath":         {claim("host"), ""},
		"made for the pod": {corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, ""},
		"not there":        {claim("lost"), "cannot be used"},
		"a file":           {claim("file"), "is not a directory"},
		"block":            {claim("block"), "is not a block device"},
		"mounted block":    {claim("block"), "volume v has volumeMode Block, but is specified in volumeMounts"},
		"unknown":          {claim("nfs"), "not supported by this kubelet"},
		"missing":          {claim("missing"), "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewManager(t.TempDir())
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: c.source}}}}
			if name == "mounted block" {
				pod.Spec.Containers = []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}}
			}
			_, err := m.Mount(t.Context(), pod, src)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := m.Path(pod, "v"); err != nil || got != local {
				t.Errorf("path %q, %v", got, err)
			}
			if err := m.Unmount(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Path(pod, "v"); err == nil {
				t.Error("a path after the unmount")
			}
			if _, err := os.Stat(file); err != nil {
				t.Error("the volume's content went with the pod")
			}
		})
	}
}

func TestGiveGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	for _, f := range []string{filepath.Join(root, "a"), outside} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	gid := func(path string) (uint32, os.FileMode) {
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t).Gid, fi.Mode()
	}
	if err := giveGroup(root, 1234, false); err != nil {
		t.Fatal(err)
	}
	if g, m := gid(root); g != 1234 || m&os.ModeSetgid == 0 || m.Perm()&0o070 != 0o070 {
		t.Errorf("root: %d %v", g, m)
	}
	if g, m := gid(filepath.Join(root, "a")); g != 1234 || m.Perm() != 0o660 {
		t.Errorf("file: %d %v", g, m)
	}
	if g, m := gid(outside); g != 0 || m.Perm() != 0o600 {
		t.Errorf("what a link points to was changed: %d %v", g, m)
	}
	// A root that fits is left alone with all below it.
	if err := os.Chown(filepath.Join(root, "a"), 0, 7); err != nil {
		t.Fatal(err)
	}
	if err := giveGroup(root, 1234, true); err != nil {
		t.Fatal(err)
	}
	if g, _ := gid(filepath.Join(root, "a")); g != 7 {
		t.Errorf("changed although the root fits: %d", g)
	}
}
