package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// What the downward API offers, by where it is used.
var (
	envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	volumeFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")
	// knownFields are those that name something, wherever.
	knownFields = envFields.Union(volumeFields).Insert("spec.restartPolicy", "spec.schedulerName", "spec.hostNetwork",
		"status.phase", "status.nominatedNodeName")
	containerResources = sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage",
		"requests.cpu", "requests.memory", "requests.ephemeral-storage")
)

func (c *checker) env(vars []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range vars {
		p := path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		} else {
			errs = append(errs, invalid(p.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))...)
		}
		errs = append(errs, c.envSource(&v, p.Child("valueFrom"))...)
	}
	return errs
}

func (c *checker) envSource(v *corev1.EnvVar, path *field.Path) field.ErrorList {
	s := v.ValueFrom
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	n := 0
	if s.FieldRef != nil {
		n++
		errs = append(errs, validateFieldRef(s.FieldRef, envFields, true, path.Child("fieldRef"))...)
	}
	if s.ResourceFieldRef != nil {
		n++
		errs = append(errs, validateResourceFieldRef(s.ResourceFieldRef, false, path.Child("resourceFieldRef"))...)
	}
	if s.ConfigMapKeyRef != nil {
		n++
		errs = append(errs, validateKeyRef(s.ConfigMapKeyRef.Name, s.ConfigMapKeyRef.Key, path.Child("configMapKeyRef"))...)
	}
	if s.SecretKeyRef != nil {
		n++
		errs = append(errs, validateKeyRef(s.SecretKeyRef.Name, s.SecretKeyRef.Key, path.Child("secretKeyRef"))...)
	}
	if s.FileKeyRef != nil {
		n++
		errs = append(errs, c.fileKeyRef(s.FileKeyRef, path.Child("fileKeyRef"))...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

// requiredName wants the name of a ConfigMap or Secret.
// A name that ends in a dash passes, as it would before a generated suffix.
func requiredName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, name, apivalidation.NameIsDNSSubdomain(name, true))
}

// validateKeyRef checks a reference to one key of a ConfigMap or Secret.
func validateKeyRef(name, key string, path *field.Path) field.ErrorList {
	errs := check.Subdomain(name, path.Child("name"))
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, invalid(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

// fileKeyRef checks a variable that an init container writes (KEP 3721).
func (c *checker) fileKeyRef(f *corev1.FileKeySelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f.Key == "" {
		errs = append(errs, field.Required(path.Child("key"), ""))
	} else {
		errs = append(errs, invalid(path.Child("key"), f.Key, validation.IsEnvVarName(f.Key))...)
	}
	if f.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else if v, ok := c.volumes[f.VolumeName]; !ok {
		errs = append(errs, field.NotFound(path.Child("volumeName"), f.VolumeName))
	} else if v.EmptyDir == nil {
		errs = append(errs, field.Invalid(path.Child("volumeName"), f.VolumeName, "referenced volume must be of type emptyDir"))
	}
	if f.Path == "" {
		return append(errs, field.Required(path.Child("path"), ""))
	}
	return append(errs, validateLocalNonReservedPath(f.Path, path.Child("path"))...)
}

// validateFieldRef checks a downward API reference to a field of the pod.
// env says that single labels and annotations (by subscript) may be named.
func validateFieldRef(f *corev1.ObjectFieldSelector, allowed sets.Set[string], env bool, path *field.Path) field.ErrorList {
	if f.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	p := path.Child("fieldPath")
	if f.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(p, f.FieldPath, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", f.APIVersion))}
	}
	if name, key, ok := subscript(f.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			return invalid(p, key, validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			return invalid(p, key, validation.IsQualifiedName(key))
		}
		return field.ErrorList{field.Invalid(p, name, "does not support subscript")}
	}
	if !knownFields.Has(f.FieldPath) {
		return field.ErrorList{field.Invalid(p, f.FieldPath, fmt.Sprintf("error converting fieldPath: field label not supported: %s", f.FieldPath))}
	}
	if !allowed.Has(f.FieldPath) {
		return field.ErrorList{field.NotSupported(p, f.FieldPath, sets.List(allowed))}
	}
	return nil
}

// subscript splits "metadata.labels['key']".
func subscript(path string) (name, key string, ok bool) {
	name, rest, found := strings.Cut(path, "['")
	key, tail, closed := strings.Cut(rest, "']")
	if !found || !closed || tail != "" || name == "" {
		return "", "", false
	}
	return name, key, true
}

// validateResourceFieldRef checks a downward API reference to a container's
// resources. volume says that the container must be named.
func validateResourceFieldRef(r *corev1.ResourceFieldSelector, volume bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if volume && r.ContainerName == "" {
		return field.ErrorList{field.Required(path.Child("containerName"), "")}
	}
	if r.Resource == "" {
		return field.ErrorList{field.Required(path.Child("resource"), "")}
	}
	huge := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	if !containerResources.Has(r.Resource) && !huge {
		return field.ErrorList{field.NotSupported(path.Child("resource"), r.Resource, sets.List(containerResources))}
	}
	return append(errs, validateDivisor(r.Resource, r.Divisor, path)...)
}

func validateDivisor(name string, d resource.Quantity, path *field.Path) field.ErrorList {
	if d.IsZero() {
		return nil // means one
	}
	const bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	units, kind := bytes, ""
	switch _, what, _ := strings.Cut(name, "."); {
	case what == "cpu":
		units, kind = "1m and 1", "cpu"
		if s := d.String(); s == "1m" || s == "1" {
			return nil
		}
		return field.ErrorList{field.Invalid(path.Child("divisor"), d, fmt.Sprintf("only divisor's values %s are supported with the %s resource", units, kind))}
	case what == "memory":
		kind = "memory"
	case what == "ephemeral-storage":
		kind = "local ephemeral storage"
	default:
		kind = "hugepages"
	}
	for _, u := range strings.Split(bytes, ", ") {
		if d.Cmp(resource.MustParse(u)) == 0 {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(path.Child("divisor"), d, fmt.Sprintf("only divisor's values %s are supported with the %s resource", units, kind))}
}

func validateEnvFrom(from []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range from {
		p := path.Index(i)
		if f.Prefix != "" {
			errs = append(errs, invalid(p.Child("prefix"), f.Prefix, validation.IsRelaxedEnvVarName(f.Prefix))...)
		}
		n := 0
		if f.ConfigMapRef != nil {
			n++
			errs = append(errs, requiredName(f.ConfigMapRef.Name, p.Child("configMapRef", "name"))...)
		}
		if f.SecretRef != nil {
			n++
			errs = append(errs, requiredName(f.SecretRef.Name, p.Child("secretRef", "name"))...)
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
