package audit

import (
	"fmt"
	"os"
	"slices"
	"strings"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"
)

// Policy is a checked audit.k8s.io/v1 Policy. It is read only.
type Policy struct{ spec auditv1.Policy }

// LoadPolicy reads a policy file (YAML or JSON).
func LoadPolicy(path string) (*Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read audit policy: %w", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy decodes and checks a policy; unknown fields are errors.
func ParsePolicy(data []byte) (*Policy, error) {
	var p auditv1.Policy
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		return nil, err
	}
	if p.Kind != "Policy" || p.APIVersion != auditv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("is %s %s, want audit.k8s.io/v1 Policy", p.APIVersion, p.Kind)
	}
	return NewPolicy(p)
}

// NewPolicy checks a policy. spec is kept.
func NewPolicy(spec auditv1.Policy) (*Policy, error) {
	if len(spec.Rules) == 0 {
		return nil, fmt.Errorf("has no rules")
	}
	if err := checkStages(spec.OmitStages); err != nil {
		return nil, fmt.Errorf("omitStages: %w", err)
	}
	for i, r := range spec.Rules {
		if err := checkRule(&r); err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
	}
	return &Policy{spec}, nil
}

func checkStages(stages []auditv1.Stage) error {
	for _, s := range stages {
		switch s {
		case auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic:
		default:
			return fmt.Errorf("unknown stage %q", s)
		}
	}
	return nil
}

func checkRule(r *auditv1.PolicyRule) error {
	switch r.Level {
	case auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse:
	default:
		return fmt.Errorf("unknown level %q", r.Level)
	}
	if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
		return fmt.Errorf("rules cannot apply to both regular resources and non-resource URLs")
	}
	for _, u := range r.NonResourceURLs {
		if u == "*" {
			continue
		}
		if !strings.HasPrefix(u, "/") {
			return fmt.Errorf("nonResourceURLs: %q must begin with '/'", u)
		}
		if i := strings.Index(u, "*"); i >= 0 && i != len(u)-1 {
			return fmt.Errorf("nonResourceURLs: %q: '*' must be at the end", u)
		}
	}
	for _, g := range r.Resources {
		if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
			return fmt.Errorf("resourceNames need resources")
		}
	}
	return checkStages(r.OmitStages)
}

// decision is what the policy says of one request.
type decision struct {
	level       auditv1.Level
	omit        [2][]auditv1.Stage // the policy's and the rule's, never changed
	omitManaged bool
}

func (d *decision) omits(s auditv1.Stage) bool {
	return slices.Contains(d.omit[0], s) || slices.Contains(d.omit[1], s)
}

// decide takes the first rule that matches.
func (p *Policy) decide(r *Request) decision {
	for i := range p.spec.Rules {
		rule := &p.spec.Rules[i]
		if !matches(rule, r) {
			continue
		}
		d := decision{level: rule.Level, omitManaged: p.spec.OmitManagedFields}
		d.omit[0], d.omit[1] = p.spec.OmitStages, rule.OmitStages
		if rule.OmitManagedFields != nil {
			d.omitManaged = *rule.OmitManagedFields
		}
		return d
	}
	return decision{level: auditv1.LevelNone}
}

func matches(rule *auditv1.PolicyRule, r *Request) bool {
	if len(rule.Users) > 0 && !slices.Contains(rule.Users, r.User.Name) {
		return false
	}
	if len(rule.UserGroups) > 0 && !slices.ContainsFunc(rule.UserGroups, func(g string) bool { return slices.Contains(r.User.Groups, g) }) {
		return false
	}
	if len(rule.Verbs) > 0 && !slices.Contains(rule.Verbs, r.Verb) {
		return false
	}
	if len(rule.Resources) > 0 || len(rule.Namespaces) > 0 {
		return r.Path == "" &&
			(len(rule.Namespaces) == 0 || slices.Contains(rule.Namespaces, r.Namespace)) &&
			(len(rule.Resources) == 0 || slices.ContainsFunc(rule.Resources, func(g auditv1.GroupResources) bool { return matchesResource(&g, r) }))
	}
	if len(rule.NonResourceURLs) > 0 {
		return r.Path != "" && slices.ContainsFunc(rule.NonResourceURLs, func(u string) bool { return matchesPath(u, r.Path) })
	}
	return true
}

func matchesResource(g *auditv1.GroupResources, r *Request) bool {
	if g.Group != "*" && g.Group != r.Group {
		return false
	}
	if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, r.Name) {
		return false
	}
	if len(g.Resources) == 0 {
		return true
	}
	return slices.ContainsFunc(g.Resources, func(want string) bool {
		if want == "*" {
			return true
		}
		res, sub, hasSub := strings.Cut(want, "/")
		if !hasSub {
			return want == r.Resource && r.Subresource == ""
		}
		return r.Subresource != "" && (res == "*" || res == r.Resource) && (sub == "*" || sub == r.Subresource)
	})
}

func matchesPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
