package aggregation

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/client"
)

// check looks whether the servers behind APIServices can answer, all at once,
// and writes their conditions. waiting says that one cannot, remote that there
// is one.
func (a *Aggregator) check(ctx context.Context) (waiting, remote bool) {
	var all sync.WaitGroup
	var late atomic.Bool
	for gv, b := range *a.state.Load() {
		remote = true
		all.Go(func() {
			if !a.checkOne(ctx, gv, b) {
				late.Store(true)
			}
		})
	}
	all.Wait()
	return late.Load(), remote
}

// checkOne is false if there is a reason to check again soon.
func (a *Aggregator) checkOne(ctx context.Context, gv schema.GroupVersion, b *backend) bool {
	reason, message, list := a.condition(ctx, b)
	if ctx.Err() != nil {
		return false // what failed may have failed for that
	}
	ok := reason == "Passed"
	b.available.Store(ok)
	a.show(gv, b, list)
	if !ok {
		b.close() // the next try is over a new connection
	}
	status := apiregistrationv1.ConditionFalse
	if ok {
		status = apiregistrationv1.ConditionTrue
	}
	err := a.write(ctx, b.name, b.sameAs, apiregistrationv1.APIServiceCondition{Status: status, Reason: reason, Message: message})
	if err != nil && ctx.Err() == nil {
		a.cfg.Log.Warn("the condition of an APIService is not written", "apiservice", b.name, "error", err)
	}
	if ok {
		if err := b.readDocuments(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Debug("the OpenAPI documents of an aggregated API server are not read", "apiservice", b.name, "error", err)
		}
	}
	return ok && err == nil
}

// condition is the reason and message of condition Available, in upstream's
// words, and what the server serves, nil if that is not known.
func (a *Aggregator) condition(ctx context.Context, b *backend) (reason, message string, list []metav1.APIResource) {
	ref := b.spec.Service
	svc, err := client.Services.In(a.cfg.Door, ref.Namespace).Get(ctx, ref.Name)
	switch {
	case apierrors.IsNotFound(err):
		return "ServiceNotFound", fmt.Sprintf("service/%s in %q is not present", ref.Name, ref.Namespace), nil
	case err != nil:
		return "ServiceAccessError", fmt.Sprintf("service/%s in %q cannot be checked due to: %v", ref.Name, ref.Namespace, err), nil
	}
	if svc.Spec.Type == "" || svc.Spec.Type == corev1.ServiceTypeClusterIP {
		port, portName, ok := int32(443), "", false
		if ref.Port != nil {
			port = *ref.Port
		}
		for _, p := range svc.Spec.Ports {
			if p.Port == port {
				portName, ok = p.Name, true
			}
		}
		if !ok {
			return "ServicePortError", fmt.Sprintf("service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, port), nil
		}
		found, ready, err := a.endpoints(ctx, ref, portName)
		switch {
		case err != nil:
			return "EndpointsAccessError", fmt.Sprintf("service/%s in %q cannot be checked due to: %v", ref.Name, ref.Namespace, err), nil
		case !found:
			return "EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace), nil
		case !ready:
			return "MissingEndpoints", fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, portName), nil
		}
	}
	list, bad, err := b.discover(ctx)
	if err != nil {
		return "FailedDiscoveryCheck", err.Error(), nil
	}
	if bad != nil {
		a.cfg.Log.Warn("an aggregated API server does not say what it serves", "apiservice", b.name, "error", bad)
	}
	return "Passed", "all checks passed", list
}

func (a *Aggregator) endpoints(ctx context.Context, ref *apiregistrationv1.ServiceReference, port string) (found, ready bool, err error) {
	slices, _, err := client.EndpointSlices.In(a.cfg.Door, ref.Namespace).List(ctx, client.Options{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: ref.Name}),
	})
	for _, s := range slices {
		if s.Labels[discoveryv1.LabelServiceName] != ref.Name {
			continue
		}
		found = true
		named := false
		for _, p := range s.Ports {
			named = named || p.Name == nil && port == "" || p.Name != nil && *p.Name == port
		}
		for _, e := range s.Endpoints {
			ready = ready || named && len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready)
		}
	}
	return found, ready, err
}

// write sets condition Available of an APIService, if is still says so.
func (a *Aggregator) write(ctx context.Context, name string, is func(*apiregistrationv1.APIService) bool, want apiregistrationv1.APIServiceCondition) error {
	want.Type = apiregistrationv1.Available
	fell := false
	_, err := APIServices.In(a.cfg.Door, "").Mutate(ctx, name, "status", func(s *apiregistrationv1.APIService) (bool, error) {
		fell = want.Status == apiregistrationv1.ConditionFalse
		if !is(s) {
			fell = false
			return false, nil
		}
		want.LastTransitionTime = metav1.Now()
		for i := range s.Status.Conditions {
			c := &s.Status.Conditions[i]
			if c.Type != want.Type {
				continue
			}
			if c.Status == want.Status {
				fell, want.LastTransitionTime = false, c.LastTransitionTime
			}
			if *c == want {
				return false, nil
			}
			*c = want
			return true, nil
		}
		s.Status.Conditions = append(s.Status.Conditions, want)
		return true, nil
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil // deleted meanwhile
	case err == nil && fell:
		a.falls.WithLabelValues(name, want.Reason).Inc()
	}
	return err
}
