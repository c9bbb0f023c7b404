package podspec

import (
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// cloudDisks checks the disks of the first clouds.
func cloudDisks(o *exactlyOne, s *corev1.VolumeSource) {
	o.source(s.GCEPersistentDisk != nil, "gcePersistentDisk", func(*field.Path) field.ErrorList {
		// So upstream calls it.
		return ValidateDisk(s.GCEPersistentDisk.PDName, "pdName", s.GCEPersistentDisk.Partition, o.path.Child("persistentDisk"))
	})
	o.source(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", func(p *field.Path) field.ErrorList {
		return ValidateDisk(s.AWSElasticBlockStore.VolumeID, "volumeID", s.AWSElasticBlockStore.Partition, p)
	})
}

// networkVolumes checks the sources that older storage systems bring, most of
// which CSI drivers serve today.
func networkVolumes(o *exactlyOne, s *corev1.VolumeSource) {
	o.source(s.NFS != nil, "nfs", func(p *field.Path) field.ErrorList { return ValidateNFS(s.NFS, p) })
	o.source(s.ISCSI != nil, "iscsi", func(p *field.Path) field.ErrorList {
		v := s.ISCSI
		name := ""
		if v.SecretRef != nil {
			name = v.SecretRef.Name
		}
		return ValidateISCSI(ISCSI{v.TargetPortal, v.IQN, v.Lun, v.DiscoveryCHAPAuth || v.SessionCHAPAuth, v.SecretRef != nil, name, v.InitiatorName, v.ISCSIInterface, false}, p)
	})
	o.source(s.Glusterfs != nil, "glusterfs", func(p *field.Path) field.ErrorList {
		return append(required(s.Glusterfs.EndpointsName, p.Child("endpoints")), required(s.Glusterfs.Path, p.Child("path"))...)
	})
	o.source(s.RBD != nil, "rbd", func(p *field.Path) field.ErrorList { return ValidateRBD(s.RBD.CephMonitors, s.RBD.RBDImage, p) })
	o.source(s.CephFS != nil, "cephfs", func(p *field.Path) field.ErrorList { return ValidateMonitors(s.CephFS.Monitors, p) })
	o.source(s.Cinder != nil, "cinder", func(p *field.Path) field.ErrorList {
		errs := required(s.Cinder.VolumeID, p.Child("volumeID"))
		if r := s.Cinder.SecretRef; r != nil {
			errs = append(errs, required(r.Name, p.Child("secretRef", "name"))...)
		}
		return errs
	})
	o.source(s.Flocker != nil, "flocker", func(p *field.Path) field.ErrorList { return ValidateFlocker(s.Flocker, p) })
	o.source(s.FC != nil, "fc", func(p *field.Path) field.ErrorList { return ValidateFC(s.FC, p) })
	o.source(s.AzureFile != nil, "azureFile", func(p *field.Path) field.ErrorList {
		return append(required(s.AzureFile.SecretName, p.Child("secretName")), required(s.AzureFile.ShareName, p.Child("shareName"))...)
	})
	o.source(s.AzureDisk != nil, "azureDisk", func(p *field.Path) field.ErrorList { return ValidateAzureDisk(s.AzureDisk, p) })
	o.source(s.FlexVolume != nil, "flexVolume", func(p *field.Path) field.ErrorList {
		return ValidateFlex(s.FlexVolume.Driver, s.FlexVolume.Options, p)
	})
	o.source(s.VsphereVolume != nil, "vsphereVolume", func(p *field.Path) field.ErrorList {
		return required(s.VsphereVolume.VolumePath, p.Child("volumePath"))
	})
	o.source(s.PhotonPersistentDisk != nil, "photonPersistentDisk", func(p *field.Path) field.ErrorList {
		return required(s.PhotonPersistentDisk.PdID, p.Child("pdID"))
	})
	o.source(s.PortworxVolume != nil, "portworxVolume", func(p *field.Path) field.ErrorList {
		return required(s.PortworxVolume.VolumeID, p.Child("volumeID"))
	})
	o.source(s.Quobyte != nil, "quobyte", func(p *field.Path) field.ErrorList { return ValidateQuobyte(s.Quobyte, p) })
	o.source(s.ScaleIO != nil, "scaleIO", func(p *field.Path) field.ErrorList {
		errs := required(s.ScaleIO.Gateway, p.Child("gateway"))
		errs = append(errs, required(s.ScaleIO.System, p.Child("system"))...)
		return append(errs, required(s.ScaleIO.VolumeName, p.Child("volumeName"))...)
	})
	o.source(s.StorageOS != nil, "storageos", func(p *field.Path) field.ErrorList {
		errs := ValidateStorageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, p)
		if r := s.StorageOS.SecretRef; r != nil {
			errs = append(errs, required(r.Name, p.Child("secretRef", "name"))...)
		}
		return errs
	})
}

// ValidateDisk checks a cloud disk: its name, in the field so called, and
// the partition.
func ValidateDisk(name, fieldName string, partition int32, p *field.Path) field.ErrorList {
	errs := required(name, p.Child(fieldName))
	if partition < 0 || partition > 255 {
		errs = append(errs, field.Invalid(p.Child("partition"), partition, validation.InclusiveRangeError(1, 255)))
	}
	return errs
}

// ValidateNFS checks an NFS volume.
func ValidateNFS(n *corev1.NFSVolumeSource, p *field.Path) field.ErrorList {
	errs := required(n.Server, p.Child("server"))
	errs = append(errs, required(n.Path, p.Child("path"))...)
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(p.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

// ISCSI is what the iSCSI sources of pods and persistent volumes share.
type ISCSI struct {
	Portal, IQN string
	LUN         int32
	CHAP        bool
	HasSecret   bool
	Secret      string
	Initiator   *string
	Interface   string
	// Persistent says that the source is a persistent volume's.
	Persistent bool
}

// iscsiNames are the forms of a qualified name by its first part (RFC 3720,
// section 3.2.6.3).
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.[[:alnum:].-]+(:[^,;*&$|\s]+)?$`),
	"eui": regexp.MustCompile(`^eui\.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa\.[[:alnum:]]{32}$`),
}

// ValidateISCSI checks an iSCSI volume.
func ValidateISCSI(v ISCSI, p *field.Path) field.ErrorList {
	errs := required(v.Portal, p.Child("targetPortal"))
	iqn := func(name string, p *field.Path) {
		for prefix, form := range iscsiNames {
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			if !form.MatchString(name) {
				errs = append(errs, field.Invalid(p, name, "must be valid format"))
			}
			return
		}
		text := "must be valid format starting with iqn, eui, or naa"
		if v.Persistent {
			text = "must be valid format"
		}
		errs = append(errs, field.Invalid(p, name, text))
	}
	if v.IQN == "" {
		errs = append(errs, field.Required(p.Child("iqn"), ""))
	} else {
		iqn(v.IQN, p.Child("iqn"))
	}
	if v.LUN < 0 || v.LUN > 255 {
		errs = append(errs, field.Invalid(p.Child("lun"), v.LUN, validation.InclusiveRangeError(0, 255)))
	}
	if v.CHAP && !v.HasSecret {
		errs = append(errs, field.Required(p.Child("secretRef"), ""))
	}
	if v.HasSecret && v.Secret == "" {
		errs = append(errs, field.Required(p.Child("secretRef", "name"), ""))
	}
	if v.Initiator != nil {
		iqn(*v.Initiator, p.Child("initiatorname"))
	}
	return errs
}

// ValidateMonitors checks that there are Ceph monitors.
func ValidateMonitors(monitors []string, p *field.Path) field.ErrorList {
	if len(monitors) == 0 {
		return field.ErrorList{field.Required(p.Child("monitors"), "")}
	}
	return nil
}

// ValidateRBD checks a RADOS block device.
func ValidateRBD(monitors []string, image string, p *field.Path) field.ErrorList {
	return append(ValidateMonitors(monitors, p), required(image, p.Child("image"))...)
}

// ValidateFlocker checks that a Flocker dataset is named in one way.
func ValidateFlocker(f *corev1.FlockerVolumeSource, p *field.Path) field.ErrorList {
	if f.DatasetName == "" && f.DatasetUUID == "" {
		return field.ErrorList{field.Required(p, "one of datasetName and datasetUUID is required")}
	}
	var errs field.ErrorList
	if f.DatasetName != "" && f.DatasetUUID != "" {
		errs = append(errs, field.Invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(p.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

// ValidateFC checks a Fibre Channel volume.
func ValidateFC(f *corev1.FCVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		errs = append(errs, field.Required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		errs = append(errs, field.Invalid(p.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	case len(f.TargetWWNs) > 0 && f.Lun == nil:
		errs = append(errs, field.Required(p.Child("lun"), "lun is required if targetWWNs is specified"))
	case len(f.TargetWWNs) > 0 && (*f.Lun < 0 || *f.Lun > 255):
		errs = append(errs, field.Invalid(p.Child("lun"), *f.Lun, validation.InclusiveRangeError(0, 255)))
	}
	return errs
}

// ValidateAzureDisk checks an Azure disk; it must have been defaulted.
func ValidateAzureDisk(d *corev1.AzureDiskVolumeSource, p *field.Path) field.ErrorList {
	errs := required(d.DiskName, p.Child("diskName"))
	errs = append(errs, required(d.DataDiskURI, p.Child("diskURI"))...)
	if d.CachingMode != nil {
		errs = append(errs, check.OneOf(*d.CachingMode, p.Child("cachingMode"),
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return errs
	}
	errs = append(errs, check.OneOf(*d.Kind, p.Child("kind"), corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	if *d.Kind == corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "/subscriptions/") {
		errs = append(errs, field.NotSupported(p.Child("diskURI"), d.DataDiskURI, []string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	}
	if *d.Kind != corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(p.Child("diskURI"), d.DataDiskURI, []string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}

// ValidateFlex checks a flex volume.
func ValidateFlex(driver string, options map[string]string, p *field.Path) field.ErrorList {
	errs := required(driver, p.Child("driver"))
	for k := range options {
		name := strings.ToLower(k)
		if i := strings.Index(name, "/"); i >= 0 {
			name = name[:i]
		}
		for _, reserved := range []string{"kubernetes.io", "k8s.io"} {
			if name == reserved || strings.HasSuffix(name, "."+reserved) {
				errs = append(errs, field.Invalid(p.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved"))
			}
		}
	}
	return errs
}

// ValidateQuobyte checks a Quobyte volume.
func ValidateQuobyte(q *corev1.QuobyteVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(p.Child("registry"), "must be a host:port pair or multiple pairs separated by commas"))
	case len(q.Tenant) >= 65:
		errs = append(errs, field.Required(p.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, hp := range strings.Split(q.Registry, ",") {
			if host, port, ok := strings.Cut(hp, ":"); !ok || host == "" || port == "" {
				errs = append(errs, field.Invalid(p.Child("registry"), q.Registry, "must be a host:port pair or multiple pairs separated by commas"))
			}
		}
	}
	return append(errs, required(q.Volume, p.Child("volume"))...)
}

// ValidateStorageOS checks a StorageOS volume.
func ValidateStorageOS(name, namespace string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(p.Child("volumeName"), ""))
	} else {
		errs = append(errs, invalid(p.Child("volumeName"), name, validation.IsDNS1123Label(name))...)
	}
	if namespace != "" {
		errs = append(errs, invalid(p.Child("volumeNamespace"), namespace, validation.IsDNS1123Label(namespace))...)
	}
	return errs
}
