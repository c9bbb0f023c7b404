package expression_test

import (
	"encoding/json"
	"testing"

	"github.com/coxswain/cox/api/expression"
)

// FuzzExpression: an expression of policies, of webhooks' conditions or of
// mutations is refused or ends with a value or an error within its budget,
// whatever the object.
func FuzzExpression(f *testing.F) {
	for _, source := range []string{
		`object.spec.replicas <= 5`, `object.metadata.labels.exists(k, k.startsWith("a"))`, `has(object.a) && oldObject == null`,
		`[1,2,3].map(x, [1,2,3].map(y, x*y))`, `"aaaa".matches("(a+)+$")`, `quantity("1Gi").isGreaterThan(quantity("1"))`,
		`Object{metadata: Object.metadata{labels: {"a": "b"}}}`, `[JSONPatch{op: "add", path: "/a", value: 1}]`, `request.userInfo.groups.all(g, g != "")`,
		`url("https://a:1/x").getHost()`, `ip("10.0.0.1").family() == 4`, `object.a.b.c[0]["d"]`, `1/0 == 0`, `timestamp("x")`, `variables.x`, `((((`,
	} {
		for mode := range uint8(3) {
			f.Add(source, `{"metadata":{"labels":{"a":"b"}},"spec":{"replicas":3},"a":{"b":{"c":[{"d":null}]}}}`, mode)
		}
	}
	var envs []*expression.Env
	for _, s := range []expression.Scope{{Params: true}, {Authorizer: true}, {Mutation: true}} {
		envs = append(envs, expression.New(s))
	}
	f.Fuzz(func(t *testing.T, source, text string, mode uint8) {
		var object map[string]any
		if json.Unmarshal([]byte(text), &object) != nil {
			return
		}
		p, err := envs[int(mode)%len(envs)].Compile(source)
		if err != nil {
			return
		}
		_, _ = p.Eval(t.Context(), map[string]any{"object": object, "oldObject": nil, "request": map[string]any{}, "params": object, "namespaceObject": nil}, expression.NewBudget())
	})
}
