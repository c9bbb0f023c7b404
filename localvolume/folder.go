package localvolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/coxswain/cox/api/localvolumes"
)

// action is what is to be done about one volume's directory.
type action int

const (
	leave action = iota
	create
	remove  // the directory, then the finalizer
	release // the finalizer only: the data stay
)

// plan decides about a volume: only about one whose directory is exactly the
// one that its name gives it in this folder, so that no volume object, however
// it came about, can point cox at another part of the disk.
func plan(v *corev1.PersistentVolume, folder, node string) action {
	if v.Labels[localvolumes.NodeLabel] != node || v.Spec.Local == nil || len(validation.NameIsDNSSubdomain(v.Name, false)) > 0 ||
		v.Spec.Local.Path != filepath.Join(folder, v.Name) || !slices.Contains(v.Finalizers, localvolumes.Finalizer) {
		return leave
	}
	switch {
	case v.DeletionTimestamp == nil && (v.Status.Phase == corev1.VolumePending || v.Status.Phase == corev1.VolumeBound || v.Status.Phase == corev1.VolumeAvailable):
		return create
	case v.DeletionTimestamp == nil || v.Status.Phase == corev1.VolumeBound:
		return leave // in use, and kept until it is not
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return remove
	}
	return release
}

// folder is the directory that holds one directory per volume. Its handle
// keeps every operation inside, whatever links are laid.
type folder struct {
	root *os.Root
}

func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("folder of local volumes: %w", err)
	}
	// Only root passes here, whatever modes the volumes have.
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, fmt.Errorf("folder of local volumes: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("folder of local volumes: %w", err)
	}
	return &folder{root}, nil
}

// create makes a volume's directory, with the mode of a file system's fresh
// root; it is there already after a restart.
func (f *folder) create(name string) error {
	err := f.root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		info, err := f.root.Lstat(name)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is in the way and is no directory", name)
		}
		return err
	}
	if err != nil {
		return err
	}
	return f.root.Chmod(name, 0o755) // the umask may have taken from it
}

// remove deletes a volume's directory with what is in it; links inside are
// removed, not followed.
func (f *folder) remove(name string) error { return f.root.RemoveAll(name) }

func (f *folder) close() error { return f.root.Close() }
