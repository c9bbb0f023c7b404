// Package api defines what a built-in kind is: a row of data (names, types,
// versions, key prefix, strategy, columns) from which the one generic handler
// serves it. The rows themselves are in the folders below, one per group;
// api/builtin puts them into a Table.
package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every API object is: a typed value with object metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is one row of the table. It is read only once the table is built.
type Kind struct {
	// Hub is the version in which the object lives in memory and is validated:
	// 1.36's storage version, unless Stored says otherwise.
	Hub schema.GroupVersionKind
	// HubListKind is usually Hub.Kind + "List".
	HubListKind string
	// Resource is the plural name, Singular its singular.
	Resource, Singular     string
	ShortNames, Categories []string
	Namespaced             bool
	// Prefix is the path below /registry/ under which upstream stores the
	// kind ("pods", "minions", "services/specs"). "" marks a kind that is
	// never stored (TokenReview and the like): the API server answers it
	// with an action registered under the resource's name.
	Prefix string
	// TTL in seconds is given to every stored object (Events: 3600); 0 keeps
	// objects forever.
	TTL int64
	// StoredJSON stores the kind as JSON although its type knows protobuf
	// (upstream does so for CustomResourceDefinitions and APIServices).
	StoredJSON bool
	// Older, where set, reads versions that upstream has stored but no view
	// serves: it returns an empty object of that version and its conversion,
	// or nil for a version that it does not know.
	Older func(gvk schema.GroupVersionKind) (obj runtime.Object, toHub func(runtime.Object) (runtime.Object, error))
	// Stored, where set, is the version that objects are written to the store
	// in when nobody serves it any more; Older reads it back.
	Stored *StoredForm

	New     func() runtime.Object
	NewList func() runtime.Object

	// ReturnDeleted makes a finished delete answer with the object's last
	// state, where most kinds answer with a Status.
	ReturnDeleted bool

	// Views are the served group versions, best first within each group. The
	// hub itself is one of them when it is served.
	Views []View
	// Verbs limits the main resource; nil means all eight.
	Verbs []string
	// Ending: the kind is being taken away with its objects. Discovery lists
	// only what reads and deletes; updates, which take finalizers off, go on.
	Ending bool

	Strategy     Strategy
	Subresources map[string]Subresource

	// Columns and Cells are what `kubectl get` shows. Priority 1 columns
	// belong to -o wide. Cells gets a hub object and returns one value per
	// column, JSON scalars only. nil shows Name and Age.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj runtime.Object) []any

	// Fields returns the values of the selectable fields beyond
	// metadata.name and metadata.namespace; FieldNames lists their names
	// (a selector on any other name is a 400).
	Fields     func(obj runtime.Object) fields.Set
	FieldNames []string
	// NoNamespaceField: metadata.namespace is not among them, although the kind
	// is namespaced.
	NoNamespaceField bool
	// UnknownField is the format of the refusal of another name, where a kind
	// has one of its own.
	UnknownField string

	// Schema is by what the kind's fields are managed and merged; nil means
	// the published schema of its Go types.
	Schema func() (managedfields.TypeConverter, error)
}

// StoredForm is a version that is only stored.
type StoredForm struct {
	GVK schema.GroupVersionKind
	// FromHub converts; it only reads its argument, with which the result may
	// share memory.
	FromHub func(hub runtime.Object) (runtime.Object, error)
}

// StorageGVK is the version in which the store keeps the kind.
func (k *Kind) StorageGVK() schema.GroupVersionKind {
	if k.Stored != nil {
		return k.Stored.GVK
	}
	return k.Hub
}

// GR is the hub's group and the resource name.
func (k *Kind) GR() schema.GroupResource {
	return schema.GroupResource{Group: k.Hub.Group, Resource: k.Resource}
}

// View is one served version of a kind. Resource and singular names are the
// kind's own.
type View struct {
	schema.GroupVersionKind
	// ToHub and FromHub convert; both are nil where the view's type is the
	// hub's. They may alias parts of their argument, which stays untouched;
	// the result is the caller's and not defaulted.
	New     func() runtime.Object
	NewList func() runtime.Object
	ToHub   func(in runtime.Object) (runtime.Object, error)
	FromHub func(in runtime.Object) (runtime.Object, error)
	// Default sets the defaults of this version before conversion; nil where
	// Strategy.Default does it all.
	Default func(obj runtime.Object)
	// Check adds to the strategy's validation what only this version demands
	// of a hub object written through it; old is nil on create.
	Check func(obj, old runtime.Object) field.ErrorList
	// CheckStatus takes Check's place for a write through status; nil: it does not.
	CheckStatus func(obj, old runtime.Object) field.ErrorList
	// Deprecated, where set, is the warning that every request through this
	// version brings.
	Deprecated string
	// ShortNames and Categories differ from the kind's only where upstream's
	// do; nil means the kind's.
	ShortNames []string

	// FieldNames are this version's, in place of the kind's (not nil, but may
	// be empty).
	FieldNames []string
	// Fields returns the values of FieldNames in an object of the view, where
	// the hub's cannot tell them; nil: Kind.Fields does.
	Fields func(obj runtime.Object) fields.Set

	// The rest is for kinds made at run time, whose Go type does not tell
	// their versions apart.

	// FromHubList is FromHub for many objects at once; nil converts each.
	FromHubList func(in []runtime.Object) ([]runtime.Object, error)
	// Prune drops what the version's schema does not know from a decoded
	// object and says what that was; nil where decoding does so. err says
	// that the object's metadata cannot be read.
	Prune func(obj runtime.Object) (unknown []error, err error)
	// Relabel shows an object of any version in this one for field management,
	// with no default set, else what a manager gives up would be taken for
	// defaulted; nil converts it. in is only read.
	Relabel func(in runtime.Object) runtime.Object
	// Columns and Cells are this version's, in place of the kind's; Cells gets
	// an object of the view.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj runtime.Object) []any
	// Strategy and Subresources are this version's, in place of the kind's,
	// where they are not nil.
	Strategy     *Strategy
	Subresources map[string]Subresource
}

// SubresourcesOf are those that one of the kind's views serves.
func (k *Kind) SubresourcesOf(v *View) map[string]Subresource {
	if v.Subresources != nil {
		return v.Subresources
	}
	return k.Subresources
}

// Strategy is how a kind behaves in a write. Every function may be nil. The
// functions get hub objects which they alone hold and may change, except old,
// which is shared and read only.
type Strategy struct {
	// Default sets 1.36's defaults; it must be idempotent.
	Default func(obj runtime.Object)
	// PrepareCreate resets what a client may not set (status, gated-off
	// fields) and sets generation 1 where the kind counts generations.
	PrepareCreate func(obj runtime.Object)
	// PrepareUpdate keeps from old what this request may not change (status
	// for the main resource) and counts the generation.
	PrepareUpdate func(obj, old runtime.Object)
	// Validate checks a new object beyond its metadata, whose own checks
	// (names, labels, annotations, owners, finalizers) are generic and use
	// ValidateName. ValidateUpdate checks a changed one, immutable fields
	// included; it does what of Validate an update needs itself.
	Validate       func(obj runtime.Object) field.ErrorList
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// ValidateName checks metadata.name (prefix: as a generateName); nil
	// means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string
	// LateMetadata checks a new object's metadata behind what is its kind's own.
	// A view without a Check leaves it out where that is refused already, and
	// takes any name that a path can hold, as upstream's older kinds.
	LateMetadata bool
	// AnyFinalizer accepts finalizers without a domain, as upstream's older
	// and newer groups do where most refuse them.
	AnyFinalizer bool
	// Warnings are sent to the user with the answer; old is nil on create.
	Warnings func(obj, old runtime.Object) []string
	// EarlyWarnings are sent to the user of a create even if the object is
	// refused. It runs before PrepareCreate, on the object as admission left it.
	EarlyWarnings func(obj runtime.Object) []string
	// AllowCreateOnUpdate lets PUT create an absent object.
	AllowCreateOnUpdate bool
	// ForbidUnconditionalUpdate demands a resourceVersion in PUT.
	ForbidUnconditionalUpdate bool
	// Canonicalize runs last before validation.
	Canonicalize func(obj runtime.Object)
	// GracePeriod, where set, makes deletion graceful: it returns the seconds
	// that this object gets (asked is nil when the request names none); 0
	// deletes at once.
	GracePeriod func(obj runtime.Object, asked *int64) int64
	// DefaultPropagation names what a delete without a propagation policy
	// does to dependents: "" is background; "orphan" for kinds whose
	// upstream strategy orphans by default.
	DefaultOrphan bool
	// NoPropagation: nothing belongs to objects of the kind, and what a DELETE
	// wants to be done with it is not looked at.
	NoPropagation bool
	// OrphanWarning is sent to who deletes without saying what is to become of
	// the dependents; "" is none.
	OrphanWarning string
	// PrepareDelete changes an object whose deletion begins but which has to
	// stay for now (Namespace: phase Terminating).
	PrepareDelete func(obj runtime.Object)
	// Resets are the fields, in dotted form, that a write under this strategy
	// cannot set and so does not own either. nil is status for the object
	// itself, where it has such a subresource, and spec for its status.
	Resets []string
	// Keep says that an object which is being deleted has a reason to stay
	// beyond metadata.finalizers (Namespace: spec.finalizers).
	Keep func(obj runtime.Object) bool
}

// Subresource is one served subresource of a kind. Exactly one of Object,
// Project, Action and Connect is set.
type Subresource struct {
	// Object: the subresource is the whole object under another strategy
	// (status, approval, resize, ephemeralcontainers, finalize): get, update,
	// patch.
	Object *Strategy
	// Project: the subresource is another kind computed from the object
	// (scale): get, update, patch.
	Project *Projection
	// Action: a body is posted (binding, eviction, token); the API server
	// carries it out with the action registered under "resource/subresource".
	Action *Action
	// Connect: a stream or proxied request (log, exec, attach, portforward,
	// proxy), carried out by the API server's connector of that name.
	Connect *Connect
	// Verbs as discovery lists them, where they differ from the usual ones.
	Verbs []string
	// Untabled: upstream does not print it, and clients that ask for a table
	// are told so, although the object itself has columns.
	Untabled bool
}

// Projection is a subresource of another kind that reads and writes a part of
// the object.
type Projection struct {
	GVK schema.GroupVersionKind
	New func() runtime.Object
	// Get makes the projected object; it copies name, namespace, uid,
	// resourceVersion and creationTimestamp.
	Get func(obj runtime.Object) (runtime.Object, error)
	// Readable says why an object that has no such part yet cannot be asked for
	// it; nil, every object can. It can still be given one.
	Readable func(obj runtime.Object) error
	// Validate checks the projected object.
	Validate func(in runtime.Object) field.ErrorList
	// Set puts the projection into obj, which may be changed. The object's
	// own main strategy runs afterwards.
	Set func(obj, in runtime.Object) error
}

// Action is a posted subresource.
type Action struct {
	GVK    schema.GroupVersionKind // of the body
	New    func() runtime.Object
	Result schema.GroupVersionKind // of the answer, often metav1.Status
	// Others are the further versions that the body may come in.
	Others []Body
	// Schema is that of the body, in structured-merge-diff's form, where the
	// body is also the answer and tells whose its fields are; "" where not.
	Schema string
	// Default and Validate check the body.
	Default  func(in runtime.Object)
	Validate func(in runtime.Object) field.ErrorList
}

// Body is a version of an action's body.
type Body struct {
	GVK schema.GroupVersionKind
	New func() runtime.Object
	// Convert makes of it what the action's own New makes.
	Convert func(in runtime.Object) runtime.Object
}

// Connect is a streamed subresource.
type Connect struct {
	// Options is the kind of the query options ("PodExecOptions", ...).
	Options schema.GroupVersionKind
	// Methods are the HTTP methods; "*" in discovery verbs terms is up to
	// Verbs of the subresource.
	Methods []string
	// Path says that what follows the subresource in the URL belongs to it.
	Path bool
}
