package apiextensions

import (
	"fmt"
	"net/url"
	"strings"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// reviewVersions are the versions of ConversionReview that a webhook may speak.
var reviewVersions = []string{"v1", "v1beta1"}

func validateConversion(s *hub.CustomResourceDefinitionSpec, path *field.Path) field.ErrorList {
	c := s.Conversion
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	client, versions := path.Child("webhookClientConfig"), path.Child("conversionReviewVersions")
	if c.Strategy == "" {
		errs = append(errs, field.Required(path.Child("strategy"), ""))
	} else {
		errs = append(errs, check.OneOf(c.Strategy, path.Child("strategy"), hub.NoneConverter, hub.WebhookConverter)...)
	}
	if c.Strategy != hub.WebhookConverter {
		if c.WebhookClientConfig != nil {
			errs = append(errs, field.Forbidden(client, "should not be set when strategy is not set to Webhook"))
		}
		if len(c.ConversionReviewVersions) > 0 {
			errs = append(errs, field.Forbidden(versions, "should not be set when strategy is not set to Webhook"))
		}
		return errs
	}
	if keeps(s) {
		errs = append(errs, field.Invalid(path.Child("strategy"), c.Strategy, "must be None if spec.preserveUnknownFields is true"))
	}
	if c.WebhookClientConfig == nil {
		errs = append(errs, field.Required(client, "required when strategy is set to Webhook"))
	} else {
		errs = append(errs, validateClient(c.WebhookClientConfig, client)...)
	}
	return append(errs, validateReviewVersions(c.ConversionReviewVersions, versions)...)
}

func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	seen, known := sets.New[string](), false
	for i, v := range versions {
		if seen.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen.Insert(v)
		if msgs := validation.IsDNS1035Label(v); len(msgs) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), v, strings.Join(msgs, ", ")))
		}
		known = known || v == "v1" || v == "v1beta1"
	}
	if !known {
		errs = append(errs, field.Invalid(path, versions, fmt.Sprintf("must include at least one of %s", strings.Join(reviewVersions, ", "))))
	}
	return errs
}

func validateClient(c *hub.WebhookClientConfig, path *field.Path) field.ErrorList {
	var service *check.WebhookService
	if s := c.Service; s != nil {
		service = &check.WebhookService{Namespace: s.Namespace, Name: s.Name, Path: s.Path, Port: &s.Port}
	}
	return check.Webhook(c.URL, service, path)
}

// isURL says whether a text is an absolute URL.
func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme != "" && u.Host != ""
}
