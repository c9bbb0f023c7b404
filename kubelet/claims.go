package kubelet

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/coxswain/cox/client"
)

// Claim returns a claim of the pod's namespace and the volume that it is bound
// to, if this node may use it. made says that the claim was to be made for the
// pod.
func (s *volumeSource) Claim(ctx context.Context, name string, made bool) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	where := s.pod.Namespace + "/" + name
	pvc, err := client.PersistentVolumeClaims.In(s.k.cfg.Client, s.pod.Namespace).Get(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("error processing PVC %s: failed to fetch PVC from API server: %w", where, err)
	}
	switch {
	case made && !metav1.IsControlledBy(pvc, s.pod):
		return nil, nil, fmt.Errorf("PVC %s was not created for pod %s/%s (pod is not owner)", where, s.pod.Namespace, s.pod.Name)
	case pvc.DeletionTimestamp != nil && len(s.pod.Status.ContainerStatuses) == 0:
		return nil, nil, fmt.Errorf("error processing PVC %s: PVC is being deleted", where)
	case pvc.Status.Phase != corev1.ClaimBound || pvc.Spec.VolumeName == "":
		return nil, nil, fmt.Errorf("error processing PVC %s: PVC is not bound", where)
	}
	pv, err := client.PersistentVolumes.In(s.k.cfg.Client, "").Get(ctx, pvc.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil, nil, fmt.Errorf("failed to fetch PV %s from API server: %w", pvc.Spec.VolumeName, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != pvc.UID {
		return nil, nil, fmt.Errorf("error processing PVC %s: the volume %s is bound to another claim", where, pv.Name)
	}
	if err := s.k.node.reaches(ctx, pv); err != nil {
		return nil, nil, err
	}
	return pvc, pv, nil
}

// reaches says why this node cannot use a volume, nil if it can. The labels
// that decide may be new: those of a driver's topology come when it registers,
// and the scheduler, which watches the node, has seen them before us.
func (n *nodeManager) reaches(ctx context.Context, pv *corev1.PersistentVolume) error {
	check := func() error {
		node := n.current()
		if node == nil {
			return nil
		}
		return volume.CheckNodeAffinity(pv, node.Labels)
	}
	err := check()
	if err != nil {
		n.read(ctx)
		err = check()
	}
	if err != nil {
		return fmt.Errorf("volume node affinity check failed: %w", err)
	}
	return nil
}
