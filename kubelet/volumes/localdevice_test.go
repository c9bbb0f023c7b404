package volumes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/internal/mountinfo"
)

// loop makes a block device of a file.
func loop(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("block devices and mounts need root")
	}
	for _, tool := range []string{"losetup", "blkid", "mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %v %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v %s", device, err, out)
		}
	})
	return device
}

// TestLocalDevice has two pods share a blank device that a claim wants as a
// folder. What one writes the other reads, and nobody formats it again.
func TestLocalDevice(t *testing.T) {
	device := loop(t)
	m := NewManager(t.TempDir())
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: device}
	src := &fakeSource{claims: map[string]*corev1.PersistentVolume{"c": pv}}
	pod := func(uid types.UID, readOnly bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly},
		}}}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(1234))}
		return p
	}
	mount := func(p *corev1.Pod) (string, error) {
		_, err := m.Mount(t.Context(), p, src)
		at, _ := m.placed(p.UID, "v")
		return at.path, err
	}
	t.Cleanup(func() { // whatever became of the test
		for _, uid := range []types.UID{"a", "b", "ro"} {
			if err := m.Remove(t.Context(), uid); err != nil {
				t.Error(err)
			}
		}
	})
	if at, err := mount(pod("ro", true)); err == nil || !strings.Contains(err.Error(), "has no filesystem") {
		t.Fatalf("a blank device, read only: %q, %v", at, err)
	}
	a, err := mount(pod("a", false))
	if err != nil {
		t.Fatal(err)
	}
	if mounted, err := mountinfo.Is(a); err != nil || !mounted {
		t.Fatalf("%s is not mounted: %v", a, err)
	}
	if err := os.WriteFile(filepath.Join(a, "word"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(a); err != nil || fi.Mode()&os.ModeSetgid == 0 {
		t.Errorf("the pod's group did not get it: %v %v", fi.Mode(), err)
	}
	if again, err := mount(pod("a", false)); err != nil || again != a {
		t.Errorf("mounted again: %q, %v", again, err)
	}
	b, err := mount(pod("b", false))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(b, "word")); err != nil || string(raw) != "kept" {
		t.Errorf("the other pod reads %q, %v", raw, err)
	}
	if err := m.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	pv.Spec.Local.FSType = ptr.To("xfs")
	if _, err := mount(pod("a", false)); err == nil || !strings.Contains(err.Error(), "has the filesystem ext4, not xfs") {
		t.Errorf("a device with another filesystem: %v", err)
	}
	pv.Spec.Local.FSType = nil
	last, err := mount(pod("ro", true))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(last, "word")); err != nil || string(raw) != "kept" {
		t.Errorf("after all that: %q, %v", raw, err)
	}
	if err := os.WriteFile(filepath.Join(last, "word"), nil, 0o600); err == nil {
		t.Error("read only, and yet written")
	}
}

// TestLocalDeviceNotBlank: what is no filesystem is not overwritten either.
func TestLocalDeviceNotBlank(t *testing.T) {
	device := loop(t)
	if err := format(t.Context(), device, "ext4 -F"); err == nil {
		t.Error("a filesystem of two words was made")
	}
	// One partition of 1,024 blocks from block 2,048 on.
	table := make([]byte, 512)
	copy(table[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0})
	table[510], table[511] = 0x55, 0xaa
	if err := os.WriteFile(device, table, 0); err != nil {
		t.Fatal(err)
	}
	if kind, err := filesystemOf(t.Context(), device); err == nil {
		t.Errorf("a device with partitions counts as %q", kind)
	}
}
