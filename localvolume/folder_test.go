package localvolume

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api/localvolumes"
)

func TestPlanTrustsNoPath(t *testing.T) {
	now := metav1.Now()
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolume)
		want   action
	}{
		"new":               {func(v *corev1.PersistentVolume) {}, create},
		"other node":        {func(v *corev1.PersistentVolume) { v.Labels[localvolumes.NodeLabel] = "m" }, leave},
		"other path":        {func(v *corev1.PersistentVolume) { v.Spec.Local.Path = "/etc" }, leave},
		"path upwards":      {func(v *corev1.PersistentVolume) { v.Name, v.Spec.Local.Path = "..", "/" }, leave},
		"not ours":          {func(v *corev1.PersistentVolume) { v.Finalizers = nil }, leave},
		"deleted":           {func(v *corev1.PersistentVolume) { v.DeletionTimestamp, v.Status.Phase = &now, corev1.VolumeReleased }, remove},
		"deleted but bound": {func(v *corev1.PersistentVolume) { v.DeletionTimestamp, v.Status.Phase = &now, corev1.VolumeBound }, leave},
		"retained": {func(v *corev1.PersistentVolume) {
			v.DeletionTimestamp, v.Status.Phase = &now, corev1.VolumeReleased
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}, release},
	} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", Labels: map[string]string{localvolumes.NodeLabel: "n"}, Finalizers: []string{localvolumes.Finalizer}}}
		v.Spec.Local, v.Spec.PersistentVolumeReclaimPolicy = &corev1.LocalVolumeSource{Path: "/data/pvc-1"}, corev1.PersistentVolumeReclaimDelete
		v.Status.Phase = corev1.VolumePending
		c.change(v)
		if got := plan(v, "/data", "n"); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestFolderStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	f, err := openFolder(filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time after a restart
		if err := f.create("a"); err != nil {
			t.Fatal(err)
		}
	}
	// Links out of the folder, laid inside a volume and in its place.
	if err := os.Symlink(outside, filepath.Join(dir, "volumes", "a", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "volumes", "b")); err != nil {
		t.Fatal(err)
	}
	if err := f.create("b"); err == nil {
		t.Error("a link was taken for a volume")
	}
	for _, name := range []string{"a", "b"} {
		if err := f.remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.remove("../../x"); err == nil {
		t.Error("a path out of the folder was accepted")
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Errorf("what a link led to was removed: %v", err)
	}
}
