package storage

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

const (
	maxParameters     = 512
	maxParametersSize = 256 * 1024
	maxDriverName     = 63
)

func isTrue(b *bool) bool { return b != nil && *b }

// validateQualified checks a provisioner's or attacher's name.
func validateQualified(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, name)}
	}
	name = strings.ToLower(name)
	return check.Each(path, name, validation.IsQualifiedName(name))
}

// validateDriverName checks the name of a CSI driver.
func validateDriverName(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, "" /*unused*/, maxDriverName))
	}
	return append(errs, check.Each(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// validateParameters checks the opaque parameters of a class.
func validateParameters(params map[string]string, mayBeEmpty bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(params) > maxParameters {
		return field.ErrorList{field.TooLong(path, "" /*unused*/, maxParameters)}
	}
	size := 0
	for k, v := range params {
		if k == "" {
			errs = append(errs, field.Invalid(path, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(path, "" /*unused*/, maxParametersSize))
	}
	if !mayBeEmpty && len(params) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}

// mustBeSet is the error of a switch that defaulting has not set.
func mustBeSet(b *bool, path *field.Path) field.ErrorList {
	if b != nil {
		return nil
	}
	return field.ErrorList{field.Required(path, "")}
}
