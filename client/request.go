// Package client is how every component talks to the API: a Request goes in
// through a door (the API server in this process, or HTTPS to a remote one)
// and objects come out. It also holds what is built on that: typed access,
// informers, the reconcile loop and the event recorder. It never imports the
// API server or the store.
package client

import (
	"context"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// User is who makes a request, as authentication established it.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Verb is what a request does, in the words of RBAC.
type Verb string

// The verbs of the generic resource handler.
const (
	Get              Verb = "get"
	List             Verb = "list"
	Watch            Verb = "watch"
	Create           Verb = "create"
	Update           Verb = "update"
	Patch            Verb = "patch"
	Delete           Verb = "delete"
	DeleteCollection Verb = "deletecollection"
)

// Request is the one value that both doors of the API server turn every
// request into. A Request is used once and by one goroutine.
type Request struct {
	// User is set by the door (HTTP: authentication; local: the identity the
	// component was given), never by the caller of a typed client.
	User User
	Verb Verb
	// Resource names the view that is asked for: the group, the served
	// version and the plural resource name.
	Resource schema.GroupVersionResource
	// Subresource is "" for the object itself, else "status", "scale", ...
	Subresource string
	Namespace   string
	Name        string

	// Object is the body of create and update, in the type of the requested
	// view. It is transferred: the caller passes a fresh or deep-copied value
	// and does not touch it again.
	Object runtime.Object

	// Patch and PatchType are the body of a patch (server-side apply is
	// types.ApplyYAMLPatchType or types.ApplyCBORPatchType).
	Patch     []byte
	PatchType types.PatchType

	Options Options
}

// Options is the union of the query options of all verbs; each verb reads
// those that the API documentation lists for it.
type Options struct {
	// get, list, watch
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	LabelSelector        labels.Selector // nil selects everything
	FieldSelector        fields.Selector // nil selects everything
	Limit                int64
	Continue             string
	TimeoutSeconds       *int64
	AllowWatchBookmarks  bool
	SendInitialEvents    *bool

	// create, update, patch, delete
	DryRun          bool
	FieldManager    string
	FieldValidation string // "", Ignore, Warn or Strict
	Force           bool   // apply only

	// delete, deletecollection
	GracePeriodSeconds *int64
	OrphanDependents   *bool
	PropagationPolicy  *metav1.DeletionPropagation
	Preconditions      *metav1.Preconditions

	// Query are further parameters, for what another API server serves; this
	// one's own kinds do not look at them.
	Query url.Values
}

// Exactly are the options of a delete that concerns the object with a UID only,
// not another that has taken its name.
func Exactly(uid types.UID) Options {
	return Options{Preconditions: &metav1.Preconditions{UID: &uid}}
}

// Result is the answer to a request that is not a watch. What is in it is
// shared with every other reader: read only, deep-copy before changing it.
type Result struct {
	// Object is the answer of every verb but list: the object, or a
	// *metav1.Status (a finished delete, an eviction).
	Object runtime.Object
	// List is the answer of list.
	List *ListResult
	// Created says that the request made the object (HTTP 201): create, and
	// update or apply of an object that was absent.
	Created bool
	// Pending says that a delete has only begun (finalizers, grace period):
	// Object is then the object as it stands (HTTP 202 where upstream says so).
	Pending bool
	// Warnings are shown to the user, in order.
	Warnings []string
	// Notes are annotations for the audit record, which clients do not see.
	Notes map[string]string
}

// ListResult is a list as pointers to the shared objects, not a typed list
// that would copy them.
type ListResult struct {
	ResourceVersion    string
	Continue           string
	RemainingItemCount *int64
	Items              []runtime.Object
}

// Interface is a door as a component holds it. Errors are
// *apierrors.StatusError wherever the API server answered. Both methods are
// safe for concurrent use.
type Interface interface {
	// Do carries out every verb but watch. It may change req, which is not to
	// be used again.
	Do(ctx context.Context, req *Request) (*Result, error)
	// Watch opens a watch; it ends when ctx does, when Stop is called, or when
	// the server ends it (the result channel is closed). Objects in events are
	// shared and read only.
	Watch(ctx context.Context, req *Request) (watch.Interface, error)
}

// As returns a door through which every request carries user, whatever the
// request says. It is how a component in the API server's process gets its
// identity; RBAC applies to it as to any remote user.
func As(door Interface, user User) Interface { return &as{door, user} }

type as struct {
	door Interface
	user User
}

func (a *as) Do(ctx context.Context, req *Request) (*Result, error) {
	req.User = a.user
	return a.door.Do(ctx, req)
}

func (a *as) Watch(ctx context.Context, req *Request) (watch.Interface, error) {
	req.User = a.user
	return a.door.Watch(ctx, req)
}

// ServiceAccountUser is the identity of a service account, with the groups
// that authentication gives it.
func ServiceAccountUser(namespace, name string) User {
	return User{
		Name: "system:serviceaccount:" + namespace + ":" + name,
		Groups: []string{
			"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated",
		},
	}
}
