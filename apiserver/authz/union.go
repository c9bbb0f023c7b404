package authz

import (
	"context"
	"slices"
	"strings"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/coxswain/cox/client"
)

// GroupMasters may do everything, whatever the other authorizers say.
const GroupMasters = "system:masters"

// Union asks each authorizer in turn until one allows or denies. Its reason
// is otherwise all their reasons, one per line. It is a RuleResolver over
// those that are.
func Union(all ...Authorizer) Authorizer { return union(all) }

type union []Authorizer

func (u union) Authorize(ctx context.Context, attrs *Attributes) (Decision, string, error) {
	var reasons []string
	var errs []error
	for _, a := range u {
		d, reason, err := a.Authorize(ctx, attrs)
		if d != NoOpinion {
			return d, reason, err
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return NoOpinion, strings.Join(reasons, "\n"), utilerrors.NewAggregate(errs)
}

func (u union) RulesFor(ctx context.Context, user client.User, namespace string) (res []ResourceRule, paths []NonResourceRule, incomplete bool, err error) {
	var errs []error
	for _, a := range u {
		r, ok := a.(RuleResolver)
		if !ok {
			continue
		}
		rr, nr, part, err := r.RulesFor(ctx, user, namespace)
		res, paths, incomplete = append(res, rr...), append(paths, nr...), incomplete || part
		if err != nil {
			errs = append(errs, err)
		}
	}
	return res, paths, incomplete, utilerrors.NewAggregate(errs)
}

// Masters allows everything to the group system:masters. As upstream, it names
// no rules for that: those of RBAC say it.
func Masters() Authorizer { return masters{} }

type masters struct{}

func (masters) Authorize(_ context.Context, attrs *Attributes) (Decision, string, error) {
	if slices.Contains(attrs.User.Groups, GroupMasters) {
		return Allow, "", nil
	}
	return NoOpinion, "", nil
}
