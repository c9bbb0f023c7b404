package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestTolerations(t *testing.T) {
	tolerate := func(x corev1.Toleration) func(*corev1.Pod, *corev1.Container) {
		return func(p *corev1.Pod, _ *corev1.Container) { p.Spec.Tolerations = []corev1.Toleration{x} }
	}
	const at = "spec.tolerations[0]."
	runBad(t, []badCase{
		{"empty key", tolerate(corev1.Toleration{Operator: "Equal"}),
			at + "operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\""},
		{"operator", tolerate(corev1.Toleration{Key: "a", Operator: "In"}), at + `operator: Unsupported value: "In": supported values: "Equal", "Exists"`},
		{"seconds", tolerate(corev1.Toleration{Key: "a", Operator: "Exists", Effect: "NoSchedule", TolerationSeconds: ptr(int64(1))}),
			at + "effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set"},
		{"effect", tolerate(corev1.Toleration{Key: "a", Operator: "Exists", Effect: "Maybe"}),
			at + `effect: Unsupported value: "Maybe": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`},
		{"exists with value", tolerate(corev1.Toleration{Key: "a", Operator: "Exists", Value: "x"}),
			at + "operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'"},
	})
}

func TestAffinity(t *testing.T) {
	required := func(term corev1.NodeSelectorTerm) func(*corev1.Pod, *corev1.Container) {
		return func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}}
		}
	}
	expr := func(r corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{r}}
	}
	pod := func(term corev1.PodAffinityTerm) func(*corev1.Pod, *corev1.Container) {
		return func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
		}
	}
	const node = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
	const term = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]."
	runBad(t, []badCase{
		{"no terms", func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
		}, node + `: Required value: must have at least one node selector term`},
		{"no values", required(expr(corev1.NodeSelectorRequirement{Key: "a", Operator: "In"})),
			node + "[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},
		{"values of exists", required(expr(corev1.NodeSelectorRequirement{Key: "a", Operator: "Exists", Values: []string{"b"}})),
			node + "[0].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"},
		{"gt", required(expr(corev1.NodeSelectorRequirement{Key: "a", Operator: "Gt"})),
			node + "[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"},
		{"operator", required(expr(corev1.NodeSelectorRequirement{Key: "a", Operator: "Is"})),
			node + `[0].matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`},
		{"field", required(corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "spec.x", Operator: "In", Values: []string{"n"}}}}),
			node + `[0].matchFields[0].key: Invalid value: "spec.x": not a valid field selector key`},
		{"weight", func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 101}}}}
		}, `spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100`},
		{"selector", pod(corev1.PodAffinityTerm{TopologyKey: "k", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "-"}}}),
			term + `labelSelector.matchLabels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		{"namespace", pod(corev1.PodAffinityTerm{TopologyKey: "k", Namespaces: []string{"A"}}), term + `namespace: Invalid value: "A": ` + labelText},
		{"keys without selector", pod(corev1.PodAffinityTerm{TopologyKey: "k", MatchLabelKeys: []string{"a"}}),
			term + `matchLabelKeys: Forbidden: must not be specified when labelSelector is not set`},
		{"key also selected", pod(corev1.PodAffinityTerm{TopologyKey: "k", MatchLabelKeys: []string{"a"}, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}),
			term + `matchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector`},
	})
}

func TestSpread(t *testing.T) {
	spread := func(f func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod, *corev1.Container) {
		return func(p *corev1.Pod, _ *corev1.Container) {
			c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}
			f(&c)
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{c}
		}
	}
	const at = "spec.topologySpreadConstraints[0]."
	runBad(t, []badCase{
		{"skew", spread(func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = 0 }), at + `maxSkew: Invalid value: 0: must be greater than zero`},
		{"key", spread(func(c *corev1.TopologySpreadConstraint) { c.TopologyKey = "" }), at + `topologyKey: Required value: can not be empty`},
		{"action", spread(func(c *corev1.TopologySpreadConstraint) { c.WhenUnsatisfiable = "x" }),
			at + `whenUnsatisfiable: Unsupported value: "x": supported values: "DoNotSchedule", "ScheduleAnyway"`},
		{"domains", spread(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = ptr(int32(0)) }), at + `minDomains: Invalid value: 0: must be greater than zero`},
		{"domains anyway", spread(func(c *corev1.TopologySpreadConstraint) {
			c.MinDomains, c.WhenUnsatisfiable = ptr(int32(2)), corev1.ScheduleAnyway
		}), at + `minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway`},
		{"policy", spread(func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = ptr(corev1.NodeInclusionPolicy("x")) }),
			at + `nodeTaintsPolicy: Unsupported value: "x": supported values: "Honor", "Ignore"`},
		{"twice", func(p *corev1.Pod, _ *corev1.Container) {
			c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{c, c}
		}, `spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, DoNotSchedule}"`},
	})
}

func TestTopologyTerms(t *testing.T) {
	terms := []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone"}}}}
	errs := ValidateTopologySelectorTerms(terms, field.NewPath("t"))
	if len(errs) != 1 || errs[0].Error() != "t[0].matchLabelExpressions[0].values: Required value" {
		t.Error(errs)
	}
}
