package aggregation

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/client"
)

// managed marks the APIServices that the server keeps itself: "onstart" those
// of built-in groups, "true" those of custom resources.
const managed = "kube-aggregator.kubernetes.io/automanaged"

// priorities are those of 1.36's built-in groups, best first; versions follow
// their own order.
var priorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
	"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500,
	"node.k8s.io": 16300, "discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
	"internal.apiserver.k8s.io": 16000, "storagemigration.k8s.io": 15800,
}

// versionPriorities differ from 15.
var versionPriorities = map[schema.GroupVersion]int32{
	{Version: "v1"}:                                        1,
	{Group: "autoscaling", Version: "v2"}:                  30,
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
	{Group: "resource.k8s.io", Version: "v1"}:              21,
}

// wanted are the APIServices that this server's own group versions have.
func (a *Aggregator) wanted() map[string]*apiregistrationv1.APIService {
	out := map[string]*apiregistrationv1.APIService{}
	for _, k := range a.cfg.Kinds() {
		for i := range k.Views {
			gv := k.Views[i].GroupVersion()
			name := gv.Version + "." + gv.Group
			if out[name] != nil || gv.Group == apiregistrationv1.GroupName {
				continue
			}
			mark, group, version := "true", int32(1000), int32(100)
			if p, ok := priorities[gv.Group]; ok {
				mark, group, version = "onstart", p, 15
				if v, ok := versionPriorities[gv]; ok {
					version = v
				}
			}
			out[name] = &apiregistrationv1.APIService{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managed: mark}},
				Spec: apiregistrationv1.APIServiceSpec{
					Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version,
				},
			}
		}
	}
	return out
}

// keepLocal makes the APIServices of this server's group versions, and
// removes those whose group version is gone. settled is false if custom
// resources may be about to change.
func (a *Aggregator) keepLocal(ctx context.Context) (settled bool, err error) {
	want := a.wanted()
	in := APIServices.In(a.cfg.Door, "")
	var errs []error
	for name, s := range want {
		if _, ok, _ := a.list.GetStore().GetByKey(name); ok {
			continue
		}
		if _, err := in.Create(ctx, s); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, err)
		}
	}
	for _, o := range a.list.GetStore().List() {
		s := o.(*apiregistrationv1.APIService)
		if s.Labels[managed] == "" || s.Spec.Service != nil || want[s.Name] != nil {
			continue
		}
		if err := in.Delete(ctx, s.Name, client.Options{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return true, errors.Join(errs...)
}
