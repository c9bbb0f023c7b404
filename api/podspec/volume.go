package podspec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// validateVolumes checks the volumes and learns them by name.
func (c *checker) validateVolumes(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range c.spec.Volumes {
		v, vp := &c.spec.Volumes[i], p.Index(i)
		source := c.volumeSource(&v.VolumeSource, v.Name, vp)
		errs = append(errs, source...)
		switch {
		case v.Name == "":
			errs = append(errs, field.Required(vp.Child("name"), ""))
			continue
		case c.volumes[v.Name] != nil:
			errs = append(errs, field.Duplicate(vp.Child("name"), v.Name))
			continue
		}
		if msgs := validation.IsDNS1123Label(v.Name); len(msgs) > 0 {
			errs = append(errs, invalid(vp.Child("name"), v.Name, msgs)...)
			continue
		}
		if len(source) == 0 { // upstream's mounts do not find a wrong volume
			c.volumes[v.Name] = &v.VolumeSource
		}
	}
	return errs
}

// exactlyOne collects the sources that are set; result checks the first of
// them and refuses the others.
type exactlyOne struct {
	path    *field.Path
	sources []source
}

type source struct {
	name  string
	check func(p *field.Path) field.ErrorList
}

// sourceOrder is which source of a volume with several is the first: clients
// see its errors, and the others refused in this order.
var sourceOrder = []string{
	"emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi", "glusterfs", "flocker",
	"persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc", "flexVolume", "configMap", "azureFile",
	"vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk", "storageos", "projected", "scaleIO", "csi", "ephemeral", "image",
}

// oddNames are the names under which upstream refuses a further source.
var oddNames = map[string]string{"cephfs": "cephFS", "downwardAPI": "downwarAPI"}

func (o *exactlyOne) source(set bool, name string, check func(p *field.Path) field.ErrorList) {
	if set {
		o.sources = append(o.sources, source{name, check})
	}
}

// result is the errors of the first source, and one for each further one.
func (o *exactlyOne) result() field.ErrorList {
	if len(o.sources) == 0 {
		return field.ErrorList{field.Required(o.path, "must specify a volume type")}
	}
	if len(o.sources) > 1 {
		slices.SortFunc(o.sources, func(a, b source) int {
			return slices.Index(sourceOrder, a.name) - slices.Index(sourceOrder, b.name)
		})
	}
	errs := o.sources[0].check(o.path.Child(o.sources[0].name))
	for _, s := range o.sources[1:] {
		name := s.name
		if odd, ok := oddNames[name]; ok {
			name = odd
		}
		errs = append(errs, field.Forbidden(o.path.Child(name), "may not specify more than 1 volume type"))
	}
	return errs
}

// volumeSource checks that a volume has exactly one source, and it.
func (c *checker) volumeSource(s *corev1.VolumeSource, name string, p *field.Path) field.ErrorList {
	o := &exactlyOne{path: p}
	o.source(s.EmptyDir != nil, "emptyDir", func(p *field.Path) field.ErrorList {
		if l := s.EmptyDir.SizeLimit; l != nil && l.Sign() < 0 {
			return field.ErrorList{field.Forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
		}
		return nil
	})
	o.source(s.HostPath != nil, "hostPath", func(p *field.Path) field.ErrorList { return ValidateHostPath(s.HostPath, p) })
	o.source(s.GitRepo != nil, "gitRepo", func(p *field.Path) field.ErrorList {
		errs := required(s.GitRepo.Repository, p.Child("repository"))
		return append(errs, validateDescendingPath(s.GitRepo.Directory, p.Child("directory"))...)
	})
	cloudDisks(o, s)
	o.source(s.Secret != nil, "secret", func(p *field.Path) field.ErrorList {
		errs := required(s.Secret.SecretName, p.Child("secretName"))
		errs = append(errs, validateMode(s.Secret.DefaultMode, p.Child("defaultMode"))...)
		return append(errs, validateItems(s.Secret.Items, p.Child("items"))...)
	})
	o.source(s.ConfigMap != nil, "configMap", func(p *field.Path) field.ErrorList {
		errs := required(s.ConfigMap.Name, p.Child("name"))
		errs = append(errs, validateMode(s.ConfigMap.DefaultMode, p.Child("defaultMode"))...)
		return append(errs, validateItems(s.ConfigMap.Items, p.Child("items"))...)
	})
	o.source(s.PersistentVolumeClaim != nil, "persistentVolumeClaim", func(p *field.Path) field.ErrorList {
		return required(s.PersistentVolumeClaim.ClaimName, p.Child("claimName"))
	})
	o.source(s.DownwardAPI != nil, "downwardAPI", func(p *field.Path) field.ErrorList {
		errs := validateMode(s.DownwardAPI.DefaultMode, p.Child("defaultMode"))
		return append(errs, validateDownwardFiles(s.DownwardAPI.Items, p)...)
	})
	o.source(s.Projected != nil, "projected", func(p *field.Path) field.ErrorList { return validateProjected(s.Projected, p) })
	o.source(s.CSI != nil, "csi", func(p *field.Path) field.ErrorList {
		errs := ValidateDriverName(s.CSI.Driver, p.Child("driver"))
		if r := s.CSI.NodePublishSecretRef; r != nil {
			rp := p.Child("nodePublishSecretRef", "name")
			named := p.Child("name") // so upstream calls it
			if r.Name == "" {
				return append(errs, field.Required(rp, ""))
			}
			errs = append(errs, invalid(named, r.Name, apivalidation.NameIsDNSSubdomain(r.Name, false))...)
		}
		return errs
	})
	o.source(s.Ephemeral != nil, "ephemeral", func(p *field.Path) field.ErrorList { return c.ephemeralVolume(s.Ephemeral, name, p) })
	o.source(s.Image != nil, "image", func(p *field.Path) field.ErrorList {
		var errs field.ErrorList
		if !c.opts.Template {
			errs = required(s.Image.Reference, p.Child("reference"))
		}
		return append(errs, oneOfOrEmpty(s.Image.PullPolicy, p.Child("pullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	})
	networkVolumes(o, s)
	return o.result()
}

// hostPathTypes are the accepted types of a host path.
func hostPathTypes() []corev1.HostPathType {
	return []corev1.HostPathType{
		corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
		corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev,
	}
}

// ValidateHostPath checks a host path, of a pod or a persistent volume.
func ValidateHostPath(h *corev1.HostPathVolumeSource, p *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(p.Child("path"), "")}
	}
	errs := ValidateNoBacksteps(h.Path, p.Child("path"))
	if h.Type != nil && *h.Type != corev1.HostPathUnset {
		errs = append(errs, oneOfOrEmpty(*h.Type, p.Child("type"), hostPathTypes()...)...)
	}
	return errs
}

// ValidateDriverName checks the name of a CSI driver.
func ValidateDriverName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if len(name) > 63 {
		errs = append(errs, field.TooLong(p, name, 63))
	}
	return append(errs, invalid(p, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// ValidateNoBacksteps checks that a path does not leave its folder.
func ValidateNoBacksteps(target string, p *field.Path) field.ErrorList {
	for _, part := range strings.Split(target, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(p, target, "must not contain '..'")}
		}
	}
	return nil
}

// validateDescendingPath checks a relative path without steps back.
func validateDescendingPath(target string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(target) {
		errs = append(errs, field.Invalid(p, target, "must be a relative path"))
	}
	return append(errs, ValidateNoBacksteps(target, p)...)
}

// validateLocalNonReservedPath leaves names that begin with two dots to the
// kubelet's atomic writer.
func validateLocalNonReservedPath(target string, p *field.Path) field.ErrorList {
	errs := validateDescendingPath(target, p)
	if strings.HasPrefix(target, "..") && target != ".." && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(p, target, "must not start with '..'"))
	}
	return errs
}

func validateMode(mode *int32, p *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(p, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateItems(items []corev1.KeyToPath, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, it := range items {
		ip := p.Index(i)
		errs = append(errs, required(it.Key, ip.Child("key"))...)
		errs = append(errs, required(it.Path, ip.Child("path"))...)
		errs = append(errs, validateLocalNonReservedPath(it.Path, ip.Child("path"))...)
		errs = append(errs, validateMode(it.Mode, ip.Child("mode"))...)
	}
	return errs
}

func validateDownwardFiles(files []corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range files {
		f := &files[i]
		errs = append(errs, required(f.Path, p.Child("path"))...)
		errs = append(errs, validateLocalNonReservedPath(f.Path, p.Child("path"))...)
		switch {
		case f.FieldRef != nil:
			errs = append(errs, validateFieldRef(f.FieldRef, volumeFields, false, p.Child("fieldRef"))...)
			if f.ResourceFieldRef != nil {
				errs = append(errs, field.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			}
		case f.ResourceFieldRef != nil:
			errs = append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, p.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(p, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateMode(f.Mode, p.Child("mode"))...)
	}
	return errs
}

func validateProjected(v *corev1.ProjectedVolumeSource, p *field.Path) field.ErrorList {
	errs := validateMode(v.DefaultMode, p.Child("defaultMode"))
	paths := sets.New[string]()
	for i := range v.Sources {
		errs = append(errs, validateProjection(&v.Sources[i], paths, p, p.Child("sources").Index(i))...)
	}
	return errs
}

// validateProjection checks one source, at p, of a projected volume; paths
// holds the files that the others have put in. Tokens lie where they like.
func validateProjection(s *corev1.VolumeProjection, paths sets.Set[string], volume, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(set bool, name string, check func(p *field.Path)) {
		if !set {
			return
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(p.Child(name), "may not specify more than 1 volume type per source"))
			return
		}
		check(p.Child(name))
	}
	// Whose a path is twice, the error names: the object, or the path itself.
	file := func(name, whose string) {
		if name == "" {
			return
		}
		if paths.Has(name) {
			errs = append(errs, field.Invalid(volume, whose, "conflicting duplicate paths"))
		}
		paths.Insert(name)
	}
	items := func(list []corev1.KeyToPath, whose string, p *field.Path) {
		errs = append(errs, validateItems(list, p.Child("items"))...)
		for _, it := range list {
			file(it.Path, whose)
		}
	}
	one(s.Secret != nil, "secret", func(p *field.Path) {
		errs = append(errs, required(s.Secret.Name, p.Child("name"))...)
		items(s.Secret.Items, s.Secret.Name, p)
	})
	one(s.ConfigMap != nil, "configMap", func(p *field.Path) {
		errs = append(errs, required(s.ConfigMap.Name, p.Child("name"))...)
		items(s.ConfigMap.Items, s.ConfigMap.Name, p)
	})
	one(s.DownwardAPI != nil, "downwardAPI", func(p *field.Path) {
		errs = append(errs, validateDownwardFiles(s.DownwardAPI.Items, p)...)
		for _, f := range s.DownwardAPI.Items {
			file(f.Path, f.Path)
		}
	})
	one(s.ServiceAccountToken != nil, "serviceAccountToken", func(p *field.Path) {
		t := s.ServiceAccountToken
		switch x := t.ExpirationSeconds; {
		case x == nil:
			errs = append(errs, field.Required(p.Child("expirationSeconds"), ""))
		case *x < 10*60:
			errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *x, "may not specify a duration less than 10 minutes"))
		case *x > 1<<32:
			errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *x, "may not specify a duration larger than 2^32 seconds"))
		}
		if t.Path == "" {
			errs = append(errs, field.Required(p.Child("path"), ""))
		} else {
			errs = append(errs, validateLocalNonReservedPath(t.Path, p.Child("path"))...)
		}
	})
	one(s.ClusterTrustBundle != nil, "clusterTrustBundle", func(p *field.Path) {
		errs = append(errs, validateTrustBundle(s.ClusterTrustBundle, p)...)
		file(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path)
	})
	one(s.PodCertificate != nil, "podCertificate", func(p *field.Path) {
		errs = append(errs, validatePodCertificate(s.PodCertificate, p)...)
		for _, f := range []string{s.PodCertificate.CredentialBundlePath, s.PodCertificate.KeyPath, s.PodCertificate.CertificateChainPath} {
			file(f, f)
		}
	})
	return errs // a source of no type is accepted, and brings nothing
}

func validateTrustBundle(b *corev1.ClusterTrustBundleProjection, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(p, b, "only one of name and signerName may be used"))
	case b.Name != nil:
		if *b.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), "must be a valid object name"))
		}
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(p.Child("signerName"), "must be a valid signer name"))
		}
		errs = append(errs, ValidateLabelSelector(b.LabelSelector, false, p.Child("labelSelector"))...)
	default:
		errs = append(errs, field.Required(p, "either name or signerName must be specified"))
	}
	if b.Path == "" {
		return append(errs, field.Required(p.Child("path"), ""))
	}
	return append(errs, validateLocalNonReservedPath(b.Path, p.Child("path"))...)
}

func validatePodCertificate(s *corev1.PodCertificateProjection, p *field.Path) field.ErrorList {
	errs := required(s.SignerName, p.Child("signerName"))
	errs = append(errs, oneOf(s.KeyType, p.Child("keyType"), "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")...)
	if m := s.MaxExpirationSeconds; m != nil && (*m < 3600 || *m > 91*24*3600) {
		errs = append(errs, field.Invalid(p.Child("maxExpirationSeconds"), *m, "must be between 3600 and 7862400"))
	}
	if s.CredentialBundlePath == "" && s.KeyPath == "" && s.CertificateChainPath == "" {
		errs = append(errs, field.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for _, f := range []struct{ path, name string }{
		{s.CredentialBundlePath, "credentialBundlePath"}, {s.KeyPath, "keyPath"}, {s.CertificateChainPath, "certificateChainPath"},
	} {
		if f.path != "" {
			errs = append(errs, validateLocalNonReservedPath(f.path, p.Child(f.name))...)
		}
	}
	return errs
}

// ephemeralVolume checks a claim that lives as long as the pod; it will be
// named after both, which bounds their names.
func (c *checker) ephemeralVolume(e *corev1.EphemeralVolumeSource, name string, p *field.Path) field.ErrorList {
	t := e.VolumeClaimTemplate
	if t == nil {
		return field.ErrorList{field.Required(p.Child("volumeClaimTemplate"), "")}
	}
	tp := p.Child("volumeClaimTemplate")
	errs := check.TemplateMeta(&t.ObjectMeta, tp.Child("metadata"))
	errs = append(errs, ValidateClaimSpec(&t.Spec, tp.Child("spec"))...)
	if c.meta.Name != "" && !c.opts.Template {
		claim := c.meta.Name + "-" + name
		for _, m := range apivalidation.NameIsDNSSubdomain(claim, false) {
			errs = append(errs, field.Invalid(field.NewPath("name"), c.meta.Name, fmt.Sprintf("PVC name %q: %v", claim, m)))
		}
	}
	return errs
}
