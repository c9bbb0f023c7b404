package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// The ways of acting as another (KEP-5284). All but the unconstrained one take
// two permissions: to be this other, and to do what the request does as one of
// this sort.
const (
	asAssociatedNode = "associated-node"
	asArbitraryNode  = "arbitrary-node"
	asServiceAccount = "serviceaccount"
	asUserInfo       = "user-info"
	asAnyone         = "legacy"
)

const authenticationGroup = "authentication.k8s.io"

// nodeOfToken is the key under which a user's extra names the node that its
// token is bound to. Where this node makes the decision, authorizers are shown
// the keys of the extra alone, under keysOfToken: it is the same for all tokens.
const (
	nodeOfToken = "authentication.kubernetes.io/node-name"
	keysOfToken = "authentication.kubernetes.io/associated-node-keys"
)

// impersonation is one way in which a request may be carried out as another.
type impersonation struct {
	mode string
	// by is who asks, as authorizers see it, and as whom the request is
	// carried out as.
	by, as client.User
	// whom are the permissions to be this other.
	whom []permission
}

// permission is what a way asks authorizers for, but for the user and the verb;
// what must never be is refused in these words instead.
type permission struct {
	authz.Attributes
	never string
}

// constraint is the verb that allows the impersonation of its users; "" of one
// that knows no bounds.
func (i *impersonation) constraint() string {
	if i.mode == asAnyone {
		return ""
	}
	return "impersonate:" + i.mode
}

// impersonate returns on whose behalf a request is carried out: its user, or
// whom the Impersonate- headers name, if the user may.
func (s *Server) impersonate(r *http.Request, user client.User, f *front) (client.User, error) {
	want, err := wanted(r.Header)
	if want == nil || err != nil {
		return user, err
	}
	begin := time.Now()
	on := requested(r, user)
	var refused error
	for _, way := range impersonations(user, *want) {
		err := s.mayImpersonate(r.Context(), &way, on)
		if err == nil {
			s.metrics.gates.impersonated(way.mode, time.Since(begin))
			f.imp, f.constraint = &user, way.constraint()
			for k := range r.Header {
				if strings.HasPrefix(k, "Impersonate-") {
					r.Header.Del(k)
				}
			}
			return way.as, nil
		}
		if refused == nil {
			refused = err
		}
	}
	s.metrics.gates.impersonated("", time.Since(begin))
	return user, refused
}

// mayImpersonate is nil if what on says may be done in this way.
func (s *Server) mayImpersonate(ctx context.Context, way *impersonation, on *authz.Attributes) error {
	ask := func(a authz.Attributes, verb string) error {
		begin := time.Now()
		a.User, a.Verb = way.by, verb
		err := s.authorize(ctx, &a)
		s.metrics.gates.impersonating(way.mode, err, time.Since(begin))
		return err
	}
	verb := way.constraint()
	if verb == "" {
		verb = "impersonate"
	} else if err := ask(*on, "impersonate-on:"+way.mode+":"+on.Verb); err != nil {
		return err
	}
	for _, p := range way.whom {
		if p.never != "" {
			p.User, p.Verb = way.by, verb
			return Forbidden(&p.Attributes, p.never)
		}
		if err := ask(p.Attributes, verb); err != nil {
			return err
		}
	}
	return nil
}

// wanted is whom the headers of a request name, as they name them; nil if they
// name nobody. The error is a 400.
func wanted(h http.Header) (*client.User, error) {
	want := client.User{
		Name: h.Get("Impersonate-User"), UID: h.Get("Impersonate-Uid"), Groups: slices.Clone(h.Values("Impersonate-Group")),
	}
	for k, v := range h {
		rest, ok := strings.CutPrefix(k, "Impersonate-Extra-")
		if !ok {
			continue
		}
		if want.Extra == nil {
			want.Extra = map[string][]string{}
		}
		key := strings.ToLower(rest)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		want.Extra[key] = append(want.Extra[key], v...)
	}
	switch {
	case want.Name != "":
		return &want, nil
	case len(want.Groups) > 0 || want.UID != "" || len(want.Extra) > 0:
		return nil, apierrors.NewBadRequest(fmt.Sprintf(
			"requested &user.DefaultInfo{Name:\"\", UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name", want.UID, want.Groups, want.Extra))
	}
	return nil, nil
}

// impersonations are the ways in which user may act as want, the most confined
// first. What is said of nodes and service accounts is said of valid names.
func impersonations(user, want client.User) []impersonation {
	if slices.Contains(user.Groups, "system:masters") { // who may do everything need not be asked for less
		return []impersonation{anyone(user, want)}
	}
	var ways []impersonation
	alone := want.UID == "" && len(want.Groups) == 0 && len(want.Extra) == 0
	node, isNode := nodeName(want.Name)
	namespace, account, isAccount := serviceAccountName(want.Name)
	switch {
	case isNode && alone:
		as := signedIn(client.User{Name: want.Name, Groups: []string{"system:nodes"}})
		if by, ok := onNode(user, node); ok {
			ways = append(ways, impersonation{asAssociatedNode, by, as, []permission{identity("nodes", "", "", "*")}})
		}
		ways = append(ways, impersonation{asArbitraryNode, user, as, []permission{identity("nodes", "", "", node)}})
	case isAccount && alone:
		ways = append(ways, impersonation{asServiceAccount, user, signedIn(client.ServiceAccountUser(namespace, account)),
			[]permission{identity("serviceaccounts", "", namespace, account)}})
	case !isNode && !isAccount:
		whom := append([]permission{identity("users", "", "", want.Name)}, attributes(want)...)
		for i := range whom {
			whom[i].never = never(&whom[i])
		}
		ways = append(ways, impersonation{asUserInfo, user, signedIn(want), whom})
	}
	return append(ways, anyone(user, want))
}

// onNode says whether user is a service account with a token of the node, and
// as whom authorizers see it then.
func onNode(user client.User, node string) (client.User, bool) {
	if _, _, ok := serviceAccountName(user.Name); !ok || !slices.Equal(user.Extra[nodeOfToken], []string{node}) {
		return user, false
	}
	user.Extra = map[string][]string{keysOfToken: slices.Sorted(maps.Keys(user.Extra))}
	return user, true
}

// never says why a constrained impersonation cannot have an attribute; "" if it
// can. It may change p to tell no more than what is wrong.
func never(p *permission) string {
	switch {
	case p.Resource == "groups" && p.Name == "system:masters":
		return "impersonating the system:masters group is not allowed"
	case p.Resource == "userextras":
		if errs := validation.IsDomainPrefixedPath(field.NewPath("extra", "key"), p.Subresource); len(errs) > 0 {
			p.Subresource, p.Name = "", ""
			return "impersonating an invalid key in extra is not allowed: " + errs.ToAggregate().Error()
		}
	}
	return ""
}

// anyone is the impersonation that knows no bounds, of the core group.
func anyone(user, want client.User) impersonation {
	all := append([]permission{identity("users", "", "", want.Name)}, attributes(want)...)
	if namespace, account, ok := serviceAccountName(want.Name); ok {
		all[0] = identity("serviceaccounts", "", namespace, account)
		if len(want.Groups) == 0 { // which the account has without asking
			want.Groups = client.ServiceAccountUser(namespace, account).Groups
		}
	}
	for i := range all {
		if r := all[i].Resource; r != "uids" && r != "userextras" {
			all[i].Group = ""
		}
	}
	return impersonation{asAnyone, user, signedIn(want), all}
}

// attributes are the permissions that the UID, the groups and the extra of an
// impersonated user take.
func attributes(want client.User) []permission {
	var out []permission
	if want.UID != "" {
		out = append(out, identity("uids", "", "", want.UID))
	}
	for _, g := range want.Groups {
		out = append(out, identity("groups", "", "", g))
	}
	for _, k := range slices.Sorted(maps.Keys(want.Extra)) {
		for _, v := range want.Extra[k] {
			out = append(out, identity("userextras", k, "", v))
		}
	}
	return out
}

func identity(resource, subresource, namespace, name string) permission {
	return permission{Attributes: authz.Attributes{
		Group: authenticationGroup, Version: "v1", Resource: resource, Subresource: subresource, Namespace: namespace, Name: name,
	}}
}

// signedIn adds the group that everyone has who is known, or who is not. Who
// is anonymous has the latter, whatever groups are asked for.
func signedIn(u client.User) client.User {
	const known, unknown = "system:authenticated", "system:unauthenticated"
	group := known
	if u.Name == anonymous.Name {
		group = unknown
	} else if slices.Contains(u.Groups, unknown) {
		return u
	}
	if slices.Contains(u.Groups, group) {
		return u
	}
	u.Groups = append(slices.Clone(u.Groups), group)
	return u
}

// serviceAccountName is the service account that a user is; false if its name
// is of none.
func serviceAccountName(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	ok = ok && len(apivalidation.ValidateNamespaceName(namespace, false)) == 0 && len(apivalidation.ValidateServiceAccountName(name, false)) == 0
	return namespace, name, ok
}

// nodeName is the node that a user is; false if its name is of none.
func nodeName(user string) (string, bool) {
	name, ok := strings.CutPrefix(user, "system:node:")
	return name, ok && len(apivalidation.NameIsDNSSubdomain(name, false)) == 0
}

// requested is what a request asks to do, as far as its line says.
func requested(r *http.Request, user client.User) *authz.Attributes {
	t, ok := parsePath(r.URL.Path)
	if !ok {
		return &authz.Attributes{User: user, Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	}
	verb := verbOf(r, &t)
	a := &authz.Attributes{
		User: user, Verb: string(verb), Group: t.gvr.Group, Version: t.gvr.Version, Resource: t.gvr.Resource,
		Subresource: t.subresource, Namespace: t.namespace, Name: t.name,
	}
	if a.Resource == namespaces.Resource && a.Group == namespaces.Group && a.Name != "" {
		a.Namespace = a.Name // as of every request for a namespace
	}
	if r.URL.RawQuery == "" {
		return a
	}
	// What is wrong with the selectors is said when the request is carried out.
	if o, err := parseOptions(r.URL.Query(), verb); err == nil {
		a.FieldSelector, a.LabelSelector = o.FieldSelector, o.LabelSelector
		if a.Name == "" && o.FieldSelector != nil {
			a.Name, _ = o.FieldSelector.RequiresExactMatch("metadata.name")
		}
	}
	return a
}
