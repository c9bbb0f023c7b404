package certificates

import (
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

type podRequest = certificatesv1beta1.PodCertificateRequest

// PodRequests returns the row of PodCertificateRequests (KEP-4317), which 1.36
// serves only where it is told to.
func PodRequests() *api.Kind {
	gvk := certificatesv1beta1.SchemeGroupVersion.WithKind("PodCertificateRequest")
	spec := certificatesv1beta1.PodCertificateRequestSpec{}.SwaggerDoc()
	return &api.Kind{
		Hub: gvk, HubListKind: "PodCertificateRequestList",
		Resource: "podcertificaterequests", Singular: "podcertificaterequest",
		Namespaced: true, Prefix: "podcertificaterequests",
		New: api.New[podRequest](), NewList: api.New[certificatesv1beta1.PodCertificateRequestList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(r *podRequest) {
				if r.Spec.MaxExpirationSeconds == nil {
					r.Spec.MaxExpirationSeconds = new(int32(defaultExpiration))
				}
			}),
			PrepareCreate: api.On(func(r *podRequest) {
				r.Status = certificatesv1beta1.PodCertificateRequestStatus{}
			}),
			PrepareUpdate:  api.On2(func(r, old *podRequest) { old.Status.DeepCopyInto(&r.Status) }),
			Validate:       api.Check(validatePodRequest),
			ValidateUpdate: api.Check2(validatePodRequestUpdate),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate: api.On2(func(r, old *podRequest) {
					old.Spec.DeepCopyInto(&r.Spec)
					metav1.ResetObjectMetaForStatus(&r.ObjectMeta, old.DeepCopy())
				}),
				ValidateUpdate: api.Check2(validatePodRequestStatus),
			}},
		},
		Fields: api.Fields(func(r *podRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
		}),
		FieldNames: []string{"spec.signerName", "spec.podName", "spec.nodeName"}, NoNamespaceField: true,
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("PodName", spec["podName"]),
			printing.String("ServiceAccountName", spec["serviceAccountName"]),
			printing.String("NodeName", spec["nodeName"]),
			printing.String("SignerName", spec["signerName"]),
			printing.String("State", "Is the request Pending, Issued, Denied, or Failed?"),
			printing.String("UnverifiedUserAnnotations", spec["unverifiedUserAnnotations"]),
		},
		Cells: api.Cells(func(r *podRequest) []any {
			s := &r.Spec
			return []any{r.Name, s.PodName, s.ServiceAccountName, string(s.NodeName), s.SignerName, answer(r), printing.Or(labels.FormatLabels(s.UnverifiedUserAnnotations), printing.None)}
		}),
	}
}

// answer is what has become of a request.
func answer(r *podRequest) string {
	for i := range r.Status.Conditions {
		if t := r.Status.Conditions[i].Type; isAnswer(t) {
			return t
		}
	}
	return "Pending"
}

func isAnswer(t string) bool {
	return t == certificatesv1beta1.PodCertificateRequestConditionTypeIssued ||
		t == certificatesv1beta1.PodCertificateRequestConditionTypeDenied ||
		t == certificatesv1beta1.PodCertificateRequestConditionTypeFailed
}
