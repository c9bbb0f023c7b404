package core

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	s := &v.Spec
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(specPath.Child("accessModes"), ""))
	}
	errs = append(errs, podspec.ValidateAccessModes(s.AccessModes, specPath.Child("accessModes"))...)
	capacity := specPath.Child("capacity")
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sets.List(sets.KeySet(s.Capacity)) {
		q, p := s.Capacity[name], capacity.Key(string(name))
		if q.Value() < 0 {
			errs = append(errs, field.Invalid(p, q.Value(), "must be a valid resource quantity"))
		}
		errs = append(errs, podspec.ValidatePositive(q, p)...)
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" {
		errs = append(errs, supported(p, specPath.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			errs = append(errs, field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			errs = append(errs, podspec.ValidateNodeSelector(a.Required, specPath.Child("nodeAffinity", "required"))...)
		}
	}
	errs = append(errs, validateVolumeSource(s)...)
	if h := s.HostPath; h != nil && path.Clean(h.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if c := s.StorageClassName; c != "" {
		errs = append(errs, invalid(specPath.Child("storageClassName"), c, apivalidation.NameIsDNSSubdomain(c, false))...)
	}
	if m := s.VolumeMode; m != nil {
		errs = append(errs, supported(*m, specPath.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if c := s.VolumeAttributesClassName; c != nil {
		p := specPath.Child("volumeAttributesClassName")
		if *c == "" {
			errs = append(errs, field.Required(p, "an empty string is disallowed"))
		} else {
			errs = append(errs, invalid(p, *c, apivalidation.NameIsDNSSubdomain(*c, false))...)
		}
		if s.CSI == nil {
			errs = append(errs, field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

// need checks that strings are there, given as name and value in turn.
func need(p *field.Path, pairs ...string) field.ErrorList {
	var errs field.ErrorList
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			errs = append(errs, field.Required(p.Child(pairs[i]), ""))
		}
	}
	return errs
}

// validateVolumeSource checks that a volume has exactly one source, and it.
func validateVolumeSource(s *corev1.PersistentVolumeSpec) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(set bool, name string, check func(p *field.Path) field.ErrorList) {
		if !set {
			return
		}
		p := specPath.Child(name)
		if n++; n > 1 && name != "flexVolume" { // upstream counts it, no more
			if name == "cephfs" {
				p = specPath.Child("cephFS")
			}
			errs = append(errs, field.Forbidden(p, "may not specify more than 1 volume type"))
			return
		}
		errs = append(errs, check(p)...)
	}
	one(s.HostPath != nil, "hostPath", func(p *field.Path) field.ErrorList { return podspec.ValidateHostPath(s.HostPath, p) })
	one(s.GCEPersistentDisk != nil, "gcePersistentDisk", func(*field.Path) field.ErrorList {
		// So upstream calls it.
		return podspec.ValidateDisk(s.GCEPersistentDisk.PDName, "pdName", s.GCEPersistentDisk.Partition, specPath.Child("persistentDisk"))
	})
	one(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", func(p *field.Path) field.ErrorList {
		return podspec.ValidateDisk(s.AWSElasticBlockStore.VolumeID, "volumeID", s.AWSElasticBlockStore.Partition, p)
	})
	one(s.NFS != nil, "nfs", func(p *field.Path) field.ErrorList { return podspec.ValidateNFS(s.NFS, p) })
	one(s.ISCSI != nil, "iscsi", func(p *field.Path) field.ErrorList {
		v, name := s.ISCSI, ""
		if v.SecretRef != nil {
			name = v.SecretRef.Name
		}
		return podspec.ValidateISCSI(podspec.ISCSI{Portal: v.TargetPortal, IQN: v.IQN, LUN: v.Lun, CHAP: v.DiscoveryCHAPAuth || v.SessionCHAPAuth,
			HasSecret: v.SecretRef != nil, Secret: name, Initiator: v.InitiatorName, Interface: v.ISCSIInterface, Persistent: true}, p)
	})
	one(s.Glusterfs != nil, "glusterfs", func(p *field.Path) field.ErrorList {
		e := need(p, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil {
			if *ns == "" {
				e = append(e, field.Invalid(p.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name"))
			} else {
				e = append(e, invalid(p.Child("endpointsNamespace"), *ns, apivalidation.ValidateNamespaceName(*ns, false))...)
			}
		}
		return e
	})
	one(s.RBD != nil, "rbd", func(p *field.Path) field.ErrorList { return podspec.ValidateRBD(s.RBD.CephMonitors, s.RBD.RBDImage, p) })
	one(s.CephFS != nil, "cephfs", func(p *field.Path) field.ErrorList { return podspec.ValidateMonitors(s.CephFS.Monitors, p) })
	one(s.Cinder != nil, "cinder", func(p *field.Path) field.ErrorList {
		e := need(p, "volumeID", s.Cinder.VolumeID)
		if r := s.Cinder.SecretRef; r != nil {
			e = append(e, need(p.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)...)
		}
		return e
	})
	one(s.Flocker != nil, "flocker", func(p *field.Path) field.ErrorList { return podspec.ValidateFlocker(s.Flocker, p) })
	one(s.FC != nil, "fc", func(p *field.Path) field.ErrorList { return podspec.ValidateFC(s.FC, p) })
	one(s.FlexVolume != nil, "flexVolume", func(p *field.Path) field.ErrorList {
		return podspec.ValidateFlex(s.FlexVolume.Driver, s.FlexVolume.Options, p)
	})
	one(s.AzureFile != nil, "azureFile", func(p *field.Path) field.ErrorList {
		e := need(p, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
		if ns := s.AzureFile.SecretNamespace; ns != nil && *ns == "" {
			e = append(e, field.Required(p.Child("secretNamespace"), ""))
		}
		return e
	})
	one(s.AzureDisk != nil, "azureDisk", func(p *field.Path) field.ErrorList { return podspec.ValidateAzureDisk(s.AzureDisk, p) })
	one(s.VsphereVolume != nil, "vsphereVolume", func(p *field.Path) field.ErrorList {
		return need(p, "volumePath", s.VsphereVolume.VolumePath)
	})
	one(s.Quobyte != nil, "quobyte", func(p *field.Path) field.ErrorList { return podspec.ValidateQuobyte(s.Quobyte, p) })
	one(s.PhotonPersistentDisk != nil, "photonPersistentDisk", func(p *field.Path) field.ErrorList {
		return need(p, "pdID", s.PhotonPersistentDisk.PdID)
	})
	one(s.PortworxVolume != nil, "portworxVolume", func(p *field.Path) field.ErrorList { return need(p, "volumeID", s.PortworxVolume.VolumeID) })
	one(s.ScaleIO != nil, "scaleIO", func(p *field.Path) field.ErrorList {
		return need(p, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
	})
	one(s.StorageOS != nil, "storageos", func(p *field.Path) field.ErrorList {
		e := podspec.ValidateStorageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, p)
		if r := s.StorageOS.SecretRef; r != nil {
			e = append(e, need(p.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)...)
		}
		return e
	})
	one(s.Local != nil, "local", func(p *field.Path) field.ErrorList {
		e := need(p, "path", s.Local.Path)
		if s.Local.Path != "" {
			e = podspec.ValidateNoBacksteps(s.Local.Path, p.Child("path"))
		}
		if s.NodeAffinity == nil {
			e = append(e, field.Required(specPath.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
		return e
	})
	one(s.CSI != nil, "csi", func(p *field.Path) field.ErrorList { return validateCSI(s.CSI, p) })
	if n == 0 {
		errs = append(errs, field.Required(specPath, "must specify a volume type"))
	}
	return errs
}

func validateCSI(c *corev1.CSIPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := podspec.ValidateDriverName(c.Driver, p.Child("driver"))
	errs = append(errs, need(p, "volumeHandle", c.VolumeHandle)...)
	for _, r := range []struct {
		ref  *corev1.SecretReference
		name string
	}{
		{c.ControllerPublishSecretRef, "controllerPublishSecretRef"}, {c.ControllerExpandSecretRef, "controllerExpandSecretRef"},
		{c.NodePublishSecretRef, "nodePublishSecretRef"}, {c.NodeExpandSecretRef, "nodeExpandSecretRef"}, // that for staging is not looked at
	} {
		if r.ref == nil {
			continue
		}
		rp := p.Child(r.name)
		if r.ref.Name == "" {
			errs = append(errs, field.Required(rp.Child("name"), ""))
		} else {
			errs = append(errs, invalid(rp.Child("name"), r.ref.Name, validation.IsDNS1123Subdomain(r.ref.Name))...)
		}
		if r.ref.Namespace == "" {
			errs = append(errs, field.Required(rp.Child("namespace"), ""))
		} else {
			errs = append(errs, invalid(rp.Child("namespace"), r.ref.Namespace, validation.IsDNS1123Label(r.ref.Namespace))...)
		}
	}
	return errs
}

// validatePersistentVolumeUpdate keeps what a volume is.
//
// Upstream checks an updated volume twice, and clients see each error twice.
func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := validatePersistentVolume(v)
	errs = append(errs, errs...)
	now, before := v.Spec.PersistentVolumeSource.DeepCopy(), old.Spec.PersistentVolumeSource
	if c, o := now.CSI, before.CSI; c != nil && o != nil && o.ControllerExpandSecretRef == nil {
		c.ControllerExpandSecretRef = nil // volumes from before there was expansion may get it
	}
	if !equal(*now, before) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+diff.Diff(check.Shown(before), check.Shown(*now))))
	}
	errs = append(errs, immutable(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !equal(v.Spec.NodeAffinity, old.Spec.NodeAffinity) && !equal(v.Spec.NodeAffinity, renamed(old.Spec.NodeAffinity, v.Spec.NodeAffinity)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), check.Shown(v.Spec.NodeAffinity), apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// stableLabels are the node labels that took the place of beta ones.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
}

// renamed is a volume's affinity with those beta labels under their stable
// names that now has so.
func renamed(old, now *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if old.Required == nil || now == nil || now.Required == nil {
		return old
	}
	out := old.DeepCopy()
	for i := range min(len(out.Required.NodeSelectorTerms), len(now.Required.NodeSelectorTerms)) {
		before, after := out.Required.NodeSelectorTerms[i].MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions
		for k := range min(len(before), len(after)) {
			// Upstream knows no new name of other labels, and takes "" for it.
			if stableLabels[before[k].Key] == after[k].Key {
				before[k].Key = after[k].Key
			}
		}
	}
	return out
}

const storageClassWarning = "metadata.annotations[" + corev1.BetaStorageClassAnnotation + `]: deprecated since v1.8; use "storageClassName" attribute instead`

func persistentVolumeWarnings(v, _ *corev1.PersistentVolume) []string {
	var out []string
	if _, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		out = append(out, storageClassWarning)
	}
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok {
		out = append(out, "metadata.annotations["+corev1.MountOptionAnnotation+`]: deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		out = append(out, podspec.NodeSelectorWarnings(a.Required.NodeSelectorTerms, specPath.Child("nodeAffinity", "required", "nodeSelectorTerms"))...)
	}
	for _, s := range []struct {
		set  bool
		text string
	}{
		{v.Spec.PhotonPersistentDisk != nil, "photonPersistentDisk: deprecated in v1.11, non-functional in v1.16+"},
		{v.Spec.ScaleIO != nil, "scaleIO: deprecated in v1.16, non-functional in v1.22+"},
		{v.Spec.StorageOS != nil, "storageOS: deprecated in v1.22, non-functional in v1.25+"},
		{v.Spec.Glusterfs != nil, "glusterfs: deprecated in v1.25, non-functional in v1.26+"},
		{v.Spec.CephFS != nil, "cephfs: deprecated in v1.28, non-functional in v1.31+"},
		{v.Spec.RBD != nil, "rbd: deprecated in v1.28, non-functional in v1.31+"},
	} {
		if s.set {
			out = append(out, "spec."+s.text)
		}
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		out = append(out, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	return out
}
