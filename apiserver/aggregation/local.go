package aggregation

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/client"
)

// managed marks the APIServices that the server keeps itself: "onstart" those
// of built-in groups, "true" those of custom resources.
const managed = "kube-aggregator.kubernetes.io/automanaged"

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
			mark := "true"
			p, builtin := discovery.LocalPriority(gv)
			if builtin {
				mark = "onstart"
			}
			out[name] = &apiregistrationv1.APIService{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managed: mark}},
				Spec: apiregistrationv1.APIServiceSpec{
					Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version,
				},
			}
		}
	}
	return out
}

// keepLocal makes the APIServices of this server's group versions, puts those
// of custom resources right that someone has changed, and removes those whose
// group version is gone. All that name no Service get the condition Local.
func (a *Aggregator) keepLocal(ctx context.Context) error {
	want := a.wanted()
	in := APIServices.In(a.cfg.Door, "")
	// Side by side, so that etcd writes many at once: the first start waits.
	var create errgroup.Group
	create.SetLimit(16)
	for name, s := range want {
		if _, ok, _ := a.list.GetStore().GetByKey(name); ok {
			continue
		}
		create.Go(func() error {
			if _, err := in.Create(ctx, s); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
			return nil
		})
	}
	errs := []error{create.Wait()}
	for _, o := range a.list.GetStore().List() {
		s := o.(*apiregistrationv1.APIService)
		w := want[s.Name]
		var err error
		switch {
		case w != nil && s.Labels[managed] == "true" && a.custom(w) && !reflect.DeepEqual(s.Spec, w.Spec):
			_, err = in.Mutate(ctx, s.Name, "", func(s *apiregistrationv1.APIService) (bool, error) {
				s.Spec = w.Spec
				return true, nil
			})
		case s.Spec.Service != nil:
			continue
		case w == nil && s.Labels[managed] != "":
			err = in.Delete(ctx, s.Name, client.Options{})
		case !isLocal(s):
			err = a.write(ctx, s.Name, func(s *apiregistrationv1.APIService) bool { return s.Spec.Service == nil }, local)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// local is the condition of an APIService without a Service.
var local = apiregistrationv1.APIServiceCondition{
	Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
	Reason: "Local", Message: "Local APIServices are always available",
}

func isLocal(s *apiregistrationv1.APIService) bool {
	return slices.ContainsFunc(s.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
		return c.Type == local.Type && c.Status == local.Status && c.Reason == local.Reason
	})
}

// custom says that an APIService which this server keeps is one of custom
// resources. That of a group version which is built in, another server may
// take over: metrics.k8s.io is made to be.
func (a *Aggregator) custom(s *apiregistrationv1.APIService) bool {
	gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
	if _, builtin := discovery.LocalPriority(gv); builtin || gv.Group == metricsv1beta1.SchemeGroupVersion.Group {
		return false
	}
	return true
}
