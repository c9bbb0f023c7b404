package policies

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/admission/match"
	"github.com/coxswain/cox/client"
)

// params finds the parameters of a binding as expressions see them: one nil
// for a policy without parameters, none if the binding is then not to be
// carried out.
func (m *Manager) params(ctx context.Context, p *policy, b *binding, w *match.Write) ([]any, error) {
	if p.param == nil || b.param == nil {
		return []any{nil}, nil
	}
	gvk, served, err := m.paramKind(p)
	if err != nil {
		return nil, err
	}
	namespace := ""
	switch {
	case served.Namespaced && b.param.Namespace != "":
		namespace = b.param.Namespace
	case served.Namespaced:
		// A namespace lies in itself, as far as parameters go.
		if namespace = w.Namespace; w.Resource.Resource == "namespaces" && w.Resource.Group == "" {
			namespace = w.Name
		}
		if namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	case b.param.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	}
	gvr := served.View.GroupVersion().WithResource(served.Resource)
	objects, err := m.read(ctx, gvr, namespace, b)
	if err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		if a := b.param.ParameterNotFoundAction; a != nil && *a == admissionv1.AllowAction {
			return nil, nil
		}
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	out := make([]any, len(objects))
	for i, o := range objects {
		if out[i], err = expression.Value(match.Typed(o, gvk)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// paramKind finds what a policy's parameters are.
func (m *Manager) paramKind(p *policy) (schema.GroupVersionKind, api.Served, error) {
	gvk := schema.FromAPIVersionAndKind(p.param.APIVersion, p.param.Kind)
	served, ok := m.cfg.ServedKind(gvk)
	if !ok {
		return gvk, served, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
	}
	return gvk, served, nil
}

// fault is why a policy as such cannot be carried out; nil if it can.
func (m *Manager) fault(p *policy) error {
	if p.err != nil || p.param == nil {
		return p.err
	}
	_, _, err := m.paramKind(p)
	return err
}

func (m *Manager) read(ctx context.Context, gvr schema.GroupVersionResource, namespace string, b *binding) ([]runtime.Object, error) {
	req := &client.Request{Verb: client.List, Resource: gvr, Namespace: namespace, Options: client.Options{LabelSelector: b.params, ResourceVersion: "0"}}
	if b.param.Name == "" {
		res, err := m.cfg.Door.Do(ctx, req)
		if err != nil {
			return nil, err
		}
		var out []runtime.Object
		for _, o := range res.List.Items {
			if l, ok := o.(metav1.Object); ok && b.params.Matches(labels.Set(l.GetLabels())) {
				out = append(out, o)
			}
		}
		return out, nil
	}
	for _, version := range []string{"0", ""} { // what is at hand may be a moment old
		res, err := m.cfg.Door.Do(ctx, &client.Request{
			Verb: client.Get, Resource: gvr, Namespace: namespace, Name: b.param.Name, Options: client.Options{ResourceVersion: version},
		})
		if err == nil {
			return []runtime.Object{res.Object}, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return nil, nil
}
