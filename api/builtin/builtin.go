// Package builtin puts the built-in kinds together: the rows of every group
// and the Go types behind them go in, one table comes out.
package builtin

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	admissionregistrationv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/admissionregistration"
	"github.com/coxswain/cox/api/apiextensions"
	"github.com/coxswain/cox/api/apiregistration"
	"github.com/coxswain/cox/api/apps"
	"github.com/coxswain/cox/api/authentication"
	"github.com/coxswain/cox/api/authorization"
	"github.com/coxswain/cox/api/autoscaling"
	"github.com/coxswain/cox/api/batch"
	"github.com/coxswain/cox/api/certificates"
	"github.com/coxswain/cox/api/coordination"
	"github.com/coxswain/cox/api/core"
	"github.com/coxswain/cox/api/discovery"
	"github.com/coxswain/cox/api/flowcontrol"
	"github.com/coxswain/cox/api/metrics"
	"github.com/coxswain/cox/api/networking"
	"github.com/coxswain/cox/api/node"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/policy"
	"github.com/coxswain/cox/api/rbac"
	"github.com/coxswain/cox/api/resource"
	"github.com/coxswain/cox/api/scheduling"
	"github.com/coxswain/cox/api/storage"
	"github.com/coxswain/cox/api/storagemigration"
)

// Beyond is what is on beyond 1.36's defaults; the zero value is nothing.
type Beyond struct {
	Served []schema.GroupVersionResource // of Optional
	Gates  []string                      // feature gates, by their names
}

// Everything is all that can be on.
func Everything() Beyond {
	return Beyond{Served: Optional(), Gates: []string{GateTrustBundleProjection, GateStopSignals, GatePodCertificate}}
}

// The gates that kinds which are always served depend on.
const (
	GateTrustBundleProjection = "ClusterTrustBundleProjection"
	GateStopSignals           = "ContainerStopSignals"
	GatePodCertificate        = "PodCertificateRequest"
)

// New returns the table of every built-in kind that is served by default, with
// the scheme of their types, made anew by each call. It errs only if two rows
// claim the same resource.
func New() (*api.Table, error) { return With(Beyond{}) }

// With is New with what is on beyond the defaults.
func With(b Beyond) (*api.Table, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	all := kinds(podspec.Gates{
		ClusterTrustBundleProjection: slices.Contains(b.Gates, GateTrustBundleProjection),
		ContainerStopSignals:         slices.Contains(b.Gates, GateStopSignals),
		PodCertificateRequest:        slices.Contains(b.Gates, GatePodCertificate),
	})
	for _, gvr := range Optional() {
		if slices.Contains(b.Served, gvr) {
			all = append(all, optionalKinds[gvr]())
		}
	}
	return api.NewTable(scheme, all)
}

// optionalKinds are the rows that 1.36 has, but serves only where it is told
// to.
var optionalKinds = map[schema.GroupVersionResource]func() *api.Kind{
	certificatesv1beta1.SchemeGroupVersion.WithResource("clustertrustbundles"):          certificates.TrustBundles,
	certificatesv1beta1.SchemeGroupVersion.WithResource("podcertificaterequests"):       certificates.PodRequests,
	storagemigrationv1beta1.SchemeGroupVersion.WithResource("storageversionmigrations"): storagemigration.Kind,
}

// Optional lists the resources that are not served by default, sorted.
func Optional() []schema.GroupVersionResource {
	return slices.SortedFunc(maps.Keys(optionalKinds), func(a, b schema.GroupVersionResource) int { return strings.Compare(a.String(), b.String()) })
}

// kinds lists every row, in the order in which discovery shows the groups.
func kinds(on podspec.Gates) []*api.Kind {
	all := slices.Concat(core.Kinds(on), apps.Kinds(on), authentication.Kinds(), authorization.Kinds(), autoscaling.Kinds(), batch.Kinds(on))
	for _, group := range []func() []*api.Kind{
		certificates.Kinds, networking.Kinds,
		policy.Kinds, rbac.Kinds, storage.Kinds, scheduling.Kinds,
		coordination.Kinds, node.Kinds, discovery.Kinds, resource.Kinds, flowcontrol.Kinds, apiextensions.Kinds,
		admissionregistration.Kinds, apiregistration.Kinds, metrics.Kinds,
	} {
		all = append(all, group()...)
	}
	return all
}

// Scheme returns a new scheme of every type of the served group versions, of
// the list, watch and options types in each, and of the meta.k8s.io types. It
// defaults nothing: defaults are the rows' strategies.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme,
		authorizationv1.AddToScheme, autoscalingv1.AddToScheme,
		autoscalingv2.AddToScheme, batchv1.AddToScheme, certificatesv1.AddToScheme, certificatesv1beta1.AddToScheme,
		coordinationv1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme,
		policyv1.AddToScheme, rbacv1.AddToScheme, resourcev1.AddToScheme, schedulingv1.AddToScheme,
		storagev1.AddToScheme, storagemigrationv1beta1.AddToScheme, extv1.AddToScheme, apiregistrationv1.AddToScheme, admissionregistrationv1.AddToScheme,
		admissionregistrationv1beta1.AddToScheme, metricsv1beta1.AddToScheme, metav1.AddMetaToScheme,
	} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("register built-in types: %w", err)
		}
	}
	// Status, APIVersions, APIGroup and the like are the same in every
	// version, with v1 for their own.
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	s.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{},
		&metav1.APIGroup{}, &metav1.APIResourceList{})
	return s, nil
}
