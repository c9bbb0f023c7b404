package check

import (
	"fmt"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WebhookService names the Service that a webhook is reached by, in the
// fields that every API group's own type of it has.
type WebhookService struct {
	Namespace, Name string
	Path            *string
	Port            *int32 // nil when the default is not filled in
}

// Webhook checks where a webhook is reached (clientConfig of admission
// webhooks and of conversion webhooks): exactly one of a URL and a Service.
// Nothing passed is modified.
func Webhook(address *string, service *WebhookService, path *field.Path) field.ErrorList {
	if (address == nil) == (service == nil) {
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	}
	if address != nil {
		return webhookURL(*address, path.Child("url"))
	}
	s, at := service, path.Child("service")
	var errs field.ErrorList
	// Upstream names one of the two where the other is missing; so do we.
	if s.Namespace == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("namespace"), ""))
	}
	if s.Port != nil {
		if msgs := validation.IsValidPortNum(int(*s.Port)); msgs != nil {
			errs = append(errs, field.Invalid(at.Child("port"), *s.Port, "port is not valid: "+strings.Join(msgs, ",")))
		}
	}
	if s.Path != nil {
		errs = append(errs, webhookPath(*s.Path, at.Child("path"))...)
	}
	return errs
}

func webhookURL(text string, path *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(path, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(path, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(path, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(path, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(path, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(path, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

func webhookPath(p string, path *field.Path) field.ErrorList {
	if p == "/" || p == "" {
		return nil
	}
	if p == "//" {
		return field.ErrorList{field.Invalid(path, p, "segment[0] may not be empty")}
	}
	var errs field.ErrorList
	if !strings.HasPrefix(p, "/") {
		errs = append(errs, field.Invalid(path, p, "must start with a '/'"))
	}
	rest := strings.TrimSuffix(p[1:], "/")
	for i, s := range strings.Split(rest, "/") {
		if s == "" {
			errs = append(errs, field.Invalid(path, p, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, m := range validation.IsDNS1123Subdomain(s) {
			errs = append(errs, field.Invalid(path, p, fmt.Sprintf("segment[%d]: %v", i, m)))
		}
	}
	return errs
}
