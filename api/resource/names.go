package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateLabel(v string, path *field.Path) field.ErrorList {
	return check.Each(path, v, validation.IsDNS1123Label(v))
}

// validateRequiredName wants the name of another object.
func validateRequiredName(v string, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.Subdomain(v, path)
}

// validateDriver wants a DNS name in whatever case.
func validateDriver(v string, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(v) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DriverNameMaxLength))
	}
	return append(errs, check.Each(path, v, validation.IsDNS1123Subdomain(strings.ToLower(v)))...)
}

// validatePool wants DNS names separated by slashes.
func validatePool(v string, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(v) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(v, "/") {
		errs = append(errs, check.Subdomain(part, path)...)
	}
	return errs
}

// validateQualified wants the name of an attribute or a capacity: an
// identifier, with a domain before a slash or without.
func validateQualified(v string, path *field.Path) field.ErrorList {
	domain, id, slash := strings.Cut(v, "/")
	if !slash {
		return validateIdentifier(v, path)
	}
	if strings.Contains(id, "/") {
		return nil // upstream lets names of more parts pass
	}
	var errs field.ErrorList
	if domain == "" {
		errs = append(errs, field.Required(path, "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriver(domain, path)...)
	}
	if id == "" {
		return append(errs, field.Required(path, "the name must not be empty"))
	}
	return append(errs, validateIdentifier(id, path)...)
}

func validateIdentifier(v string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(v) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, check.Each(path, v, validation.IsCIdentifier(v))...)
}

// validateFullyQualified wants a qualified name with its domain.
func validateFullyQualified(v string, path *field.Path) field.ErrorList {
	errs := validateQualified(v, path)
	if !strings.Contains(v, "/") {
		errs = append(errs, field.Invalid(path, v, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// listed checks a list: its length, each entry, and that no key comes twice.
func listed[T any, K comparable](list []T, most int, path *field.Path, key func(*T) (K, any), each func(*T, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	if most >= 0 && len(list) > most {
		errs = append(errs, field.TooMany(path, len(list), most))
	}
	seen := map[K]bool{}
	for i := range list {
		p := path.Index(i)
		errs = append(errs, each(&list[i], p)...)
		if key == nil {
			continue
		}
		k, shown := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(p, shown))
		}
		seen[k] = true
	}
	return errs
}

// self is the key of a list of texts.
func self(s *string) (string, any) { return *s, *s }
