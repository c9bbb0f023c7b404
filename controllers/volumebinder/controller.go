package volumebinder

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 4

// Indexes: claims and volumes by class, volumes by the claim that they are
// reserved for ("namespace/name").
const (
	byClass = "class"
	byClaim = "claim"
)

// Controller binds claims and volumes.
type Controller struct {
	env     controllers.Env
	static  bool
	claims  client.Informer[*corev1.PersistentVolumeClaim]
	volumes client.Informer[*corev1.PersistentVolume]
	classes client.Informer[*storagev1.StorageClass]
	// One loop per side; both write claims and volumes and rely on the
	// resourceVersion of what they saw.
	claimLoop, volumeLoop *client.Loop
	claimW, volumeW       client.Writes
}

// New makes the controller and registers its handlers. A static one asks for
// no volumes: claims wait for those that someone makes.
func New(env controllers.Env, static bool) (*Controller, error) {
	c := &Controller{
		env: env, static: static,
		claims:  client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		volumes: client.InformerFor(env.Informers, client.PersistentVolumes),
		classes: client.InformerFor(env.Informers, client.StorageClasses),
	}
	c.claimLoop = env.NewLoop("claims", c.reconcileClaim)
	c.volumeLoop = env.NewLoop("volumes", c.reconcileVolume)
	if err := c.claims.AddIndex(byClass, func(p *corev1.PersistentVolumeClaim) []string {
		return []string{volume.GetPersistentVolumeClaimClass(p)}
	}); err != nil {
		return nil, err
	}
	if err := c.volumes.AddIndex(byClass, func(v *corev1.PersistentVolume) []string {
		return []string{volume.GetPersistentVolumeClass(v)}
	}); err != nil {
		return nil, err
	}
	if err := c.volumes.AddIndex(byClaim, func(v *corev1.PersistentVolume) []string {
		if ref := v.Spec.ClaimRef; ref != nil {
			return []string{ref.Namespace + "/" + ref.Name}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if _, err := c.claims.OnChange(c.claimChanged); err != nil {
		return nil, err
	}
	if _, err := c.volumes.OnChange(c.volumeChanged); err != nil {
		return nil, err
	}
	_, err := c.classes.OnChange(func(class, _ *storagev1.StorageClass) {
		if class == nil {
			return
		}
		c.wakePending(class.Name)
		if isDefault(class) {
			c.wakePending("")
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() { defer close(done); c.volumeLoop.Run(ctx, c.env.WorkersOr(workers)) }()
	c.claimLoop.Run(ctx, c.env.WorkersOr(workers))
	<-done
}

func (c *Controller) claimChanged(claim, old *corev1.PersistentVolumeClaim) {
	if claim != nil {
		c.claimLoop.AddObject(claim)
	} else {
		claim = old
	}
	if claim.Spec.VolumeName != "" {
		c.volumeLoop.Add(claim.Spec.VolumeName)
	}
	for _, v := range c.volumes.ByIndex(byClaim, claim.Namespace+"/"+claim.Name) {
		c.volumeLoop.Add(v.Name)
	}
}

func (c *Controller) volumeChanged(v, old *corev1.PersistentVolume) {
	if v != nil {
		c.volumeLoop.Add(v.Name)
	} else {
		v = old
	}
	if old != nil && old.Spec.ClaimRef != nil {
		// A claim whose volume is given to another is lost, which volume
		// populators wait for.
		c.claimLoop.Add(old.Spec.ClaimRef.Namespace + "/" + old.Spec.ClaimRef.Name)
	}
	if ref := v.Spec.ClaimRef; ref != nil {
		c.claimLoop.Add(ref.Namespace + "/" + ref.Name)
		if old == nil || old.Spec.ClaimRef != nil {
			return
		}
	}
	c.wakePending(volume.GetPersistentVolumeClass(v))
}

// wakePending looks again at the claims of a class that wait for a volume.
func (c *Controller) wakePending(class string) {
	for _, claim := range c.claims.ByIndex(byClass, class) {
		if claim.Status.Phase != corev1.ClaimBound {
			c.claimLoop.AddObject(claim)
		}
	}
}

func isDefault(class *storagev1.StorageClass) bool {
	return class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		class.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// defaultClass is the newest default class, then the first by name.
func (c *Controller) defaultClass() *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, class := range c.classes.List("", nil) {
		if !isDefault(class) {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&class.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < best.Name {
			best = class
		}
	}
	return best
}

func (c *Controller) reconcileClaim(ctx context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.GetKey(key)
	if !ok {
		c.claimW.Forget(key)
		c.volumeW.Forget(key)
		return 0, nil
	}
	if !c.claims.CaughtUp(&c.claimW, key) || !c.volumes.CaughtUp(&c.volumeW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	in := ClaimInput{Claim: claim, Static: c.static}
	class := volume.GetPersistentVolumeClaimClass(claim)
	if name := claim.Spec.VolumeName; name != "" {
		in.Named, ok = c.volumes.Get("", name)
		if !ok && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			// Lost is for ever: do not say it from a cache.
			v, err := client.PersistentVolumes.In(c.env.Client, "").Get(ctx, name)
			if err != nil && !apierrors.IsNotFound(err) {
				return 0, fmt.Errorf("reading volume %s: %w", name, err)
			}
			if err == nil {
				in.Named = v
			}
		}
	} else {
		in.Candidates = c.volumes.ByIndex(byClass, class)
		in.Reserved = c.volumes.ByIndex(byClaim, claim.Namespace+"/"+claim.Name)
		in.Class, _ = c.classes.Get("", class)
		in.Default = c.defaultClass()
	}
	plan, err := PlanClaim(in)
	if err != nil {
		return 0, err
	}
	return 0, ignoreGone(c.applyClaim(ctx, key, claim, &plan))
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil // its event is on the way
	}
	return err
}

func (c *Controller) applyClaim(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim, plan *ClaimPlan) error {
	if plan.Bind != nil {
		return c.bind(ctx, key, claim, plan.Bind)
	}
	if plan.Note != (Note{}) {
		c.env.Events.Event(claim, plan.Note.Type, plan.Note.Reason, plan.Note.Message)
	}
	res := client.PersistentVolumeClaims.In(c.env.Client, claim.Namespace)
	out := claim.DeepCopy()
	if plan.SetClass != "" {
		out.Spec.StorageClassName = new(plan.SetClass)
	}
	if p := plan.Provisioner; p != "" {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, volume.AnnBetaStorageProvisioner, p)
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, volume.AnnStorageProvisioner, p)
	}
	if plan.SetClass != "" || out.Annotations[volume.AnnStorageProvisioner] != claim.Annotations[volume.AnnStorageProvisioner] {
		got, err := res.Update(ctx, out)
		if err != nil {
			return fmt.Errorf("updating claim: %w", err)
		}
		c.claimW.Wrote(key, got)
		claim = got
	}
	if plan.Phase == "" || claim.Status.Phase == plan.Phase {
		return nil
	}
	out = claim.DeepCopy()
	out.Status.Phase = plan.Phase
	if plan.Phase != corev1.ClaimBound {
		out.Status.AccessModes, out.Status.Capacity = nil, nil
	}
	got, err := res.UpdateStatus(ctx, out)
	if err != nil {
		return fmt.Errorf("updating claim status: %w", err)
	}
	c.claimW.Wrote(key, got)
	return nil
}

// bind makes the binding whole: the volume's side first, since only one claim
// can win a volume. Each write that is there already is left out, so that a
// binding broken off goes on where it stopped.
func (c *Controller) bind(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) error {
	volumes := client.PersistentVolumes.In(c.env.Client, "")
	reserved, changed, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return fmt.Errorf("binding volume %s: %w", v.Name, err)
	}
	if changed {
		if v, err = volumes.Update(ctx, reserved.DeepCopy()); err != nil {
			return fmt.Errorf("binding volume %s: %w", reserved.Name, err)
		}
		c.volumeW.Wrote(key, v)
	}
	if v, err = c.volumeStatus(ctx, v, VolumePlan{Phase: corev1.VolumeBound}); err != nil {
		return err
	}
	c.volumeW.Wrote(key, v)
	claims := client.PersistentVolumeClaims.In(c.env.Client, claim.Namespace)
	if out, changed := boundClaim(claim, v); changed {
		if claim, err = claims.Update(ctx, out); err != nil {
			return fmt.Errorf("binding claim: %w", err)
		}
		c.claimW.Wrote(key, claim)
	}
	if out, changed := boundStatus(claim, v); changed {
		if claim, err = claims.UpdateStatus(ctx, out); err != nil {
			return fmt.Errorf("binding claim: %w", err)
		}
		c.claimW.Wrote(key, claim)
	}
	return nil
}

func (c *Controller) volumeStatus(ctx context.Context, v *corev1.PersistentVolume, p VolumePlan) (*corev1.PersistentVolume, error) {
	if p.Phase == "" || v.Status.Phase == p.Phase && v.Status.Message == p.Message {
		return v, nil
	}
	out := v.DeepCopy()
	out.Status.Phase, out.Status.Message, out.Status.Reason = p.Phase, p.Message, ""
	got, err := client.PersistentVolumes.In(c.env.Client, "").UpdateStatus(ctx, out)
	if err != nil {
		return v, fmt.Errorf("updating the status of volume %s: %w", v.Name, err)
	}
	return got, nil
}

func (c *Controller) reconcileVolume(ctx context.Context, name string) (time.Duration, error) {
	v, ok := c.volumes.GetKey(name)
	if !ok {
		return 0, nil
	}
	var claim *corev1.PersistentVolumeClaim
	if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
		var err error
		if claim, err = c.boundTo(ctx, ref); err != nil {
			return 0, err
		}
	}
	plan := PlanVolume(v, claim)
	if plan.Note != (Note{}) {
		c.env.Events.Event(v, plan.Note.Type, plan.Note.Reason, plan.Note.Message)
	}
	if plan.Claim && v.Spec.ClaimRef != nil {
		c.claimLoop.Add(v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name)
	}
	if plan.Spec != nil {
		got, err := client.PersistentVolumes.In(c.env.Client, "").Update(ctx, plan.Spec)
		if err != nil {
			return 0, ignoreGone(fmt.Errorf("unbinding volume %s: %w", name, err))
		}
		v = got
	}
	_, err := c.volumeStatus(ctx, v, plan)
	return 0, ignoreGone(err)
}

// boundTo returns the claim that a volume is bound to, nil when it is gone.
// That a claim is gone may cost data, so it is believed to the API only.
func (c *Controller) boundTo(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	if claim, ok := c.claims.Get(ref.Namespace, ref.Name); ok && claim.UID == ref.UID {
		return claim, nil
	}
	claim, err := client.PersistentVolumeClaims.In(c.env.Client, ref.Namespace).Get(ctx, ref.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && claim.UID != ref.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading claim %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return claim, nil
}
