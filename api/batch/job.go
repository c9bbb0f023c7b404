package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"github.com/coxswain/cox/api"
)

var jobParts = api.SpecStatus(func(o *batchv1.Job) (*batchv1.JobSpec, *batchv1.JobStatus) {
	return &o.Spec, &o.Status
})

func jobKind() *api.Kind {
	gvk := batchv1.SchemeGroupVersion.WithKind("Job")
	return &api.Kind{
		Hub: gvk, HubListKind: "JobList",
		Resource: "jobs", Singular: "job",
		Categories: []string{"all"},
		Namespaced: true, Prefix: "jobs",
		New: api.New[batchv1.Job](), NewList: api.New[batchv1.JobList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: jobParts.PrepareCreate, PrepareUpdate: jobParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: jobParts.PrepareStatus}},
		},
	}
}
