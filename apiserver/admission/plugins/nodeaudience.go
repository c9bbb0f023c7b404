package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// audienceVerb is what a node must be allowed to do with an audience, as a
// resource, that none of the pod's volumes asks for (KEP-4412).
const audienceVerb = "request-serviceaccounts-token-audience"

// audience lets a node ask for tokens of those audiences only that the pod
// itself hands tokens to: by projected volumes, and by CSI drivers that its
// volumes are of. Else whoever takes over a node could act as its pods
// wherever their accounts are trusted. No audience counts as the empty one.
func (r *restriction) audience(ctx context.Context, asked []string, pod *corev1.Pod) (string, error) {
	if len(asked) > 1 {
		return "node may only request 0 or 1 audiences", nil
	}
	want := ""
	if len(asked) == 1 {
		want = asked[0]
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		found, err := r.wants(ctx, pod, &pod.Spec.Volumes[i], want)
		if found {
			return "", nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		return fmt.Sprintf("error validating audience %q: %v", want, err), nil
	}
	d, _, err := r.authz.Authorize(ctx, &authz.Attributes{
		User: r.a.User, Verb: audienceVerb, Version: "v1", Resource: want, Namespace: r.a.Namespace, Name: r.a.Name,
	})
	if d == authz.Allow {
		return "", nil
	}
	reason := fmt.Sprintf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", want, r.a.User.Name)
	if err != nil {
		reason += ": " + err.Error()
	}
	return reason, nil
}

// wants says whether the pod's volume asks for tokens of an audience.
func (r *restriction) wants(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, audience string) (bool, error) {
	switch {
	case v.Projected != nil:
		return slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
		}), nil
	case v.CSI != nil:
		return r.driverWants(ctx, v.CSI.Driver, audience)
	case v.PersistentVolumeClaim != nil:
		return r.claimWants(ctx, v.PersistentVolumeClaim.ClaimName, audience)
	case v.Ephemeral != nil:
		return r.claimWants(ctx, pod.Name+"-"+v.Name, audience)
	}
	return r.driverWants(ctx, movedVolume(v), audience)
}

func (r *restriction) claimWants(ctx context.Context, name, audience string) (bool, error) {
	claim, err := get(ctx, client.PersistentVolumeClaims.In(r.door, r.a.Namespace), name)
	if err != nil {
		return false, absent("persistentvolumeclaim", name, err)
	}
	if claim.Spec.VolumeName == "" {
		return false, errors.New(`persistentvolume "" not found`)
	}
	volume, err := get(ctx, client.PersistentVolumes.In(r.door, ""), claim.Spec.VolumeName)
	if err != nil {
		return false, absent("persistentvolume", claim.Spec.VolumeName, err)
	}
	if volume.Spec.CSI != nil {
		return r.driverWants(ctx, volume.Spec.CSI.Driver, audience)
	}
	return r.driverWants(ctx, movedPersistent(&volume.Spec.PersistentVolumeSource), audience)
}

// driverWants says whether a driver is given tokens of an audience; "" is no
// driver.
func (r *restriction) driverWants(ctx context.Context, name, audience string) (bool, error) {
	if name == "" {
		return false, nil
	}
	driver, err := get(ctx, client.CSIDrivers.In(r.door, ""), name)
	if err != nil {
		return false, absent("csidriver.storage.k8s.io", name, err)
	}
	for _, t := range driver.Spec.TokenRequests {
		if t.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

// absent is the error of a lookup in upstream's words, which call the
// resource by its singular.
func absent(kind, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %q not found", kind, name)
	}
	return err
}

// movedVolume is the CSI driver that serves a volume of a kind that was part
// of Kubernetes once ("CSI migration" in the documentation of volumes); "" if
// none does.
func movedVolume(v *corev1.Volume) string {
	switch {
	case v.GCEPersistentDisk != nil:
		return "pd.csi.storage.gke.io"
	case v.AWSElasticBlockStore != nil:
		return "ebs.csi.aws.com"
	case v.AzureDisk != nil:
		return "disk.csi.azure.com"
	case v.AzureFile != nil:
		return "file.csi.azure.com"
	case v.Cinder != nil:
		return "cinder.csi.openstack.org"
	case v.VsphereVolume != nil:
		return "csi.vsphere.vmware.com"
	case v.PortworxVolume != nil:
		return "pxd.portworx.com"
	}
	return ""
}

// movedPersistent is movedVolume for a PersistentVolume.
func movedPersistent(s *corev1.PersistentVolumeSource) string {
	v := corev1.Volume{VolumeSource: corev1.VolumeSource{
		GCEPersistentDisk: s.GCEPersistentDisk, AWSElasticBlockStore: s.AWSElasticBlockStore, AzureDisk: s.AzureDisk,
		VsphereVolume: s.VsphereVolume, PortworxVolume: s.PortworxVolume,
	}}
	switch {
	case s.AzureFile != nil:
		v.AzureFile = &corev1.AzureFileVolumeSource{}
	case s.Cinder != nil:
		v.Cinder = &corev1.CinderVolumeSource{}
	}
	return movedVolume(&v)
}
