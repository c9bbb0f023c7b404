package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/coxswain/cox/client"
)

// grows says to which size the node is to expand a volume whose controller has
// done its part (KEP-1790): nil when it has nothing to do. A read-only volume,
// and one that the node has refused to expand, stay as they are.
func grows(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, readOnly bool) *resource.Quantity {
	if claim == nil || readOnly {
		return nil
	}
	size, have := pv.Spec.Capacity[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(have) <= 0 {
		return nil
	}
	switch claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimControllerResizeInProgress:
		return nil
	}
	return &size
}

// resizing is a claim's status while the node expands its volume.
func resizing(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	out := claim.DeepCopy()
	setResize(out, corev1.PersistentVolumeClaimNodeResizeInProgress)
	return out
}

// resized is a claim's status when the node has expanded its volume.
func resized(claim *corev1.PersistentVolumeClaim, size resource.Quantity) *corev1.PersistentVolumeClaim {
	out := claim.DeepCopy()
	if out.Status.Capacity == nil {
		out.Status.Capacity = corev1.ResourceList{}
	}
	out.Status.Capacity[corev1.ResourceStorage] = size
	delete(out.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	out.Status.Conditions = slices.DeleteFunc(out.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		switch c.Type {
		case corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
			corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
			return true
		}
		return false
	})
	return out
}

// refused is a claim's status when the node cannot expand its volume; for good
// if this size will never be possible, or if the driver has certainly not made
// it and the user wants another one by now: only then may the resizer turn to
// what is wanted (KEP-1790).
func refused(claim *corev1.PersistentVolumeClaim, why error) *corev1.PersistentVolumeClaim {
	out := claim.DeepCopy()
	wants, tried := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.AllocatedResources[corev1.ResourceStorage]
	if infeasible(why) || final(why) && wants.Cmp(tried) != 0 {
		setResize(out, corev1.PersistentVolumeClaimNodeResizeInfeasible)
	}
	c := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimNodeResizeError, Status: corev1.ConditionTrue, Message: "failed to expand pvc with " + why.Error()}
	i := slices.IndexFunc(out.Status.Conditions, func(have corev1.PersistentVolumeClaimCondition) bool { return have.Type == c.Type })
	if i < 0 {
		out.Status.Conditions = append(out.Status.Conditions, c)
	} else {
		out.Status.Conditions[i] = c
	}
	return out
}

func setResize(claim *corev1.PersistentVolumeClaim, s corev1.ClaimResourceStatus) {
	if claim.Status.AllocatedResourceStatuses == nil {
		claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{}
	}
	claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] = s
}

// expand has the driver expand a volume on the node, if that is due, and tells
// the claim. Where the volume is staged only, path is "".
func (w *work) expand(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, stage, path string) error {
	size := grows(claim, pv, w.v.ReadOnly)
	if size == nil || !w.can[csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME] {
		return nil
	}
	m := w.m
	secrets, err := m.secret(ctx, pv.Spec.CSI.NodeExpandSecretRef)
	if err != nil {
		return err
	}
	claim, err = m.tell(ctx, claim, resizing(claim))
	if err != nil {
		return err
	}
	if path == "" {
		path = stage
	}
	at := *w.v
	at.PV, at.Claim = pv, claim
	req := &csiapi.NodeExpandVolumeRequest{
		VolumeId: at.id().handle, VolumePath: path, StagingTargetPath: stage, Secrets: secrets,
		CapacityRange: &csiapi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: capability(&at, w.can, nil),
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := w.s.NodeExpandVolume(call, req)
	if err != nil {
		if _, err := m.tell(ctx, claim, refused(claim, err)); err != nil {
			m.cfg.Log.Warn("cannot tell a claim that its volume does not grow", "volume", pv.Name, "error", err)
		}
		return fmt.Errorf("NodeExpandVolume: %w", err)
	}
	// What the driver says that it made may be more, never less.
	if got := res.GetCapacityBytes(); got > size.Value() {
		m.cfg.Log.Debug("a volume is larger than asked for", "volume", pv.Name, "bytes", got)
	}
	if _, err := m.tell(ctx, claim, resized(claim, *size)); err != nil {
		return err
	}
	r := m.cfg.Events()
	r.Event(w.v.Pod, corev1.EventTypeNormal, "FileSystemResizeSuccessful", fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q ", pv.Name))
	r.Event(claim, corev1.EventTypeNormal, "FileSystemResizeSuccessful", fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q ", pv.Name))
	return nil
}

// tell patches a claim's status, guarded by its uid only: the resizer writes
// it too, other fields of it.
func (m *Manager) tell(ctx context.Context, old, now *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	type half struct {
		Metadata map[string]any                     `json:"metadata,omitempty"`
		Status   corev1.PersistentVolumeClaimStatus `json:"status"`
	}
	a, err := json.Marshal(half{Status: old.Status})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(half{Status: now.Status, Metadata: map[string]any{"uid": old.UID}})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return nil, err
	}
	out, err := client.PersistentVolumeClaims.In(m.cfg.Client, old.Namespace).Patch(ctx, old.Name, types.StrategicMergePatchType, patch, client.Sub("status"))
	if err != nil {
		return nil, fmt.Errorf("tell claim %s/%s of its volume's size: %w", old.Namespace, old.Name, err)
	}
	return out, nil
}

// expandNew expands a volume that was just staged or published: it may have
// been expanded while no node had it.
func (w *work) expandNew(ctx context.Context, stage, path string) error {
	if w.v.PV == nil {
		return nil
	}
	return w.expand(ctx, w.v.Claim, w.v.PV, stage, path)
}

// resize looks whether a volume in use is to grow. Nothing fails by it: the
// pod goes on with what it has, and it is tried again.
func (w *work) resize(ctx context.Context, have *published) {
	v := w.v
	if grows(v.Claim, v.PV, v.ReadOnly) == nil {
		return
	}
	if err := w.expand(ctx, v.Claim, v.PV, w.staging(), have.path); err != nil && ctx.Err() == nil {
		w.m.cfg.Events().Event(v.Pod, corev1.EventTypeWarning, "VolumeResizeFailed", fmt.Sprintf("NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", v.PV.Name, err))
	}
}
