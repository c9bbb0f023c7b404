package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

// maxDataBytes bounds the content of a ConfigMap or a Secret.
const maxDataBytes = 1024 * 1024

func configMap() *api.Kind {
	k := row("ConfigMap", "configmaps", "configmap", true, "configmaps", "cm")
	k.New, k.NewList = api.New[corev1.ConfigMap](), api.New[corev1.ConfigMapList]()
	k.Strategy = api.Strategy{
		Validate:       api.Check(validateConfigMap),
		ValidateUpdate: api.Check2(validateConfigMapUpdate),
	}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]),
		printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(c *corev1.ConfigMap) []any {
		return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), printing.Age(c.CreationTimestamp)}
	})
	return k
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for _, key := range sets.List(sets.KeySet(c.Data)) {
		errs = append(errs, validateDataKey(key, field.NewPath("data").Key(key))...)
		if _, both := c.BinaryData[key]; both {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		total += len(c.Data[key])
	}
	for _, key := range sets.List(sets.KeySet(c.BinaryData)) {
		errs = append(errs, validateDataKey(key, field.NewPath("binaryData").Key(key))...)
		total += len(c.BinaryData[key])
	}
	if total > maxDataBytes {
		// The field is that of upstream, which names none.
		errs = append(errs, field.TooLong(field.NewPath(""), "" /*unused*/, maxDataBytes))
	}
	return errs
}

func validateDataKey(key string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := immutableData(c.Immutable, old.Immutable, "data",
		equal(c.Data, old.Data))
	if isTrue(old.Immutable) && !equal(c.BinaryData, old.BinaryData) {
		errs = append(errs, field.Forbidden(field.NewPath("binaryData"), immutableText))
	}
	return append(errs, validateConfigMap(c)...)
}

const immutableText = "field is immutable when `immutable` is set"

// immutableData checks an update of an object that may be marked immutable:
// the mark stays, and so does the data.
func immutableData(now, old *bool, name string, same bool) field.ErrorList {
	if !isTrue(old) {
		return nil
	}
	var errs field.ErrorList
	if !isTrue(now) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), immutableText))
	}
	if !same {
		errs = append(errs, field.Forbidden(field.NewPath(name), immutableText))
	}
	return errs
}

// immutable reports a changed field in upstream's words.
func immutable(now, old any, path *field.Path) field.ErrorList {
	return check.Immutable(now, old, path)
}
