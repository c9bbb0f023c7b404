package match

import (
	"context"
	"testing"

	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// seen notes what it is asked and allows it.
type seen struct{ a authz.Attributes }

func (s *seen) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	s.a = *a
	return authz.Allow, "", nil
}

// Expressions can ask about every attribute of a request.
func TestAuthorizerOfExpressions(t *testing.T) {
	s := &seen{}
	c := Compile([]admissionv1.MatchCondition{{Name: "x", Expression: `authorizer.group('apps').resource('deployments').subresource('scale').namespace('ns').name('web')
.fieldSelector('a=b,c!=d').labelSelector('e in (f),!g').check('list').allowed()`}}, expression.Scope{})
	values := map[string]any{"authorizer": library.NewAuthorizerVal(userInfo(client.User{Name: "ann", Groups: []string{"g"}}), &asker{s})}
	if ok, err := c.Match(t.Context(), values); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	a := s.a
	if a.User.Name != "ann" || a.Verb != "list" || a.Group != "apps" || a.Resource != "deployments" || a.Subresource != "scale" || a.Namespace != "ns" || a.Name != "web" {
		t.Errorf("asked %+v", a)
	}
	if a.FieldSelector == nil || a.FieldSelector.String() != "a=b,c!=d" || a.LabelSelector == nil || a.LabelSelector.String() != "e in (f),!g" {
		t.Errorf("asked with selectors %v, %v", a.FieldSelector, a.LabelSelector)
	}
	c = Compile([]admissionv1.MatchCondition{{Name: "x", Expression: `authorizer.path('/metrics').check('get').allowed() && authorizer.serviceAccount('ns', 'bot').group('').resource('pods').fieldSelector('==').check('get').allowed()`}}, expression.Scope{})
	out, err := c.list[0].prg.Eval(t.Context(), values, expression.NewMatchBudget())
	if err != nil || out != types.True || s.a.User.Name != "system:serviceaccount:ns:bot" || s.a.FieldSelector != nil {
		t.Errorf("%v, %v: asked %+v", out, err, s.a)
	}
}
