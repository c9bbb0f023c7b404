package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/internal/mountinfo"
)

// Error is a step that failed, in the words of upstream's events.
type Error struct {
	Step, Volume string
	Err          error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s failed for volume %q : %v", e.Step, e.Volume, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Place is where a volume is for a pod.
type Place struct {
	Path  string // a folder, or a block device
	Block bool
	// Again is when Mount is to be called again; zero for never.
	Again time.Time
	// Fresh says that Mount has just published the volume; Group that its
	// files are then to be given to the pod's group.
	Fresh, Group bool
}

// Mount stages and publishes a volume for its pod, as far as that is not done.
// It may be repeated; errors are of type *Error.
func (m *Manager) Mount(ctx context.Context, v *Volume) (Place, error) {
	fail := func(step string, err error) (Place, error) { return Place{}, &Error{step, v.spec(), err} }
	mount, setUp := "MountVolume.MountDevice", "MountVolume.SetUp"
	if v.block() {
		mount, setUp = "MapVolume.MapBlockVolume", "MapVolume.MapPodDevice"
	}
	id := v.id()
	object, err := m.object(ctx, id.driver)
	if err != nil {
		return fail(setUp, err)
	}
	if err := checkLifecycle(v, object); err != nil {
		return fail(setUp, err)
	}
	r := &record{Name: v.spec(), Handle: id.handle, Driver: id.driver, Node: m.cfg.NodeName, Lifecycle: string(v.lifecycle())}
	if attachable(v, object) {
		r.Attachment = AttachmentName(id.driver, id.handle, m.cfg.NodeName)
	}
	m.mu.Lock()
	if m.taken(v) {
		m.mu.Unlock()
		return fail(setUp, errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod"))
	}
	vol := m.enter(r, v.Pod.UID)
	have := vol.pods[v.Pod.UID].published[v.Name]
	m.mu.Unlock()
	now := m.cfg.Clock.Now()
	if have != nil && !have.look.IsZero() && !now.Before(have.look) && grows(v.Claim, v.PV, v.ReadOnly) == nil {
		have.look = now.Add(refresh) // nothing to ask the driver for
	}
	if have != nil && (have.again.IsZero() || now.Before(have.again)) && (have.look.IsZero() || now.Before(have.look)) {
		return have.place(), nil
	}
	if err := vol.lock(ctx); err != nil {
		return fail(setUp, err)
	}
	defer vol.unlock()
	d, err := m.driver(id.driver)
	if err != nil {
		return fail(setUp, fmt.Errorf("%s: mounter.SetUpAt failed to get CSI client: %w", Name, err))
	}
	s, err := d.open()
	if err != nil {
		return fail(setUp, err)
	}
	defer s.close()
	w := &work{m: m, s: s, v: v, vol: vol, r: r, object: object}
	if w.can, err = s.abilities(ctx); err != nil {
		return fail(setUp, err)
	}
	if have != nil && !have.look.IsZero() && !now.Before(have.look) {
		have.look = now.Add(refresh)
		w.resize(ctx, have)
		if have.again.IsZero() || now.Before(have.again) {
			return have.place(), nil
		}
	}
	if r.Attachment != "" && have == nil {
		if w.attached, err = m.awaitAttached(ctx, v); err != nil {
			return fail(mount, err)
		}
	}
	if have == nil {
		if err := w.stage(ctx); err != nil {
			return fail(mount, err)
		}
	}
	p, err := w.publish(ctx, have)
	if err != nil {
		return fail(setUp, err)
	}
	place := p.place()
	place.Fresh = have == nil
	place.Group = !p.block && givesGroup(v, object) && !w.can[csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP]
	return place, nil
}

// taken says that a volume for one pod has another: a pod may come here past
// the scheduler. Call with the lock held.
func (m *Manager) taken(v *Volume) bool {
	if v.PV == nil || !slices.Contains(v.PV.Spec.AccessModes, corev1.ReadWriteOncePod) || m.volumes[v.id()] == nil {
		return false
	}
	for uid := range m.volumes[v.id()].pods {
		if uid != v.Pod.UID {
			return true
		}
	}
	return false
}

func (p *published) place() Place {
	out := Place{Path: p.path, Block: p.block, Again: p.again}
	if out.Again.IsZero() || !p.look.IsZero() && p.look.Before(out.Again) {
		out.Again = p.look
	}
	return out
}

// lock waits until nobody else works on the volume.
func (vol *volume) lock(ctx context.Context) error {
	select {
	case vol.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (vol *volume) unlock() { <-vol.busy }

// work is one call of Mount.
type work struct {
	m        *Manager
	s        *session
	v        *Volume
	vol      *volume
	r        *record
	can      abilities
	object   *storagev1.CSIDriver
	attached map[string]string // what the driver's controller said
}

// stage has the driver make the volume ready on the node, once for all pods.
func (w *work) stage(ctx context.Context) error {
	m, v := w.m, w.v
	id := v.id()
	if v.block() {
		// Its record is the only one that it has.
		if err := w.r.write(m.blockRecord(v.spec())); err != nil {
			return err
		}
	}
	if v.Inline != nil || !w.can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		return nil
	}
	if w.vol.ready || w.vol.staged && w.mounted() {
		return nil
	}
	secrets, err := m.secret(ctx, v.PV.Spec.CSI.NodeStageSecretRef)
	if err != nil {
		return err
	}
	path := w.staging()
	if !v.block() {
		if err := w.r.write(m.stage(id)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	req := &csiapi.NodeStageVolumeRequest{
		VolumeId: id.handle, PublishContext: w.attached, StagingTargetPath: path,
		VolumeCapability: capability(v, w.can, w.group()), Secrets: secrets, VolumeContext: v.attributes(),
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.vol.staged = true // whatever comes of it, short of a final no
	if _, err := w.s.NodeStageVolume(ctx, req); err != nil {
		if final(err) && !w.vol.recalled {
			w.vol.staged = false
			w.forgetStage(path)
		}
		return err
	}
	w.vol.ready = true
	return nil
}

// mounted says that the staged volume of an earlier life is there. Where its
// driver has mounted nothing it is asked again, which by CSI is harmless.
func (w *work) mounted() bool {
	ok, err := mountinfo.Is(filepath.Join(w.m.stage(w.v.id()), "globalmount"))
	return err == nil && ok && !w.v.block()
}

// forgetStage takes away what was made for a stage that was refused.
func (w *work) forgetStage(path string) {
	if err := removeEmpty(path); err != nil {
		w.m.cfg.Log.Warn("cannot remove a folder for staging", "path", path, "error", err)
		return
	}
	if !w.v.block() {
		if err := removeRecord(w.m.stage(w.v.id())); err != nil {
			w.m.cfg.Log.Warn("cannot forget a volume that was not staged", "volume", w.v.spec(), "error", err)
		}
	}
}

// staging is where the volume is staged, "" where its driver does no such
// thing.
func (w *work) staging() string {
	switch {
	case w.v.Inline != nil || !w.can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME]:
		return ""
	case w.v.block():
		return w.m.blockStage(w.v.spec())
	}
	return filepath.Join(w.m.stage(w.v.id()), "globalmount")
}

func (w *work) group() *int64 {
	if givesGroup(w.v, w.object) {
		return Group(w.v.Pod)
	}
	return nil
}

// publish has the driver show the volume to the pod. have is what there is
// already, which is then published again.
func (w *work) publish(ctx context.Context, have *published) (*published, error) {
	m, v := w.m, w.v
	id, uid := v.id(), v.Pod.UID
	target := filepath.Join(m.target(uid, v.spec()), "mount")
	if v.block() {
		target = m.blockTarget(uid, v.spec())
	}
	p := &published{path: target, block: v.block()}
	if w.object != nil && w.object.Spec.RequiresRepublish != nil && *w.object.Spec.RequiresRepublish {
		p.again = m.cfg.Clock.Now().Add(refresh)
	}
	if v.Claim != nil && w.can[csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME] {
		p.look = m.cfg.Clock.Now().Add(refresh)
	}
	if have == nil && p.again.IsZero() && !v.block() && w.left(target) {
		w.enter(p)
		return p, nil // by an earlier life
	}
	secrets, err := m.secret(ctx, v.publishSecret())
	if err != nil {
		return nil, err
	}
	attributes, secrets, err := m.publishContext(ctx, v, w.object, secrets)
	if err != nil {
		return nil, err
	}
	req := &csiapi.NodePublishVolumeRequest{
		VolumeId: id.handle, PublishContext: w.attached, TargetPath: target, Readonly: v.ReadOnly,
		VolumeCapability: capability(v, w.can, w.group()), Secrets: secrets, VolumeContext: attributes,
	}
	req.StagingTargetPath = w.staging()
	if !v.block() {
		if err := w.r.write(m.target(uid, v.spec())); err != nil {
			return nil, err
		}
	} else if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return nil, err
	}
	if have != nil && have.path != "" && w.attached == nil && w.r.Attachment != "" {
		// What the controller said is told again too.
		if req.PublishContext, err = m.awaitAttached(ctx, v); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := w.s.NodePublishVolume(ctx, req); err != nil {
		if final(err) && have == nil {
			w.unwind(target)
		}
		return nil, err
	}
	if v.block() {
		if err := m.link(uid, v.spec(), target); err != nil {
			return nil, err
		}
	}
	w.enter(p)
	if have == nil {
		return p, w.expandNew(ctx, req.StagingTargetPath, target)
	}
	return p, nil
}

func (w *work) enter(p *published) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if u := w.vol.pods[w.v.Pod.UID]; u != nil {
		u.published[w.v.Name] = p
	}
}

// left says that the volume was published before this process began: its
// record and its mount are there, and the mount answers.
func (w *work) left(target string) bool {
	if r, err := readRecord(filepath.Dir(target)); err != nil || r == nil || *r != *w.r {
		return false
	}
	ok, err := mountinfo.Is(target)
	if broken(err) {
		// As a file system in user space leaves it whose process died.
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			w.m.cfg.Log.Warn("cannot unmount a broken volume", "path", target, "error", err)
		}
	}
	return err == nil && ok
}

func broken(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EHOSTDOWN)
}

// unwind takes away what was made for a publication that was refused.
func (w *work) unwind(target string) {
	err := removeEmpty(target)
	if err == nil && !w.v.block() {
		err = removeRecord(filepath.Dir(target))
	}
	if err != nil {
		w.m.cfg.Log.Warn("cannot remove the folder of a volume that was not published", "path", target, "error", err)
	}
}

// link makes the pod's link to its block device.
func (m *Manager) link(uid types.UID, name, target string) error {
	at := m.blockLink(uid, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o750); err != nil {
		return err
	}
	if have, err := os.Readlink(at); err == nil && have == target {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(target, at)
}

// removeEmpty removes a file or an empty folder, never what is in one: that
// could be a volume's data.
func removeEmpty(path string) error {
	if ok, err := mountinfo.Is(path); err != nil || ok {
		return errors.Join(err, fmt.Errorf("%s is still mounted", path))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeRecord removes a record and the folder that it was in.
func removeRecord(dir string) error {
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return removeEmpty(dir)
}
