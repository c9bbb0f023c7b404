package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coxswain/cox/api/expression"
)

// maxTypes bounds the kinds that one policy is checked against.
const maxTypes = 10

// judge writes the status of the validating policies whose spec it does not
// speak of yet. It reports whether that succeeded.
func (m *Manager) judge(ctx context.Context) bool {
	ok := true
	for _, o := range m.sorts[validating].policies.GetStore().List() {
		p := o.(*admissionv1.ValidatingAdmissionPolicy)
		if p.Status.ObservedGeneration == p.Generation {
			continue
		}
		found := m.typeCheck(p)
		_, err := ValidatingPolicies.In(m.cfg.Door, "").Mutate(ctx, p.Name, "status", func(cur *admissionv1.ValidatingAdmissionPolicy) (bool, error) {
			if cur.Generation != p.Generation || cur.Status.ObservedGeneration == cur.Generation {
				return false, nil // the newer one comes
			}
			cur.Status.ObservedGeneration = cur.Generation
			cur.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: found}
			return true, nil
		})
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			m.cfg.Log.Warn("the status of a policy is not written", "policy", p.Name, "error", err)
			ok = false
		}
	}
	return ok
}

// typeCheck compiles a policy's expressions against the schemas of the kinds
// that it names, and lists what would not compile.
func (m *Manager) typeCheck(p *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
	if m.cfg.Document == nil || p.Spec.MatchConstraints == nil {
		return nil
	}
	var params *apiservercel.DeclType
	if k := p.Spec.ParamKind; k != nil {
		params = m.declType(schema.FromAPIVersionAndKind(k.APIVersion, k.Kind))
	}
	type site struct{ ref, text string }
	var sites []site
	for i, v := range p.Spec.Validations {
		sites = append(sites, site{fmt.Sprintf("spec.validations[%d].expression", i), v.Expression})
		if v.MessageExpression != "" {
			sites = append(sites, site{fmt.Sprintf("spec.validations[%d].messageExpression", i), v.MessageExpression})
		}
	}
	var envs []*expression.Env
	var kinds []schema.GroupVersionKind
	for _, gvk := range m.namedKinds(p.Spec.MatchConstraints) {
		object := m.declType(gvk)
		if object == nil {
			continue
		}
		env := expression.New(expression.Scope{Params: p.Spec.ParamKind != nil, Authorizer: true, Stored: true, Object: object, ParamsObject: params})
		for _, v := range p.Spec.Variables {
			if prg, err := env.Compile(v.Expression); err == nil {
				env.AddVariable(v.Name, prg.Type)
			}
		}
		envs, kinds = append(envs, env), append(kinds, gvk)
	}
	var out []admissionv1.ExpressionWarning
	for _, s := range sites {
		var lines []string
		for i, env := range envs {
			var fault *expression.Error
			if _, err := env.Compile(s.text); errors.As(err, &fault) {
				lines = append(lines, fmt.Sprintf("%v: %s", kinds[i], strings.TrimPrefix(fault.Detail, "compilation failed: ")))
			}
		}
		if len(lines) > 0 {
			out = append(out, admissionv1.ExpressionWarning{FieldRef: s.ref, Warning: strings.Join(lines, "\n")})
		}
	}
	return out
}

// namedKinds lists the kinds that rules name without wildcards.
func (m *Manager) namedKinds(c *admissionv1.MatchResources) []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	for _, r := range c.ResourceRules {
		for _, g := range r.APIGroups {
			for _, v := range r.APIVersions {
				for _, res := range r.Resources {
					k, ok := m.cfg.Served(schema.GroupVersionResource{Group: g, Version: v, Resource: res})
					if ok && !slices.Contains(out, k.View.GroupVersionKind) {
						out = append(out, k.View.GroupVersionKind)
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return cmp.Compare(a.String(), b.String()) })
	if len(out) > maxTypes {
		out = out[:maxTypes]
	}
	return out
}

// declType makes CEL's type of a kind from its OpenAPI document; nil if there
// is none.
func (m *Manager) declType(gvk schema.GroupVersionKind) *apiservercel.DeclType {
	path := "apis/" + gvk.GroupVersion().String()
	if gvk.Group == "" {
		path = "api/" + gvk.Version
	}
	text, err := m.cfg.Document("v3/" + path)
	if err != nil {
		return nil
	}
	var doc spec3.OpenAPI
	if err := json.Unmarshal(text, &doc); err != nil || doc.Components == nil {
		return nil
	}
	const prefix = "#/components/schemas/"
	for name, s := range doc.Components.Schemas {
		if !isKind(s, gvk) {
			continue
		}
		whole, err := resolver.PopulateRefs(func(ref string) (*spec.Schema, bool) {
			s, ok := doc.Components.Schemas[strings.TrimPrefix(ref, prefix)]
			return s, ok
		}, prefix+name)
		if err != nil {
			return nil
		}
		t := openapi.SchemaDeclType(whole, true)
		if t == nil {
			return nil
		}
		return t.MaybeAssignTypeName("kubernetes.object." + gvk.Kind)
	}
	return nil
}

// isKind says that a schema is that of a kind itself.
func isKind(s *spec.Schema, gvk schema.GroupVersionKind) bool {
	list, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
	if len(list) != 1 {
		return false
	}
	m, _ := list[0].(map[string]any)
	return m["group"] == gvk.Group && m["version"] == gvk.Version && m["kind"] == gvk.Kind
}
