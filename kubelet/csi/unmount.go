package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/types"
)

// Unmount takes a pod's volumes away from it. Those that no other pod uses are
// taken off the node too, which the pod does not wait for. It may be repeated.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	var errs []error
	m.mu.Lock()
	var ids []volumeID
	for id, vol := range m.volumes {
		if vol.pods[uid] != nil {
			ids = append(ids, id)
		}
	}
	m.mu.Unlock()
	for _, id := range ids {
		errs = append(errs, m.leave(ctx, id, uid))
	}
	return errors.Join(errs...)
}

// Holds says that a pod has volumes, or had when the node last knew.
func (m *Manager) Holds(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, vol := range m.volumes {
		if vol.pods[uid] != nil {
			return true
		}
	}
	return false
}

// Sweep takes away what was made ready for pods that are no more. It ends
// when nothing is left, or with ctx: drivers may come late.
func (m *Manager) Sweep(ctx context.Context, known func(types.UID) bool) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		var errs []error
		m.mu.Lock()
		orphans, idle := map[types.UID]bool{}, []volumeID{}
		for id, vol := range m.volumes {
			for uid := range vol.pods {
				if !known(uid) {
					orphans[uid] = true
				}
			}
			if len(vol.pods) == 0 {
				idle = append(idle, id)
			}
		}
		m.mu.Unlock()
		for uid := range orphans {
			errs = append(errs, m.Unmount(ctx, uid))
		}
		for _, id := range idle {
			m.drop(id)
		}
		err := errors.Join(errs...)
		if err == nil {
			return
		}
		m.cfg.Log.Warn("volumes of pods that are gone are still there, will retry", "error", err)
		t := m.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// leave ends a pod's use of a volume, and the volume's use of the node with
// the last.
func (m *Manager) leave(ctx context.Context, id volumeID, uid types.UID) error {
	m.mu.Lock()
	vol := m.volumes[id]
	m.mu.Unlock()
	if vol == nil {
		return nil
	}
	if err := vol.lock(ctx); err != nil {
		return err
	}
	defer vol.unlock()
	targets, err := m.targets(id, uid)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := m.unpublish(ctx, id, t); err != nil {
			return &Error{"UnmountVolume.TearDown", t.name, err}
		}
	}
	m.mu.Lock()
	delete(vol.pods, uid)
	last := len(vol.pods) == 0
	m.mu.Unlock()
	if last {
		m.drop(id)
	}
	return nil
}

// drop takes a volume that no pod uses off the node, however often its driver
// fails; it does not wait for that, and gives up when a pod comes for it.
func (m *Manager) drop(id volumeID) {
	m.mu.Lock()
	vol, ctx := m.volumes[id], m.ctx
	if vol == nil || vol.dropping {
		m.mu.Unlock()
		return
	}
	vol.dropping = true
	m.mu.Unlock()
	m.drops.Go(func() {
		for pause := 500 * time.Millisecond; ; pause = min(2*pause, 2*time.Minute) {
			done, err := m.tryDrop(ctx, id, vol)
			if done {
				return
			}
			m.cfg.Log.Warn("a volume cannot be taken off the node, will retry", "driver", id.driver, "volume", id.handle, "error", err)
			t := m.cfg.Clock.NewTimer(pause)
			select {
			case <-t.C():
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	})
}

func (m *Manager) tryDrop(ctx context.Context, id volumeID, vol *volume) (done bool, err error) {
	if err := vol.lock(ctx); err != nil {
		return true, err
	}
	defer vol.unlock()
	used := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(vol.pods) > 0 {
			vol.dropping = false
		}
		return !vol.dropping
	}
	if used() {
		return true, nil
	}
	vol.ready = false // whatever comes of it
	if err := m.unstage(ctx, id); err != nil {
		return false, fmt.Errorf("UnmountDevice failed for volume %q : %w", id.handle, err)
	}
	vol.staged, vol.recalled = false, false
	if used() {
		return true, nil // somebody came meanwhile and waits for us
	}
	m.mu.Lock()
	tell := vol.attached
	if len(vol.pods) == 0 {
		delete(m.volumes, id)
	}
	vol.dropping = false
	m.mu.Unlock()
	if tell {
		m.cfg.InUseChanged()
	}
	return true, nil
}

// target is a place at which a volume was published.
type target struct {
	name  string
	path  string
	block bool
	dir   string // that holds the record, or "" of a block volume
	link  string
}

// targets finds where a pod has a volume.
func (m *Manager) targets(id volumeID, uid types.UID) ([]target, error) {
	var out []target
	dirs, _ := filepath.Glob(m.target(uid, "*"))
	for _, dir := range dirs {
		r, err := readRecord(dir)
		if err != nil {
			return nil, err
		}
		if r != nil && r.id() == id {
			out = append(out, target{name: r.Name, path: filepath.Join(dir, "mount"), dir: dir})
		}
	}
	names, err := m.blockNames(id)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := m.blockTarget(uid, name)
		if _, err := os.Lstat(path); err == nil {
			out = append(out, target{name: name, path: path, block: true, link: m.blockLink(uid, name)})
		}
	}
	return out, nil
}

// blockNames are the names under which a block volume is known.
func (m *Manager) blockNames(id volumeID) ([]string, error) {
	var out []string
	files, _ := filepath.Glob(filepath.Join(m.blockRecord("*"), recordFile))
	for _, f := range files {
		r, err := readRecord(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		if r != nil && r.id() == id {
			out = append(out, r.Name)
		}
	}
	return out, nil
}

func (m *Manager) unpublish(ctx context.Context, id volumeID, t target) error {
	d, err := m.driver(id.driver)
	if err != nil {
		return fmt.Errorf("%s: Unmounter.TearDownAt failed to get CSI client: %w", Name, err)
	}
	s, err := d.open()
	if err != nil {
		return err
	}
	defer s.close()
	if t.link != "" {
		if err := os.Remove(t.link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.NodeUnpublishVolume(ctx, &csiapi.NodeUnpublishVolumeRequest{VolumeId: id.handle, TargetPath: t.path}); err != nil {
		return err
	}
	m.stats.mu.Lock()
	delete(m.stats.by, t.path)
	m.stats.mu.Unlock()
	if err := removeEmpty(t.path); err != nil {
		return err
	}
	if t.block {
		return nil
	}
	return removeRecord(t.dir)
}

// unstage has the driver take a volume off the node, if it was staged. The
// volume's lock is held.
func (m *Manager) unstage(ctx context.Context, id volumeID) error {
	dir := m.stage(id)
	r, err := readRecord(dir)
	if err != nil {
		return err
	}
	names, err := m.blockNames(id)
	if err != nil {
		return err
	}
	if r == nil && len(names) == 0 {
		return nil
	}
	d, err := m.driver(id.driver)
	if err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	s, err := d.open()
	if err != nil {
		return err
	}
	defer s.close()
	can, err := s.abilities(ctx)
	if err != nil {
		return err
	}
	stages := can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME]
	call := func(path string) error {
		if stages {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			if _, err := s.NodeUnstageVolume(ctx, &csiapi.NodeUnstageVolumeRequest{VolumeId: id.handle, StagingTargetPath: path}); err != nil {
				return err
			}
		}
		return removeEmpty(path)
	}
	if r != nil {
		if err := call(filepath.Join(dir, "globalmount")); err != nil {
			return err
		}
		if err := removeRecord(dir); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := os.Lstat(m.blockStage(name)); err == nil {
			if err := call(m.blockStage(name)); err != nil {
				return err
			}
		}
		if err := errors.Join(removeEmpty(filepath.Dir(m.blockTarget("x", name))), removeRecord(m.blockRecord(name)), removeEmpty(filepath.Dir(m.blockRecord(name)))); err != nil {
			return err
		}
	}
	return nil
}
