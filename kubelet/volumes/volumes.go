// Package volumes puts a pod's volumes into place on the node and takes them
// away again: a pod and the objects it refers to go in, paths to mount into
// its containers come out. Content that comes from the API is replaced
// atomically, so that running containers see either the old or the new whole.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/kubelet/csi"
)

// Source answers for what one pod's volumes refer to. Errors become part of
// the pod's events as they are.
type Source interface {
	// ConfigMap and Secret return nil and no error for an optional object
	// that does not exist.
	ConfigMap(name string, optional bool) (*corev1.ConfigMap, error)
	Secret(name string, optional bool) (*corev1.Secret, error)
	// Token returns a service-account token for the pod and when it is to be
	// replaced.
	Token(ctx context.Context, p *corev1.ServiceAccountTokenProjection) (token string, refresh time.Time, err error)
	// TrustAnchors returns the certificates that a projection selects, as PEM.
	TrustAnchors(ctx context.Context, p *corev1.ClusterTrustBundleProjection) ([]byte, error)
	// Certificate returns a private key and the certificates for it as PEM, and
	// when they are to be replaced.
	Certificate(ctx context.Context, p *corev1.PodCertificateProjection) (key, chain []byte, refresh time.Time, err error)
	// Claim returns a claim and the persistent volume that it is bound to; made
	// says that the claim was to be made for this pod.
	Claim(ctx context.Context, name string, made bool) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error)
	Field(path string) (string, error)
	ResourceField(ref *corev1.ResourceFieldSelector) (string, error)
}

// Manager holds the volumes of a node's pods. Different pods may be worked on
// at the same time, one pod by one caller at a time.
type Manager struct {
	root string
	// Memory bounds a memory-backed emptyDir without a limit of its own, in
	// bytes; 0 leaves it to the kernel (half of the memory).
	Memory int64
	// CSI has drivers put volumes in place; nil where there can be none.
	CSI *csi.Manager
	// Did, where set, is told of each volume_mount and volume_unmount of a
	// pod's volume, and how long it took.
	Did func(pod *corev1.Pod, v *corev1.Volume, operation string, took time.Duration, err error)

	formats sync.Mutex // held while a local device gets its filesystem

	mu     sync.Mutex
	claims map[types.UID]map[string]place // where volumes behind claims, and inline ones of drivers, are: by pod and volume
}

// place is where a volume is: a folder, or a block device.
type place struct {
	path  string
	block bool
}

// NewManager keeps volumes below root, which holds a folder per pod, named by
// its uid.
func NewManager(root string) *Manager {
	return &Manager{root: root, claims: map[types.UID]map[string]place{}}
}

// Error is a volume that could not be set up.
type Error struct {
	Volume string
	Err    error
}

// Error is the error's, or that of a driver's step, which is complete.
func (e *Error) Error() string {
	if step := (*csi.Error)(nil); errors.As(e.Err, &step) {
		return e.Err.Error()
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// PodDir is the folder of everything that belongs to one pod on this node.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.root, string(uid)) }

// Mount sets up every volume of a pod, or refreshes those whose content comes
// from the API; it may be repeated. It returns when the content must be
// refreshed at the latest (zero for never). Errors are of type *Error.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod, src Source) (time.Time, error) {
	// Some look for it in every pod.
	if err := os.MkdirAll(filepath.Join(m.PodDir(pod.UID), volumesFolder), 0o750); err != nil {
		return time.Time{}, err
	}
	var refresh time.Time
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		begun := time.Now()
		at, err := m.mount(ctx, pod, v, src)
		m.did(pod, v, "volume_mount", begun, err)
		if err != nil {
			return time.Time{}, &Error{v.Name, err}
		}
		if !at.IsZero() && (refresh.IsZero() || at.Before(refresh)) {
			refresh = at
		}
	}
	return refresh, nil
}

func (m *Manager) did(pod *corev1.Pod, v *corev1.Volume, operation string, begun time.Time, err error) {
	if m.Did != nil {
		m.Did(pod, v, operation, time.Since(begun), err)
	}
}

func (m *Manager) mount(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, src Source) (time.Time, error) {
	switch {
	case podspec.ClaimName(pod, v) != "":
		return m.claim(ctx, pod, v, src)
	case v.CSI != nil:
		if mounted, _ := usage(pod, v.Name); !mounted {
			return time.Time{}, nil
		}
		return m.driver(ctx, &csi.Volume{Pod: pod, Name: v.Name, Inline: v.CSI, ReadOnly: isTrue(v.CSI.ReadOnly)})
	case v.Image != nil:
		return time.Time{}, nil // the runtime mounts it
	}
	dir, memory, err := m.place(pod, v)
	if err != nil {
		return time.Time{}, err
	}
	switch {
	case v.HostPath != nil:
		return time.Time{}, checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return time.Time{}, m.emptyDir(dir, pod, v.EmptyDir)
	}
	p, err := collect(ctx, pod, v, src)
	if err != nil {
		return time.Time{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	if memory {
		if err := ensureTmpfs(dir, 0, 0o755); err != nil {
			return time.Time{}, err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return time.Time{}, err
	}
	return p.refresh, replace(dir, p.files, fsGroup(pod))
}

// plugin folders, as upstream's volume plugins name them.
const (
	pluginEmptyDir   = "kubernetes.io~empty-dir"
	pluginConfigMap  = "kubernetes.io~configmap"
	pluginSecret     = "kubernetes.io~secret"
	pluginDownward   = "kubernetes.io~downward-api"
	pluginProjected  = "kubernetes.io~projected"
	volumesFolder    = "volumes"
	subpathsFolder   = "volume-subpaths"
	deprecatedMedium = "Memory"
)

// place is where a volume's files are, and whether that is in memory.
func (m *Manager) place(pod *corev1.Pod, v *corev1.Volume) (dir string, memory bool, err error) {
	plugin := ""
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, false, nil
	case podspec.ClaimName(pod, v) != "" || v.CSI != nil:
		at, ok := m.placed(pod.UID, v.Name)
		if !ok || at.block {
			return "", false, fmt.Errorf("volume %q is not mounted", v.Name)
		}
		return at.path, false, nil
	case v.EmptyDir != nil:
		plugin, memory = pluginEmptyDir, v.EmptyDir.Medium == deprecatedMedium
	case v.ConfigMap != nil:
		plugin = pluginConfigMap
	case v.Secret != nil:
		plugin, memory = pluginSecret, true
	case v.DownwardAPI != nil:
		plugin, memory = pluginDownward, true
	case v.Projected != nil:
		plugin, memory = pluginProjected, true
	default:
		return "", false, fmt.Errorf("volume type %s is not supported by this kubelet", typeName(v))
	}
	return filepath.Join(m.PodDir(pod.UID), volumesFolder, plugin, v.Name), memory, nil
}

// typeName names a volume's source as its field in the API.
func typeName(v *corev1.Volume) string {
	s := &v.VolumeSource
	for name, set := range map[string]bool{
		"nfs": s.NFS != nil, "iscsi": s.ISCSI != nil, "fc": s.FC != nil, "image": s.Image != nil, "gitRepo": s.GitRepo != nil,
		"flexVolume": s.FlexVolume != nil, "portworxVolume": s.PortworxVolume != nil, "rbd": s.RBD != nil,
		"cephfs": s.CephFS != nil, "cinder": s.Cinder != nil, "glusterfs": s.Glusterfs != nil,
	} {
		if set {
			return fmt.Sprintf("%q", name)
		}
	}
	return "unknown"
}

// Path returns where a volume of the pod is on the host.
func (m *Manager) Path(pod *corev1.Pod, name string) (string, error) {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			dir, _, err := m.place(pod, v)
			return dir, err
		}
	}
	return "", fmt.Errorf("volume %q is not defined in the pod", name)
}

func (m *Manager) emptyDir(dir string, pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) error {
	_, err := os.Lstat(dir)
	fresh := os.IsNotExist(err)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch {
	case e.Medium == corev1.StorageMediumDefault:
	case e.Medium == corev1.StorageMediumMemory:
		size := m.Memory
		if e.SizeLimit != nil && e.SizeLimit.Value() > 0 && (size == 0 || e.SizeLimit.Value() < size) {
			size = e.SizeLimit.Value()
		}
		mounted, err := mountinfo.Is(dir)
		if err != nil {
			return err
		}
		if fresh = !mounted; fresh {
			if err := ensureTmpfs(dir, size, 0o777); err != nil {
				return err
			}
		}
	case strings.HasPrefix(string(e.Medium), string(corev1.StorageMediumHugePages)):
		size, err := hugePageSize(pod, e.Medium)
		if err != nil {
			return err
		}
		if err := ensureHugePages(dir, size); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown storage medium %q", e.Medium)
	}
	if !fresh {
		return nil
	}
	// The mode is set apart from the umask. As on every tmpfs, what is in
	// memory can be removed only by who made it.
	mode := os.FileMode(0o777)
	if e.Medium == corev1.StorageMediumMemory {
		mode |= os.ModeSticky
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	if g := fsGroup(pod); g != nil {
		if err := os.Chown(dir, -1, int(*g)); err != nil {
			return err
		}
		return os.Chmod(dir, mode|os.ModeSetgid)
	}
	return nil
}

// hugePageSize is the size, such as "2Mi", of the pages of a medium: the one
// that it names, or else the only one that the pod or its containers ask for.
func hugePageSize(pod *corev1.Pod, medium corev1.StorageMedium) (string, error) {
	if size, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		return size, nil
	}
	var asked []corev1.ResourceList
	if r := pod.Spec.Resources; r != nil {
		asked = append(asked, r.Requests)
	}
	for _, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			asked = append(asked, l[i].Resources.Requests)
		}
	}
	found := ""
	for _, requests := range asked {
		for name := range requests {
			size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if !ok {
				continue
			}
			if found != "" && found != size {
				return "", fmt.Errorf("medium %s: the pod requests huge pages of several sizes", medium)
			}
			found = size
		}
	}
	if found == "" {
		return "", fmt.Errorf("medium %s: the pod requests no huge pages", medium)
	}
	return found, nil
}

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// checkHostPath makes and checks a hostPath (API documentation of
// HostPathType).
func checkHostPath(h *corev1.HostPathVolumeSource) error {
	if h.Type == nil || *h.Type == corev1.HostPathUnset {
		return nil
	}
	switch *h.Type {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(h.Path, 0o755); err != nil && !os.IsExist(err) {
			return fmt.Errorf("hostPath type check failed: %w", err)
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			f.Close()
		} else if !os.IsExist(err) {
			return fmt.Errorf("hostPath type check failed: %w", err)
		}
	}
	fi, err := os.Stat(h.Path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	what, ok := "", false
	mode := os.FileMode(0)
	if err == nil {
		mode = fi.Mode()
	}
	switch *h.Type {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		what, ok = "a directory", mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		what, ok = "a file", mode.IsRegular()
	case corev1.HostPathSocket:
		what, ok = "a socket file", mode&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		what, ok = "a character device", mode&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		what, ok = "a block device", mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	default:
		return fmt.Errorf("%s is an invalid volume type", *h.Type)
	}
	if err != nil || !ok {
		return fmt.Errorf("hostPath type check failed: %s is not %s", h.Path, what)
	}
	return nil
}
