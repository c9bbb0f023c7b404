package protection

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Classes protects VolumeAttributesClasses, which claims and volumes use by
// name (KEP-3751).
type Classes struct {
	env     controllers.Env
	classes client.Informer[*storagev1.VolumeAttributesClass]
	claims  client.Informer[*corev1.PersistentVolumeClaim]
	volumes client.Informer[*corev1.PersistentVolume]
	loop    *client.Loop
}

// byClass indexes claims and volumes by the classes that they use.
const byClass = "class"

// NewClasses makes the controller of classes and registers its handlers.
func NewClasses(env controllers.Env) (*Classes, error) {
	c := &Classes{
		env:     env,
		classes: client.InformerFor(env.Informers, client.VolumeAttributesClasses),
		claims:  client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		volumes: client.InformerFor(env.Informers, client.PersistentVolumes),
	}
	c.loop = env.NewLoop("vacprotection", c.reconcile)
	if err := c.claims.AddIndex(byClass, claimClasses); err != nil {
		return nil, err
	}
	if err := c.volumes.AddIndex(byClass, volumeClasses); err != nil {
		return nil, err
	}
	if _, err := c.classes.OnChange(func(class, _ *storagev1.VolumeAttributesClass) {
		if class != nil && (class.DeletionTimestamp != nil || !slices.Contains(class.Finalizers, ClassFinalizer)) {
			c.loop.AddObject(class)
		}
	}); err != nil {
		return nil, err
	}
	if _, err := c.claims.OnChange(func(now, old *corev1.PersistentVolumeClaim) {
		c.freed(claimClasses(now), claimClasses(old))
	}); err != nil {
		return nil, err
	}
	_, err := c.volumes.OnChange(func(now, old *corev1.PersistentVolume) {
		c.freed(volumeClasses(now), volumeClasses(old))
	})
	return c, err
}

// freed looks again at the classes that an object no longer uses.
func (c *Classes) freed(now, old []string) {
	for _, name := range old {
		if !slices.Contains(now, name) {
			c.loop.Add(name)
		}
	}
}

// Run works until ctx ends.
func (c *Classes) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Classes) reconcile(ctx context.Context, name string) (time.Duration, error) {
	class, ok := c.classes.GetKey(name)
	if !ok {
		return 0, nil
	}
	var failed error
	a := planFinalizer(class, ClassFinalizer, func() bool {
		used, err := c.inUse(ctx, name)
		failed = err
		return used || err != nil
	})
	if failed != nil {
		return 0, fmt.Errorf("listing what may use VolumeAttributesClass %s: %w", name, failed)
	}
	return 0, write(ctx, client.VolumeAttributesClasses.In(c.env.Client, ""), class, a, ClassFinalizer)
}

// inUse asks the API server when the informers know of no user, since they
// may lag behind one.
func (c *Classes) inUse(ctx context.Context, name string) (bool, error) {
	if len(c.claims.ByIndex(byClass, name)) > 0 || len(c.volumes.ByIndex(byClass, name)) > 0 {
		return true, nil
	}
	claims, _, err := client.PersistentVolumeClaims.In(c.env.Client, "").List(ctx, client.Options{})
	if err != nil || slices.ContainsFunc(claims, func(o *corev1.PersistentVolumeClaim) bool { return slices.Contains(claimClasses(o), name) }) {
		return true, err
	}
	volumes, _, err := client.PersistentVolumes.In(c.env.Client, "").List(ctx, client.Options{})
	return slices.ContainsFunc(volumes, func(o *corev1.PersistentVolume) bool { return slices.Contains(volumeClasses(o), name) }), err
}
