package aggregation

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/client"
)

// check looks whether the servers behind APIServices can answer and writes
// their conditions. waiting says that one cannot, remote that there is one.
func (a *Aggregator) check(ctx context.Context) (waiting, remote bool) {
	for gv, b := range *a.state.Load() {
		remote = true
		reason, message, list := a.condition(ctx, b)
		ok := reason == "Passed"
		b.available.Store(ok)
		if ok {
			a.show(gv, list)
		} else {
			waiting = true
		}
		if err := a.write(ctx, b, ok, reason, message); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("the condition of an APIService is not written", "apiservice", b.name, "error", err)
			waiting = true
		}
	}
	return waiting, remote
}

// condition is the reason and message of condition Available, in upstream's
// words, and what the server serves.
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
	if list, err = b.discover(ctx); err != nil {
		return "FailedDiscoveryCheck", err.Error(), nil
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

func (a *Aggregator) write(ctx context.Context, b *backend, ok bool, reason, message string) error {
	status := apiregistrationv1.ConditionFalse
	if ok {
		status = apiregistrationv1.ConditionTrue
	}
	_, err := APIServices.In(a.cfg.Door, "").Mutate(ctx, b.name, "status", func(s *apiregistrationv1.APIService) (bool, error) {
		want := apiregistrationv1.APIServiceCondition{
			Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
		}
		for i := range s.Status.Conditions {
			c := &s.Status.Conditions[i]
			if c.Type != want.Type {
				continue
			}
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
			if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
				return false, nil
			}
			*c = want
			return true, nil
		}
		s.Status.Conditions = append(s.Status.Conditions, want)
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile
	}
	return err
}

// GroupVersionOf reads the group version from a path below /apis/; false for
// other paths.
func GroupVersionOf(path string) (schema.GroupVersion, bool) {
	rest, ok := strings.CutPrefix(path, "/apis/")
	if !ok {
		return schema.GroupVersion{}, false
	}
	group, rest, ok := strings.Cut(rest, "/")
	version, _, _ := strings.Cut(rest, "/")
	return schema.GroupVersion{Group: group, Version: version}, ok && version != ""
}
