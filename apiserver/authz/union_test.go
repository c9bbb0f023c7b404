package authz_test

import (
	"context"
	"errors"
	"testing"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// cannot lists no rules, and says why.
type cannot string

func (c cannot) Authorize(context.Context, *authz.Attributes) (authz.Decision, string, error) {
	return authz.NoOpinion, "", errors.New(string(c))
}

func (c cannot) RulesFor(context.Context, client.User, string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	return nil, nil, true, errors.New(string(c))
}

// Reviews show these errors as upstream shows them: each once.
func TestErrorsOfAUnion(t *testing.T) {
	for _, c := range []struct {
		of   []authz.Authorizer
		want string
	}{
		{[]authz.Authorizer{cannot("a"), cannot("a")}, "a"},
		{[]authz.Authorizer{cannot("a"), cannot("b"), cannot("a")}, "[a, b]"},
	} {
		u := authz.Union(c.of...)
		if _, _, err := u.Authorize(t.Context(), &authz.Attributes{}); err == nil || err.Error() != c.want {
			t.Errorf("decision: %v, want %s", err, c.want)
		}
		_, _, incomplete, err := u.(authz.RuleResolver).RulesFor(t.Context(), client.User{}, "ns")
		if err == nil || err.Error() != c.want || !incomplete {
			t.Errorf("rules: %v, incomplete %v, want %s", err, incomplete, c.want)
		}
	}
	if _, _, err := authz.Union(authz.Masters()).Authorize(t.Context(), &authz.Attributes{}); err != nil {
		t.Errorf("no error became %v", err)
	}
}
