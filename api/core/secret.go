package core

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func secret() *api.Kind {
	k := row("Secret", "secrets", "secret", true, "secrets")
	k.New, k.NewList = api.New[corev1.Secret](), api.New[corev1.SecretList]()
	k.Strategy = api.Strategy{
		Default:        api.On(defaultSecret),
		Validate:       api.Check(validateSecret),
		ValidateUpdate: api.Check2(validateSecretUpdate),
		PrepareUpdate: api.On2(func(s, old *corev1.Secret) {
			// A PUT without a type means the one the secret has.
			if s.Type == "" {
				s.Type = old.Type
			}
		}),
		Warnings: warnings(secretWarnings),
	}
	selectable(k, func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} }, "type")
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Type", corev1.Secret{}.SwaggerDoc()["type"]),
		printing.String("Data", corev1.Secret{}.SwaggerDoc()["data"]),
		printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(s *corev1.Secret) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), printing.Age(s.CreationTimestamp)}
	})
	return k
}

// defaultSecret names the type and folds the write-only stringData into data.
func defaultSecret(s *corev1.Secret) {
	def(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data := field.NewPath("data")
	total := 0
	for _, key := range sets.List(sets.KeySet(s.Data)) {
		errs = append(errs, validateDataKey(key, data.Key(key))...)
		total += len(s.Data[key])
	}
	if total > maxDataBytes {
		errs = append(errs, field.TooLong(data, "" /*unused*/, maxDataBytes))
	}
	need := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(data.Key(key), ""))
			}
		}
	}
	needJSON := func(key string) {
		raw, ok := s.Data[key]
		if !ok {
			errs = append(errs, field.Required(data.Key(key), ""))
			return
		}
		// The content may be a password: it is not repeated.
		if err := json.Unmarshal(raw, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		needJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		needJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(s.Type, old.Type, field.NewPath("type"))
	errs = append(errs, immutableData(s.Immutable, old.Immutable, "data", equal(s.Data, old.Data))...)
	return append(errs, validateSecret(s)...)
}
