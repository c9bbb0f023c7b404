package certificates

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func certificateSigningRequestKind() *api.Kind {
	gvk := certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")
	return &api.Kind{
		Hub: gvk, HubListKind: "CertificateSigningRequestList",
		Resource: "certificatesigningrequests", Singular: "certificatesigningrequest",
		ShortNames: []string{"csr"},
		Prefix:     "certificatesigningrequests",
		New:        api.New[certificatesv1.CertificateSigningRequest](), NewList: api.New[certificatesv1.CertificateSigningRequestList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Resets: []string{"spec", "status"},
			// Who asks is put into the spec by the API server, which knows him.
			PrepareCreate: func(o runtime.Object) {
				o.(*certificatesv1.CertificateSigningRequest).Status = certificatesv1.CertificateSigningRequestStatus{}
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				csr, old := o.(*certificatesv1.CertificateSigningRequest), prev.(*certificatesv1.CertificateSigningRequest)
				old.Spec.DeepCopyInto(&csr.Spec)
				old.Status.DeepCopyInto(&csr.Status)
			},
			Validate:       api.Check(validateRequest),
			ValidateUpdate: api.Check2(validateUpdate),
		},
		Subresources: map[string]api.Subresource{
			"approval": {Untabled: true, Object: &api.Strategy{
				Resets:         []string{"spec", "status.certificate"},
				PrepareUpdate:  api.On2(prepareApproval),
				ValidateUpdate: api.Check2(validateApproval),
			}},
			"status": {Object: &api.Strategy{
				Resets:         []string{"spec", "status.conditions"},
				PrepareUpdate:  api.On2(prepareStatus),
				ValidateUpdate: api.Check2(validateStatus),
			}},
		},
		Fields: api.Fields(func(csr *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": csr.Spec.SignerName}
		}),
		FieldNames: []string{"spec.signerName"},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.AgeColumn(),
			// Upstream still describes them by the beta version.
			printing.String("SignerName", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["signerName"]),
			printing.String("Requestor", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["request"]),
			printing.String("RequestedDuration", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["expirationSeconds"]),
			printing.String("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Cells: api.Cells(func(csr *certificatesv1.CertificateSigningRequest) []any {
			asked := printing.None
			if n := csr.Spec.ExpirationSeconds; n != nil {
				asked = duration.HumanDuration(time.Duration(*n) * time.Second)
			}
			signer := printing.Or(csr.Spec.SignerName, printing.None)
			return []any{csr.Name, printing.Age(csr.CreationTimestamp), signer, csr.Spec.Username, asked, condition(&csr.Status)}
		}),
	}
}

// condition is where the request stands: "Approved,Issued".
func condition(s *certificatesv1.CertificateSigningRequestStatus) string {
	var approved, denied, failed bool
	for _, c := range s.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			denied = true
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	var words []string
	switch { // a denial outranks an approval
	case denied:
		words = append(words, "Denied")
	case approved:
		words = append(words, "Approved")
	default:
		words = append(words, "Pending")
	}
	if failed {
		words = append(words, "Failed")
	}
	if len(s.Certificate) > 0 {
		words = append(words, "Issued")
	}
	return strings.Join(words, ",")
}

// SetRequester fills in who asks for the certificate. The API server calls it
// for every new request: signers rely on it.
func SetRequester(csr *certificatesv1.CertificateSigningRequest, name, uid string, groups []string, extra map[string][]string) {
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = name, uid, slices.Clone(groups), nil
	for k, v := range extra {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[k] = slices.Clone(v)
	}
}

// prepareApproval lets an approval change the conditions and nothing else.
func prepareApproval(csr, old *certificatesv1.CertificateSigningRequest) {
	conditions := csr.Status.Conditions
	old.Spec.DeepCopyInto(&csr.Spec)
	old.Status.DeepCopyInto(&csr.Status)
	csr.Status.Conditions = conditions
	stampConditions(csr, old)
}

// prepareStatus lets a signer set the certificate and conditions, but keeps
// the decisions of the approver, each as often as it was there.
func prepareStatus(csr, old *certificatesv1.CertificateSigningRequest) {
	old.Spec.DeepCopyInto(&csr.Spec)
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		var kept []certificatesv1.CertificateSigningRequestCondition
		for _, c := range old.Status.Conditions {
			if c.Type == t {
				kept = append(kept, c)
			}
		}
		for i := range csr.Status.Conditions {
			if c := &csr.Status.Conditions[i]; c.Type == t && len(kept) > 0 {
				*c, kept = kept[0], kept[1:]
			}
		}
	}
	stampConditions(csr, old)
}

// stampConditions gives new and changed conditions their times.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
				break
			}
		}
	}
}
