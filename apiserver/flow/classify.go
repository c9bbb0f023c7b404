package flow

import (
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/coxswain/cox/client"
)

// Attributes are what a request is classified by. They are read only while
// Take runs.
type Attributes struct {
	User *client.User
	Verb string
	// Path is that of a request which is not for a resource; "" for others.
	Path                         string
	Group, Version, Resource     string
	Subresource, Namespace, Name string
	// Seats is how much of a level's room the request takes; 0 means 1. See
	// ListSeats.
	Seats int
}

// mutating tells writes from reads.
func (a *Attributes) mutating() bool {
	switch a.Verb {
	case "get", "list", "watch", "head", "options":
		return false
	}
	return true
}

// classifier is one state of the flow schemas, in the order in which they are
// asked. It is not changed once made.
type classifier struct {
	schemas []*flowSchema
	pools   map[string]*pool
}

// flowSchema is a FlowSchema with what it leads to.
type flowSchema struct {
	name       string
	uid        []string // this and the next: one string, or nil if not known
	levelUID   []string
	precedence int32
	by         flowcontrolv1.FlowDistinguisherMethodType
	rules      []flowcontrolv1.PolicyRulesWithSubjects
	pool       *pool
	usage      *usage
}

// find returns the first schema that matches; the last one, catch-all, takes
// whom no other does.
func (c *classifier) find(a *Attributes) *flowSchema {
	for _, s := range c.schemas {
		if s.matches(a) {
			return s
		}
	}
	return c.schemas[len(c.schemas)-1]
}

func (s *flowSchema) matches(a *Attributes) bool {
	for i := range s.rules {
		r := &s.rules[i]
		if covers(r, a) && isAny(r.Subjects, a.User) {
			return true
		}
	}
	return false
}

// distinguisher tells the flows of a schema apart.
func (s *flowSchema) distinguisher(a *Attributes) string {
	switch s.by {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return a.User.Name
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return a.Namespace
	}
	return ""
}

func isAny(subjects []flowcontrolv1.Subject, u *client.User) bool {
	for i := range subjects {
		if isSubject(&subjects[i], u) {
			return true
		}
	}
	return false
}

func isSubject(s *flowcontrolv1.Subject, u *client.User) bool {
	switch {
	case s.User != nil:
		return s.User.Name == flowcontrolv1.NameAll || s.User.Name == u.Name
	case s.Group != nil:
		return s.Group.Name == flowcontrolv1.NameAll || has(u.Groups, s.Group.Name)
	case s.ServiceAccount != nil:
		rest, ok := strings.CutPrefix(u.Name, "system:serviceaccount:")
		if !ok {
			return false
		}
		namespace, name, _ := strings.Cut(rest, ":")
		return namespace == s.ServiceAccount.Namespace && (s.ServiceAccount.Name == flowcontrolv1.NameAll || name == s.ServiceAccount.Name)
	}
	return false
}

// covers says whether a rule is about a request, whoever makes it.
func covers(r *flowcontrolv1.PolicyRulesWithSubjects, a *Attributes) bool {
	if a.Path != "" {
		for i := range r.NonResourceRules {
			n := &r.NonResourceRules[i]
			if hasOrAll(n.Verbs, a.Verb) && coversPath(n.NonResourceURLs, a.Path) {
				return true
			}
		}
		return false
	}
	for i := range r.ResourceRules {
		n := &r.ResourceRules[i]
		if !hasOrAll(n.Verbs, a.Verb) || !hasOrAll(n.APIGroups, a.Group) || !coversResource(n.Resources, a) {
			continue
		}
		if a.Namespace == "" && n.ClusterScope || a.Namespace != "" && hasOrAll(n.Namespaces, a.Namespace) {
			return true
		}
	}
	return false
}

func coversResource(list []string, a *Attributes) bool {
	for _, r := range list {
		if r == flowcontrolv1.ResourceAll {
			return true
		}
		if a.Subresource == "" {
			if r == a.Resource {
				return true
			}
		} else if name, sub, ok := strings.Cut(r, "/"); ok && name == a.Resource && sub == a.Subresource {
			return true
		}
	}
	return false
}

// coversPath matches whole paths, and with "/*" at the end all below one.
func coversPath(list []string, path string) bool {
	for _, u := range list {
		if u == flowcontrolv1.NonResourceAll || u == path {
			return true
		}
		if base, ok := strings.CutSuffix(u, "*"); ok && strings.HasSuffix(base, "/") && strings.HasPrefix(path, base) {
			return true
		}
	}
	return false
}

func hasOrAll(list []string, s string) bool {
	for _, x := range list {
		if x == "*" || x == s {
			return true
		}
	}
	return false
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
