package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"github.com/coxswain/cox/api"
)

var cronJobParts = api.SpecStatus(func(o *batchv1.CronJob) (*batchv1.CronJobSpec, *batchv1.CronJobStatus) {
	return &o.Spec, &o.Status
})

func cronJobKind() *api.Kind {
	gvk := batchv1.SchemeGroupVersion.WithKind("CronJob")
	return &api.Kind{
		Hub: gvk, HubListKind: "CronJobList",
		Resource: "cronjobs", Singular: "cronjob",
		ShortNames: []string{"cj"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "cronjobs",
		New: api.New[batchv1.CronJob](), NewList: api.New[batchv1.CronJobList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: cronJobParts.PrepareCreate, PrepareUpdate: cronJobParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: cronJobParts.PrepareStatus}},
		},
	}
}
