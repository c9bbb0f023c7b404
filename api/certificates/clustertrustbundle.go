package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

type trustBundle = certificatesv1beta1.ClusterTrustBundle

const maxTrustBundle = 1 << 20 // bytes

// TrustBundles returns the row of ClusterTrustBundles (KEP-3257), which 1.36
// serves only where it is told to.
func TrustBundles() *api.Kind {
	gvk := certificatesv1beta1.SchemeGroupVersion.WithKind("ClusterTrustBundle")
	return &api.Kind{
		Hub: gvk, HubListKind: "ClusterTrustBundleList",
		Resource: "clustertrustbundles", Singular: "clustertrustbundle",
		Prefix: "clustertrustbundles",
		New:    api.New[trustBundle](), NewList: api.New[certificatesv1beta1.ClusterTrustBundleList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			// Whether the name goes with the signer is a matter of the spec.
			ValidateName:   trustBundleName,
			Validate:       api.Check(validateTrustBundle),
			ValidateUpdate: api.Check2(validateTrustBundleUpdate),
		},
		Fields: api.Fields(func(b *trustBundle) fields.Set {
			return fields.Set{"spec.signerName": b.Spec.SignerName}
		}),
		FieldNames: []string{"spec.signerName"},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("SignerName", certificatesv1beta1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		},
		Cells: api.Cells(func(b *trustBundle) []any {
			return []any{b.Name, printing.Or(b.Spec.SignerName, printing.None)}
		}),
	}
}

// trustBundleName accepts a subdomain, behind a signer's name or alone: what
// stands before the last colon is judged with the signer's name.
func trustBundleName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSSubdomain(name[strings.LastIndexByte(name, ':')+1:], prefix)
}

func validateTrustBundle(b *trustBundle) field.ErrorList {
	var errs field.ErrorList
	at, path := field.NewPath("metadata", "name"), field.NewPath("spec")
	if signer := b.Spec.SignerName; signer == "" {
		if strings.Contains(b.Name, ":") {
			errs = append(errs, field.Invalid(at, b.Name, `ClusterTrustBundle without signer name must not have ":" in its name`))
		}
	} else {
		prefix := strings.ReplaceAll(signer, "/", ":") + ":"
		if rest, ok := strings.CutPrefix(b.Name, prefix); !ok || strings.Contains(rest, ":") {
			errs = append(errs, field.Invalid(at, b.Name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)))
		}
		errs = append(errs, validateSignerName(signer, path.Child("signerName"))...)
	}
	path = path.Child("trustBundle")
	if len(b.Spec.TrustBundle) > maxTrustBundle {
		return append(errs, field.TooLong(path, "" /*unused*/, maxTrustBundle))
	}
	return append(errs, validateAnchors(b.Spec.TrustBundle, path)...)
}

// validateAnchors wants authorities' certificates, each once. What stands
// between them is not looked at.
func validateAnchors(text string, path *field.Path) field.ErrorList {
	invalid := func(format string, args ...any) *field.Error {
		return field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...))
	}
	var errs field.ErrorList
	where := map[string][]int{}
	var order []string
	rest := []byte(text)
	n := 0
	for ; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			errs = append(errs, invalid("entry %d has bad block type: %v", n, block.Type))
			continue
		}
		if len(block.Headers) > 0 {
			errs = append(errs, invalid("entry %d has PEM block headers", n))
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			errs = append(errs, invalid("entry %d does not parse as X.509", n))
			continue
		}
		if !cert.IsCA {
			errs = append(errs, invalid("entry %d does not have the CA bit set", n))
			continue
		}
		key := string(block.Bytes)
		if where[key] == nil {
			order = append(order, key)
		}
		where[key] = append(where[key], n)
	}
	if n == 0 {
		errs = append(errs, invalid("at least one trust anchor must be provided"))
	}
	for _, key := range order {
		if found := where[key]; len(found) > 1 {
			errs = append(errs, invalid("duplicate trust anchor (indices %v)", found))
		}
	}
	return errs
}

func validateTrustBundleUpdate(b, old *trustBundle) field.ErrorList {
	return append(validateTrustBundle(b), check.Immutable(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
}
