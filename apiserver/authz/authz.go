// Package authz decides whether a user may make a request: attributes in,
// decision and reason out.
package authz

import (
	"context"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
)

// Attributes is what a decision is made on. Either Path is set (a request
// that is not for a resource) or the resource's fields are.
type Attributes struct {
	User                  client.User
	Verb                  string
	Group, Version        string
	Resource, Subresource string
	Namespace, Name       string
	Path                  string
	FieldSelector         fields.Selector
	LabelSelector         labels.Selector
}

// IsResource says that the attributes are of a resource request.
func (a *Attributes) IsResource() bool { return a.Path == "" }

// Decision is the outcome of one authorizer.
type Decision int

// NoOpinion passes the question on to the next authorizer; what no one
// allows is denied.
const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// Authorizer decides. The reason is shown to the user in a 403 and in
// SubjectAccessReview. An error goes with NoOpinion. It is safe for
// concurrent use and does not keep or change attrs.
type Authorizer interface {
	Authorize(ctx context.Context, attrs *Attributes) (Decision, string, error)
}

// RuleResolver is implemented by authorizers that can list what a user may
// do, for SelfSubjectRulesReview.
type RuleResolver interface {
	RulesFor(ctx context.Context, user client.User, namespace string) (resource []ResourceRule, nonResource []NonResourceRule, incomplete bool, err error)
}

// ResourceRule allows verbs on resources.
type ResourceRule struct{ Verbs, APIGroups, Resources, ResourceNames []string }

// NonResourceRule allows verbs on paths.
type NonResourceRule struct{ Verbs, Paths []string }
