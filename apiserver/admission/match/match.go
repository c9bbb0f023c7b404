// Package match decides whether an admission webhook or policy is about a
// write: attributes and rules, selectors and conditions go in, the version in
// which the webhook or policy wants to see the objects comes out.
package match

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// Served finds the kind behind a resource, as apiserver.Server.Served does.
type Served func(schema.GroupVersionResource) (api.Served, bool)

// Write is a write under admission, with what rules ask about it found once.
// It is used by one goroutine; what In returns is shared and read only.
type Write struct {
	*admission.Attributes
	door   client.Interface
	served api.Served
	known  bool

	ns     *corev1.Namespace
	nsErr  error
	nsDone bool
}

// Seen is a resource and kind in the version that a rule has matched, which
// may be another than the requested one.
type Seen struct {
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
}

// New looks at a write. door reads namespaces.
func New(a *admission.Attributes, door client.Interface, served Served) *Write {
	w := &Write{Attributes: a, door: door}
	w.served, w.known = served(a.Resource)
	return w
}

// Exempt says that neither webhooks nor policies may be asked about the
// write: it is of one of their own configurations.
func Exempt(a *admission.Attributes) bool {
	if a.Resource.Group != admissionv1.GroupName {
		return false
	}
	switch a.Resource.Resource {
	case "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "validatingadmissionpolicies",
		"validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings":
		return true
	}
	return false
}

// whole says that the objects are of the resource's kind, not the body of a
// subresource of another kind.
func (w *Write) whole() bool {
	if !w.known || w.Operation == admission.Connect {
		return false
	}
	if w.Subresource == "" {
		return true
	}
	sub, ok := w.served.Subresources[w.Subresource]
	return ok && sub.Object != nil
}

// Requested is the resource and kind of the request itself.
func (w *Write) Requested() Seen {
	kind := w.Kind
	if w.whole() {
		kind = w.served.View.GroupVersionKind
	}
	return Seen{w.Resource, kind}
}

// Rules finds the first rule that matches the write, exactly or, if the policy
// is Equivalent, under another version or group of the same resource.
func (w *Write) Rules(n int, rule func(int) (*admissionv1.RuleWithOperations, []string), policy *admissionv1.MatchPolicyType) (Seen, bool) {
	for i := range n {
		if r, names := rule(i); w.matches(r, names, w.Resource) {
			return w.Requested(), true
		}
	}
	if policy != nil && *policy == admissionv1.Exact || !w.known {
		return Seen{}, false
	}
	for i := range n {
		r, names := rule(i)
		for v := range w.served.Views {
			view := &w.served.Views[v]
			gvr := view.GroupVersion().WithResource(w.Resource.Resource)
			if gvr == w.Resource || !w.matches(r, names, gvr) {
				continue
			}
			kind := w.Kind
			if w.whole() {
				kind = view.GroupVersionKind
			}
			return Seen{gvr, kind}, true
		}
	}
	return Seen{}, false
}

func (w *Write) matches(r *admissionv1.RuleWithOperations, names []string, gvr schema.GroupVersionResource) bool {
	if len(names) > 0 && !slices.Contains(names, w.Name) {
		return false
	}
	return has(r.APIGroups, gvr.Group) && has(r.APIVersions, gvr.Version) && w.operation(r.Operations) &&
		w.scope(r.Scope) && resource(r.Resources, gvr.Resource, w.Subresource)
}

func has(list []string, v string) bool { return slices.Contains(list, "*") || slices.Contains(list, v) }

func (w *Write) operation(ops []admissionv1.OperationType) bool {
	return slices.Contains(ops, admissionv1.OperationAll) || slices.Contains(ops, admissionv1.OperationType(w.Operation))
}

// scope: a namespace is itself no namespaced object.
func (w *Write) scope(s *admissionv1.ScopeType) bool {
	if s == nil || *s == admissionv1.AllScopes {
		return true
	}
	namespaced := w.Namespace != "" && !w.isNamespace()
	return namespaced == (*s == admissionv1.NamespacedScope)
}

func (w *Write) isNamespace() bool {
	return w.Resource.Group == "" && w.Resource.Resource == "namespaces"
}

func resource(list []string, res, sub string) bool {
	for _, want := range list {
		wantRes, wantSub, _ := strings.Cut(want, "/")
		if (wantRes == "*" || wantRes == res) && (wantSub == "*" || wantSub == sub) {
			return true
		}
	}
	return false
}

// RulesOf hands plain rules to Write.Rules.
func RulesOf(list []admissionv1.RuleWithOperations) (int, func(int) (*admissionv1.RuleWithOperations, []string)) {
	return len(list), func(i int) (*admissionv1.RuleWithOperations, []string) { return &list[i], nil }
}

// NamedRulesOf hands a policy's rules to Write.Rules.
func NamedRulesOf(list []admissionv1.NamedRuleWithOperations) (int, func(int) (*admissionv1.RuleWithOperations, []string)) {
	return len(list), func(i int) (*admissionv1.RuleWithOperations, []string) {
		return &list[i].RuleWithOperations, list[i].ResourceNames
	}
}

// In shows an object of the write in the version of a match, nil for nil.
func (w *Write) In(s Seen, obj runtime.Object) (runtime.Object, error) {
	if obj == nil || !w.whole() {
		return obj, nil
	}
	for i := range w.served.Views {
		v := &w.served.Views[i]
		if v.GroupVersionKind != s.Kind {
			continue
		}
		if v.FromHub == nil {
			return Typed(obj, s.Kind), nil
		}
		out, err := v.FromHub(obj)
		if err != nil {
			return nil, fmt.Errorf("show %v as %v: %w", w.Kind, s.Kind, err)
		}
		return Typed(out, s.Kind), nil
	}
	return Typed(obj, s.Kind), nil
}

// Empty makes an object of the type in which In shows objects.
func (w *Write) Empty(s Seen, like runtime.Object) runtime.Object {
	if w.whole() {
		for i := range w.served.Views {
			if v := &w.served.Views[i]; v.GroupVersionKind == s.Kind && v.New != nil {
				return v.New()
			}
		}
	}
	return reflect.New(reflect.TypeOf(like).Elem()).Interface().(runtime.Object)
}

// Replace puts a changed object, in the version of a match, in the place of
// the write's object, defaulted as one that came from a client.
func (w *Write) Replace(s Seen, obj runtime.Object) error {
	if w.whole() {
		for i := range w.served.Views {
			v := &w.served.Views[i]
			if v.GroupVersionKind != s.Kind {
				continue
			}
			if v.Default != nil {
				v.Default(obj)
			}
			if v.ToHub != nil {
				var err error
				if obj, err = v.ToHub(obj); err != nil {
					return err
				}
			}
		}
		if _, ok := obj.(runtime.Unstructured); !ok {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		if w.served.Strategy.Default != nil {
			w.served.Strategy.Default(obj)
		}
	}
	to, from := reflect.ValueOf(w.Object), reflect.ValueOf(obj)
	if to.Type() != from.Type() {
		return fmt.Errorf("a %T cannot become a %T", w.Object, obj)
	}
	to.Elem().Set(from.Elem()) // the pipeline holds on to the pointer
	return nil
}

// Typed returns obj with its kind named, sharing everything else.
func Typed(obj runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	if obj == nil || obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			content[k] = v
		}
		obj = &unstructured.Unstructured{Object: content}
	} else {
		v := reflect.ValueOf(obj).Elem()
		cp := reflect.New(v.Type())
		cp.Elem().Set(v)
		obj = cp.Interface().(runtime.Object)
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// NamespaceObject is the namespace that the write is in; nil if it is in none.
// The error is a Status for the user.
func (w *Write) NamespaceObject(ctx context.Context) (*corev1.Namespace, error) {
	if w.Namespace == "" || w.isNamespace() && w.Operation == admission.Create {
		return nil, nil
	}
	if !w.nsDone {
		w.nsDone = true
		in := client.Namespaces.In(w.door, "")
		w.ns, w.nsErr = in.Get(ctx, w.Namespace, client.WithOptions(client.Options{ResourceVersion: "0"}))
		if apierrors.IsNotFound(w.nsErr) {
			w.ns, w.nsErr = in.Get(ctx, w.Namespace)
		}
	}
	return w.ns, w.nsErr
}

// Namespaces says whether a namespaceSelector selects the write's namespace.
// What is in no namespace is always selected.
func (w *Write) Namespaces(ctx context.Context, sel labels.Selector) (bool, error) {
	if sel.Empty() || w.Namespace == "" && !w.isNamespace() {
		return true, nil
	}
	if w.isNamespace() && w.Object != nil && w.Operation != admission.Connect && w.Subresource == "" {
		if m, err := meta.Accessor(w.Object); err == nil {
			return sel.Matches(labels.Set(m.GetLabels())), nil
		}
	}
	ns, err := w.NamespaceObject(ctx)
	if err != nil {
		return false, err
	}
	if ns == nil {
		return true, nil
	}
	return sel.Matches(labels.Set(ns.Labels)), nil
}

// Objects says whether an objectSelector selects the new object or the old.
func (w *Write) Objects(sel labels.Selector) bool {
	if sel.Empty() {
		return true
	}
	for _, o := range []runtime.Object{w.Object, w.Old} {
		if o == nil {
			continue
		}
		if m, ok := o.(metav1.Object); ok && sel.Matches(labels.Set(m.GetLabels())) {
			return true
		}
	}
	return false
}

// Selector parses a selector; nil selects everything.
func Selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}
