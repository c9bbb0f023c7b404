package localprovisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 2

// volumeKey marks the queue's keys that name a volume; no namespace has a
// name that is empty.
const volumeKey = "/"

// Controller provisions, grows and deletes local volumes.
type Controller struct {
	env     controllers.Env
	claims  client.Informer[*corev1.PersistentVolumeClaim]
	volumes client.Informer[*corev1.PersistentVolume]
	classes client.Informer[*storagev1.StorageClass]
	nodes   client.Informer[*corev1.Node]
	loop    *client.Loop
	writes  client.Writes // of claims
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:     env,
		claims:  client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		volumes: client.InformerFor(env.Informers, client.PersistentVolumes),
		classes: client.InformerFor(env.Informers, client.StorageClasses),
		nodes:   client.InformerFor(env.Informers, client.Nodes),
	}
	c.loop = env.NewLoop("local_provisioner", c.reconcile)
	if _, err := c.claims.OnChange(func(claim, _ *corev1.PersistentVolumeClaim) {
		if claim != nil && (wants(claim) || claim.Spec.VolumeName != "") {
			c.loop.AddObject(claim)
		}
	}); err != nil {
		return nil, err
	}
	if _, err := c.volumes.OnChange(func(v, _ *corev1.PersistentVolume) {
		if v != nil && ours(v) && (deletable(v) || v.DeletionTimestamp != nil) {
			c.loop.Add(volumeKey + v.Name)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.nodes.OnChange(func(node, old *corev1.Node) {
		switch {
		case node == nil:
			for _, v := range c.volumes.List("", nil) {
				if ours(v) && v.DeletionTimestamp != nil {
					c.loop.Add(volumeKey + v.Name)
				}
			}
		case old == nil || node.Annotations[localvolumes.FolderAnnotation] != old.Annotations[localvolumes.FolderAnnotation]:
			for _, claim := range c.claims.List("", nil) {
				if wants(claim) && claim.Annotations[volume.AnnSelectedNode] == node.Name {
					c.loop.AddObject(claim)
				}
			}
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		return 0, c.reclaim(ctx, name)
	}
	claim, ok := c.claims.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		return 0, nil
	}
	if !c.claims.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	if wants(claim) {
		return 0, c.provision(ctx, key, claim)
	}
	if v, ok := c.volumes.Get("", claim.Spec.VolumeName); ok && ours(v) {
		return 0, c.grow(ctx, key, claim, v)
	}
	return 0, nil
}

func (c *Controller) provision(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim) error {
	class, ok := c.classes.Get("", volume.GetPersistentVolumeClaimClass(claim))
	if !ok || class.Provisioner != localvolumes.Provisioner {
		return nil
	}
	selected := claim.Annotations[volume.AnnSelectedNode]
	if selected == "" {
		c.failed(claim, errors.New("local volumes need a node: the storage class must have volumeBindingMode WaitForFirstConsumer"))
		return nil
	}
	node, ok := c.nodes.Get("", selected)
	if !ok {
		return c.reschedule(ctx, key, claim, &refusal{text: fmt.Sprintf("node %q not found", selected), node: true})
	}
	v, no := volumeFor(claim, class, node)
	if no != nil && no.node {
		return c.reschedule(ctx, key, claim, no)
	}
	if no != nil {
		c.failed(claim, no)
		return nil
	}
	_, err := client.PersistentVolumes.In(c.env.Client, "").Create(ctx, v)
	if apierrors.IsAlreadyExists(err) {
		return nil // made before; the binder goes on
	}
	if err != nil {
		c.failed(claim, err)
		return fmt.Errorf("creating volume: %w", err)
	}
	c.env.Events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", v.Name)
	return nil
}

func (c *Controller) failed(claim *corev1.PersistentVolumeClaim, err error) {
	c.env.Events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v",
		volume.GetPersistentVolumeClaimClass(claim), err)
}

// reschedule takes the node back, so that the scheduler chooses again.
func (c *Controller) reschedule(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim, why *refusal) error {
	c.failed(claim, why)
	out := claim.DeepCopy()
	delete(out.Annotations, volume.AnnSelectedNode)
	got, err := client.PersistentVolumeClaims.In(c.env.Client, claim.Namespace).Update(ctx, out)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("giving claim %s back to the scheduler: %w", key, err)
	}
	c.writes.Wrote(key, got)
	return nil
}

func (c *Controller) grow(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) error {
	larger, status := grown(claim, v)
	if larger != nil {
		if _, err := client.PersistentVolumes.In(c.env.Client, "").Update(ctx, larger); err != nil {
			return fmt.Errorf("growing volume %s: %w", v.Name, err)
		}
	}
	if status == nil {
		return nil
	}
	got, err := client.PersistentVolumeClaims.In(c.env.Client, claim.Namespace).UpdateStatus(ctx, status)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reporting the new size of claim %s: %w", key, err)
	}
	c.writes.Wrote(key, got)
	c.env.Events.Eventf(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}

func (c *Controller) reclaim(ctx context.Context, name string) error {
	v, ok := c.volumes.Get("", name)
	if !ok {
		return nil
	}
	volumes := client.PersistentVolumes.In(c.env.Client, "")
	if deletable(v) {
		uid, rv := v.UID, v.ResourceVersion
		err := volumes.Delete(ctx, name, client.Options{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &rv}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting volume %s: %w", name, err)
		}
		return nil
	}
	_, there := c.nodes.Get("", v.Labels[localvolumes.NodeLabel])
	if !abandoned(v, there) {
		return nil
	}
	out := v.DeepCopy()
	out.Finalizers = slices.DeleteFunc(out.Finalizers, func(f string) bool { return f == localvolumes.Finalizer })
	if _, err := volumes.Update(ctx, out); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("letting volume %s go with its node: %w", name, err)
	}
	return nil
}
