package expression

import (
	"testing"

	apiservercel "k8s.io/apiserver/pkg/cel"
)

func TestDeclared(t *testing.T) {
	e, err := Declared(Variable{"claims", apiservercel.NewMapType(apiservercel.StringType, apiservercel.AnyType, -1)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Compile("claims.sub + '!' + claims.?x.orValue('y')", String)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Eval(t.Context(), map[string]any{"claims": map[string]any{"sub": "ann"}}, NewBudget())
	if err != nil || out.Value() != "ann!y" {
		t.Errorf("got %v, %v", out, err)
	}
	for _, bad := range []string{"object.x", "claims.sub +", "1"} {
		if _, err := e.Compile(bad, String); err == nil {
			t.Errorf("%s compiles", bad)
		}
	}
	for source, want := range map[string]bool{
		"claims.email": true, "claims['email']": true, "claims.?email.orValue('')": true, "claims[?'email'].orValue('')": true,
		"has(claims.email) ? 'a' : 'b'": true, "['a'].exists(x, x == claims.email)": true,
		"claims.sub": false, "claims.sub.email": false, "'claims.email'": false, "claims.email_verified": false,
	} {
		if got, err := e.Selects(source, "claims", "email"); err != nil || got != want {
			t.Errorf("%s: got %v, %v", source, got, err)
		}
	}
}
