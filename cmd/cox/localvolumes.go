package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/localvolume"
)

// localVolumesUser is who a node's part of the local provisioner acts as:
// nodes themselves may not touch volumes.
const localVolumesUser = "system:cox:local-volumes"

// localVolumeObjects writes the default storage class, unless there is one of
// its name, and what the nodes' parts may do.
func (cp *controlPlane) localVolumeObjects(ctx context.Context) error {
	mode, policy, grow := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	_, err := client.StorageClasses.In(cp.root, "").Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        localvolumes.Class,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner: localvolumes.Provisioner, VolumeBindingMode: &mode, ReclaimPolicy: &policy, AllowVolumeExpansion: &grow,
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("storage class %s: %w", localvolumes.Class, err)
	}
	meta := metav1.ObjectMeta{Name: localVolumesUser, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}}
	_, err = client.ClusterRoles.In(cp.root, "").Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"persistentvolumes"}, Verbs: []string{"get", "list", "watch", "update"}},
	}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role of local volumes: %w", err)
	}
	_, err = client.ClusterRoleBindings.In(cp.root, "").Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: *meta.DeepCopy(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: localVolumesUser},
		// Nodes of their own act as themselves; the admission plugin
		// NodeRestriction holds them to letting go volumes of theirs.
		Subjects: []rbacv1.Subject{
			{APIGroup: rbacv1.GroupName, Kind: "User", Name: localVolumesUser},
			{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:nodes"},
		},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role binding of local volumes: %w", err)
	}
	return nil
}

// runLocalVolumes makes and removes the directories of this node's volumes:
// volumes is who it acts as with them, node the node itself.
func (n *localNode) runLocalVolumes(ctx context.Context, volumes, node client.Interface) error {
	c := n.cfg
	return localvolume.Run(ctx, localvolume.Config{
		Volumes: volumes, Node: node,
		NodeName: c.NodeName, Folder: c.dir("local-volumes"), Log: n.log.With("component", "local-volumes"),
	})
}
