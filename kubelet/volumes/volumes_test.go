package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/internal/mountinfo"
)

type fakeSource struct {
	configs map[string]map[string]string
	claims  map[string]*corev1.PersistentVolume
	token   string
	refresh time.Time
}

func (f *fakeSource) ConfigMap(name string, optional bool) (*corev1.ConfigMap, error) {
	if d, ok := f.configs[name]; ok {
		return &corev1.ConfigMap{Data: d}, nil
	}
	if optional {
		return nil, nil
	}
	return nil, fmt.Errorf("configmap %q not found", name)
}

func (f *fakeSource) Secret(name string, optional bool) (*corev1.Secret, error) {
	cm, err := f.ConfigMap(name, optional)
	if cm == nil || err != nil {
		return nil, err
	}
	s := &corev1.Secret{Data: map[string][]byte{}}
	for k, v := range cm.Data {
		s.Data[k] = []byte(v)
	}
	return s, nil
}

func (f *fakeSource) Token(context.Context, *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return f.token, f.refresh, nil
}
func (f *fakeSource) TrustAnchors(_ context.Context, p *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	return []byte("anchors of " + *p.Name), nil
}
func (f *fakeSource) Certificate(_ context.Context, p *corev1.PodCertificateProjection) (key, chain []byte, refresh time.Time, err error) {
	return []byte("key,"), []byte("chain of " + p.SignerName), f.refresh.Add(-time.Minute), nil
}
func (f *fakeSource) Claim(_ context.Context, name string, made bool) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	if pv := f.claims[name]; pv != nil {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}, pv, nil
	}
	return nil, nil, fmt.Errorf("claim %q (made %v) not found", name, made)
}
func (f *fakeSource) Field(path string) (string, error) { return "field " + path, nil }
func (f *fakeSource) ResourceField(ref *corev1.ResourceFieldSelector) (string, error) {
	return "", errors.New("none")
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// content reads what a user of the volume sees.
func content(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		root := filepath.Join(dir, e.Name())
		real, err := filepath.EvalSymlinks(root)
		if err != nil {
			t.Fatal(err)
		}
		filepath.WalkDir(real, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, _ := os.ReadFile(p)
			fi, _ := d.Info()
			rel, _ := filepath.Rel(real, p)
			out = append(out, fmt.Sprintf("%s=%s(%o)", filepath.Join(e.Name(), rel), b, fi.Mode().Perm()))
			return nil
		})
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func pod(vols ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid", Name: "p", Namespace: "n"}, Spec: corev1.PodSpec{Volumes: vols}}
}

func vol(name string, s corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: s}
}

func configMap(name string, f ...func(*corev1.ConfigMapVolumeSource)) corev1.VolumeSource {
	s := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}
	for _, g := range f {
		g(s)
	}
	return corev1.VolumeSource{ConfigMap: s}
}

func TestAtomicContent(t *testing.T) {
	m := NewManager(t.TempDir())
	src := &fakeSource{configs: map[string]map[string]string{"c": {"a": "1", "b": "2"}}}
	p := pod(vol("v", configMap("c", func(s *corev1.ConfigMapVolumeSource) {
		s.Items = []corev1.KeyToPath{{Key: "a", Path: "x/y/a", Mode: ptr.To(int32(0o400))}, {Key: "b", Path: "b"}}
	})))
	mount := func() {
		t.Helper()
		if _, err := m.Mount(t.Context(), p, src); err != nil {
			t.Fatal(err)
		}
	}
	mount()
	dir, err := m.Path(p, "v")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, dir), "b=2(644) x/y/a=1(400)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	data := func() string { s, _ := os.Readlink(filepath.Join(dir, "..data")); return s }
	first := data()
	mount()
	if data() != first {
		t.Error("unchanged content was written anew")
	}
	// A reader that holds the old folder keeps seeing it whole until the link
	// has moved; afterwards nothing old is left.
	src.configs["c"] = map[string]string{"a": "3", "b": "2"}
	p.Spec.Volumes[0].ConfigMap.Items = p.Spec.Volumes[0].ConfigMap.Items[:1]
	mount()
	if got, want := content(t, dir), "x/y/a=3(400)"; got != want || data() == first {
		t.Errorf("got %s, want %s", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "..2*")); len(left) != 1 {
		t.Errorf("folders left: %v", left)
	}
	if err := m.Unmount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

func TestErrors(t *testing.T) {
	src := &fakeSource{configs: map[string]map[string]string{"c": {"a": "1"}}}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	host := func(typ corev1.HostPathType, path string) corev1.VolumeSource {
		return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &typ}}
	}
	item := func(key, path string) func(*corev1.ConfigMapVolumeSource) {
		return func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: key, Path: path}} }
	}
	for _, c := range []struct {
		v    corev1.VolumeSource
		want string
	}{
		{configMap("x"), `configmap "x" not found`},
		{configMap("x", func(s *corev1.ConfigMapVolumeSource) { s.Optional = ptr.To(true) }), ""},
		{configMap("c", item("z", "z")), "configmap references non-existent config key: z"},
		{configMap("c", item("a", "../../etc/x")), "invalid path: ../../etc/x"},
		{configMap("c", item("a", "/etc/x")), "invalid path: /etc/x"},
		{corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}, `there are no CSI drivers on this node`},
		{host(corev1.HostPathDirectory, file), "hostPath type check failed: " + file + " is not a directory"},
		{host(corev1.HostPathFile, file), ""},
		{host(corev1.HostPathSocket, "/no/such"), "hostPath type check failed: /no/such is not a socket file"},
		{host(corev1.HostPathCharDev, "/dev/null"), ""},
		{host(corev1.HostPathBlockDev, "/dev/null"), "hostPath type check failed: /dev/null is not a block device"},
		{host(corev1.HostPathDirectoryOrCreate, filepath.Join(filepath.Dir(file), "new/dir")), ""},
		{host(corev1.HostPathFileOrCreate, filepath.Join(filepath.Dir(file), "newfile")), ""},
	} {
		p := pod(vol("v", c.v))
		p.Spec.Containers = []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}}
		_, err := NewManager(t.TempDir()).Mount(t.Context(), p, src)
		got, want := "", c.want
		if err != nil {
			got = err.Error()
		}
		if want != "" {
			want = `MountVolume.SetUp failed for volume "v" : ` + want
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMemoryAndGroups(t *testing.T) {
	needRoot(t)
	m := NewManager(t.TempDir())
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	src := &fakeSource{configs: map[string]map[string]string{"s": {"k": "v"}}, token: "tok", refresh: at}
	size := resource.MustParse("1Mi")
	p := pod(
		vol("mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}),
		vol("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		vol("all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "f", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "x"}}}}},
			{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr.To("b"), Path: "anchors"}},
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: "s", CredentialBundlePath: "cred", KeyPath: "key", CertificateChainPath: "chain"}},
		}}}),
	)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(77))}
	refresh, err := m.Mount(t.Context(), p, src)
	if err != nil || !refresh.Equal(at.Add(-time.Minute)) { // the certificate's
		t.Fatal(refresh, err)
	}
	t.Cleanup(func() { m.Remove(t.Context(), p.UID) })
	path := func(name string) string { s, _ := m.Path(p, name); return s }
	var fs unix.Statfs_t
	if err := unix.Statfs(path("mem"), &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Blocks)*fs.Bsize != 1<<20 {
		t.Errorf("memory volume: %+v, %v", fs, err)
	}
	for name, mode := range map[string]uint32{"mem": 0o3777, "disk": 0o2777} {
		var st unix.Stat_t
		if err := unix.Stat(path(name), &st); err != nil || st.Gid != 77 || st.Mode&0o7777 != mode {
			t.Errorf("%s: group %d, mode %o, %v", name, st.Gid, st.Mode&0o7777, err)
		}
	}
	if got, want := content(t, path("all")), "anchors=anchors of b(644) chain=chain of s(640) cred=key,chain of s(640) f=field x(644) k=v(644) key=key,(640) token=tok(640)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := os.WriteFile(filepath.Join(path("mem"), "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), p, src); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path("mem"), "kept")); err != nil {
		t.Errorf("a second mount hides the first: %v", err)
	}
	if err := m.Remove(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if left, _ := mountinfo.Below(m.root); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
}

func asking(sizes ...string) corev1.Container {
	c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}}}
	for _, s := range sizes {
		c.Resources.Requests[corev1.ResourceName(corev1.ResourceHugePagesPrefix+s)] = resource.MustParse("1Gi")
	}
	return c
}

func TestHugePageSize(t *testing.T) {
	asked := asking("2Mi").Resources
	for name, c := range map[string]struct {
		medium     corev1.StorageMedium
		containers []corev1.Container
		pod        *corev1.ResourceRequirements
		want       string
	}{
		"named":   {"HugePages-1Gi", []corev1.Container{asking("2Mi")}, nil, "1Gi"},
		"asked":   {"HugePages", []corev1.Container{asking(), asking("2Mi"), asking("2Mi")}, nil, "2Mi"},
		"several": {"HugePages", []corev1.Container{asking("2Mi"), asking("1Gi")}, nil, ""},
		"by pod":  {"HugePages", []corev1.Container{asking()}, &asked, "2Mi"},
		"both":    {"HugePages", []corev1.Container{asking("1Gi")}, &asked, ""},
		"none":    {"HugePages", []corev1.Container{asking()}, nil, ""},
	} {
		got, err := hugePageSize(&corev1.Pod{Spec: corev1.PodSpec{Containers: c.containers, Resources: c.pod}}, c.medium)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A volume of huge pages is a file system of pages of its size, whether there
// are any or not.
func TestHugePages(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-2048kB"); err != nil {
		t.Skip("this machine has no huge pages of 2 MiB")
	}
	m := NewManager(t.TempDir())
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{asking("2Mi")}, Volumes: []corev1.Volume{
		{Name: "any", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}}},
		{Name: "small", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePagesPrefix + "2Mi"}}},
	}}}
	t.Cleanup(func() { m.Remove(t.Context(), p.UID) })
	for range 2 { // a second time changes nothing
		if _, err := m.Mount(t.Context(), p, &fakeSource{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range p.Spec.Volumes {
		dir, err := m.Path(p, v.Name)
		if err != nil {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.HUGETLBFS_MAGIC || fs.Bsize != 2<<20 {
			t.Errorf("%s: type %x, pages of %d, %v", v.Name, fs.Type, fs.Bsize, err)
		}
	}
	if mounts, err := mountinfo.Below(m.root); err != nil || len(mounts) != 2 {
		t.Errorf("mounts %v, %v", mounts, err)
	}
}

// What is bound below a pod's folder must survive the pod's removal.
func TestRemoveSparesForeignData(t *testing.T) {
	needRoot(t)
	m := NewManager(t.TempDir())
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := pod(vol("h", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: foreign}}), vol("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	if _, err := m.Mount(t.Context(), p, &fakeSource{}); err != nil {
		t.Fatal(err)
	}
	at, err := m.Subpath(p, "h", "c", 0, "precious")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Subpath(p, "h", "c", 0, "precious"); err != nil || again != at {
		t.Fatal(again, err)
	}
	dir, err := m.Subpath(p, "e", "c", 1, "new/dir")
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o777 {
		t.Errorf("made %v, %v", fi.Mode(), err)
	}
	if err := m.Remove(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(foreign, "precious")); err != nil {
		t.Error(err)
	}
}

func TestSubpathStaysInside(t *testing.T) {
	needRoot(t)
	m := NewManager(t.TempDir())
	p := pod(vol("e", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	if _, err := m.Mount(t.Context(), p, &fakeSource{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Remove(t.Context(), p.UID) })
	dir, _ := m.Path(p, "e")
	for name, to := range map[string]string{"out": "/etc", "up": "../../..", "in": "real"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"out", "out/passwd", "up", "../x", "a/../../x", "/etc", "out/new/dir"} {
		if at, err := m.Subpath(p, "e", "c", 0, bad); err == nil {
			t.Errorf("%s leads to %s", bad, at)
		}
	}
	if _, err := m.Subpath(p, "e", "c", 0, "in"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/etc/new"); err == nil {
		t.Error("a folder was made outside")
	}
}

// TestUnused asks no driver for a volume that no container looks at.
func TestUnused(t *testing.T) {
	m, p := NewManager(t.TempDir()), pod(vol("v", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "none"}}))
	if _, err := m.Mount(t.Context(), p, &fakeSource{}); err != nil {
		t.Fatal(err)
	}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{VolumeMounts: []corev1.VolumeMount{{Name: "v"}}}}}
	if _, err := m.Mount(t.Context(), p, &fakeSource{}); err == nil {
		t.Error("a volume that is used was left out")
	}
}
