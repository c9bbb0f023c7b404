package csi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/coxswain/cox/client"
)

// AttachmentName names the VolumeAttachment of a volume and a node, as the
// attach/detach controller makes it.
func AttachmentName(driver, handle, node string) string {
	return "csi-" + hash(handle+driver+node)
}

// InUse lists the volumes of the node that must not be detached, sorted.
func (m *Manager) InUse() []corev1.UniqueVolumeName {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []corev1.UniqueVolumeName
	for id, v := range m.volumes {
		if v.attached {
			out = append(out, id.unique())
		}
	}
	slices.Sort(out)
	return out
}

// detached notes that a driver's volumes are not attached any more: whatever
// attached them before may let go.
func (m *Manager) detached(driver string) {
	m.mu.Lock()
	changed := false
	for id, v := range m.volumes {
		if id.driver == driver && v.attached {
			v.attached, changed = false, true
		}
	}
	m.mu.Unlock()
	if changed {
		m.cfg.InUseChanged()
	}
}

// Reported is told which volumes the API shows as in use.
func (m *Manager) Reported(names []corev1.UniqueVolumeName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := len(names) == len(m.reported)
	now := map[corev1.UniqueVolumeName]bool{}
	for _, n := range names {
		same = same && m.reported[n]
		now[n] = true
	}
	if same {
		return
	}
	m.reported = now
	close(m.telling)
	m.telling = make(chan struct{})
}

// awaitAttached waits until a volume is attached to the node and returns what
// the driver's controller said then. A volume is used only after the API shows
// that it is: so it cannot be detached under it.
func (m *Manager) awaitAttached(ctx context.Context, v *Volume) (map[string]string, error) {
	id := v.id()
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("timed out waiting for the condition"))
	defer cancel()
	if err := m.awaitReported(ctx, id.unique()); err != nil {
		return nil, fmt.Errorf("report volume %s in use: %w", v.spec(), err)
	}
	if err := m.awaitNode(ctx, id.unique()); err != nil {
		if why := m.attachError(context.WithoutCancel(ctx), v); why != "" {
			return nil, errors.New(why)
		}
		return nil, fmt.Errorf("timed out waiting for external-attacher of %s CSI driver to attach volume %s: %w", id.driver, id.handle, err)
	}
	name := AttachmentName(id.driver, id.handle, m.cfg.NodeName)
	va, err := client.VolumeAttachments.In(m.cfg.Client, "").Get(ctx, name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("volume attachment %s not found: the volume is not attached to node %s", name, m.cfg.NodeName)
	case err != nil:
		return nil, fmt.Errorf("volume attachment %s: %w", name, err)
	case va.DeletionTimestamp != nil:
		return nil, fmt.Errorf("volume attachment %s is being deleted", name)
	case !va.Status.Attached:
		return nil, fmt.Errorf("volume attachment %s is not attached", name)
	}
	return va.Status.AttachmentMetadata, nil
}

func (m *Manager) awaitReported(ctx context.Context, name corev1.UniqueVolumeName) error {
	asked := false
	for {
		m.mu.Lock()
		told, changed := m.reported[name], m.telling
		m.mu.Unlock()
		if told {
			return nil
		}
		if !asked {
			asked = true
			m.cfg.InUseChanged()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitNode follows the node until its status shows the volume attached.
func (m *Manager) awaitNode(ctx context.Context, name corev1.UniqueVolumeName) error {
	has := func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == name })
	}
	nodes := client.Nodes.In(m.cfg.Client, "")
	opts := client.Options{FieldSelector: fields.OneTermEqualSelector("metadata.name", m.cfg.NodeName)}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		items, rv, err := nodes.List(ctx, opts)
		if err == nil && len(items) > 0 && has(items[0]) {
			return nil
		}
		if err == nil {
			from := opts
			from.ResourceVersion = rv
			if seen, err := m.watchNode(ctx, from, has); seen {
				return nil
			} else if err == nil {
				pause = 100 * time.Millisecond
			}
		}
		t := m.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

func (m *Manager) watchNode(ctx context.Context, opts client.Options, has func(*corev1.Node) bool) (bool, error) {
	w, err := client.Nodes.In(m.cfg.Client, "").Watch(ctx, opts)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return false, nil
			}
			if n, isNode := e.Object.(*corev1.Node); isNode && has(n) {
				return true, nil
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// attachError is why a volume could not be attached, as the driver's
// controller says, "" if it does not.
func (m *Manager) attachError(ctx context.Context, v *Volume) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id := v.id()
	va, err := client.VolumeAttachments.In(m.cfg.Client, "").Get(ctx, AttachmentName(id.driver, id.handle, m.cfg.NodeName))
	if err != nil || va.Status.AttachError == nil {
		return ""
	}
	return va.Status.AttachError.Message
}
