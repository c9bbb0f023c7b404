package document

import (
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/coxswain/cox/api"
)

var (
	anyMedia   = []string{"*/*"}
	bodyMedia  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	listMedia  = append(slices.Clone(bodyMedia), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	patchMedia = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}

	allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

	prettyParam    = inQuery("pretty", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).")
	namespaceParam = inPath("namespace", "object name and auth scope, such as for teams and projects")
	listParams     = query(metav1.ListOptions{})
	deleteParams   = query(metav1.DeleteOptions{})
	createParams   = query(metav1.CreateOptions{})
	updateParams   = query(metav1.UpdateOptions{})
	patchParams    = query(metav1.PatchOptions{})
)

// resource writes the routes of one kind in one view.
type resource struct {
	*container
	served api.Served
	gv     schema.GroupVersion
	scheme *runtime.Scheme
}

// base is the path of the collection and its parameters, in one namespace
// where the kind is namespaced.
func (r *resource) base(prefix string) (string, []common.Parameter) {
	if r.served.Namespaced {
		return r.root + prefix + "/namespaces/{namespace}/" + r.served.Resource, []common.Parameter{namespaceParam}
	}
	return r.root + prefix + "/" + r.served.Resource, nil
}

// nameParam is the object's name in the path; kind is that of the body, which
// is what upstream's documents call it.
func nameParam(kind string) common.Parameter { return inPath("name", "name of the "+kind) }

// id makes an operation id: the verb, the group version, what goes before
// the scope ("Collection"), the scope, the kind, and what comes after it.
func (r *resource) id(verb, before, after string) string {
	scope := ""
	if r.served.Namespaced {
		scope = "Namespaced"
	}
	return verb + title(r.gv) + before + scope + r.served.View.Kind + after
}

// op is the frame of an operation of the view's own kind.
func (r *resource) op(method, path, id, action, description string, params ...[]common.Parameter) *route {
	return &route{
		method: method, path: path, id: id, description: description, tag: tag(r.gv),
		consumes: anyMedia, produces: bodyMedia, action: action, gvk: r.served.View.GroupVersionKind,
		params: slices.Concat(append(params, []common.Parameter{prettyParam})...),
	}
}

// routes writes everything that the kind serves.
func (r *resource) routes() {
	verbs := r.served.Verbs
	if verbs == nil {
		verbs = allVerbs
	}
	has := func(v string) bool { return slices.Contains(verbs, v) }
	obj := value(r.served.View.New())
	path, scope := r.base("")
	kind := r.served.View.Kind

	if has("list") {
		r.list(has("watch"))
	}
	if has("create") {
		op := r.op("POST", path, r.id("create", "", ""), "post", "create "+article(kind), scope, createParams, []common.Parameter{inBody(true)})
		op.body, op.results = obj, answers(obj, http.StatusOK, http.StatusCreated, http.StatusAccepted)
		r.add(op)
	}
	if has("deletecollection") {
		op := r.op("DELETE", path, r.id("delete", "Collection", ""), "deletecollection", "delete collection of "+kind,
			scope, query(metav1.ListOptions{}, "watch", "allowWatchBookmarks"), deleteParams, []common.Parameter{inBody(false)})
		op.body, op.results = metav1.DeleteOptions{}, answers(metav1.Status{}, http.StatusOK)
		r.add(op)
	}
	item, itemScope := path+"/{name}", append(slices.Clone(scope), nameParam(kind))
	r.object(item, itemScope, verbs, "", kind, obj, r.served.View.GroupVersionKind)
	if has("delete") {
		var gone any = metav1.Status{}
		if r.served.ReturnDeleted {
			gone = obj
		}
		op := r.op("DELETE", item, r.id("delete", "", ""), "delete", "delete "+article(kind), itemScope, deleteParams, []common.Parameter{inBody(false)})
		op.body, op.results = metav1.DeleteOptions{}, answers(gone, http.StatusOK, http.StatusAccepted)
		r.add(op)
	}
	if has("watch") {
		r.watch()
	}
	for name, sub := range r.served.Subresources {
		r.subresource(name, &sub, item+"/"+name, scope)
	}
}

// list writes the lists, that of all namespaces included.
func (r *resource) list(watch bool) {
	kind, list := r.served.View.Kind, value(r.served.View.NewList())
	description := "list or watch objects of kind " + kind
	if !watch {
		description = "list objects of kind " + kind
	}
	path, scope := r.base("")
	op := r.op("GET", path, r.id("list", "", ""), "list", description, scope, listParams)
	op.produces, op.results = listMedia, answers(list, http.StatusOK)
	r.add(op)
	if r.served.Namespaced {
		op := r.op("GET", r.root+"/"+r.served.Resource, "list"+title(r.gv)+kind+"ForAllNamespaces", "list", description, listParams)
		op.produces, op.results = listMedia, answers(list, http.StatusOK)
		r.add(op)
	}
}

// watch writes the deprecated watch paths.
func (r *resource) watch() {
	kind := r.served.View.Kind
	const (
		ofList = ". deprecated: use the 'watch' parameter with a list operation instead."
		ofItem = ". deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
	)
	path, scope := r.base("/watch")
	ops := []*route{
		r.op("GET", path, r.id("watch", "", "List"), "watchlist", "watch individual changes to a list of "+kind+ofList, scope, listParams),
		r.op("GET", path+"/{name}", r.id("watch", "", ""), "watch", "watch changes to an object of kind "+kind+ofItem, scope, []common.Parameter{nameParam(kind)}, listParams),
	}
	if r.served.Namespaced {
		ops = append(ops, r.op("GET", r.root+"/watch/"+r.served.Resource, "watch"+title(r.gv)+kind+"ListForAllNamespaces", "watchlist",
			"watch individual changes to a list of "+kind+ofList, listParams))
	}
	for _, op := range ops {
		op.produces, op.results = listMedia, answers(metav1.WatchEvent{}, http.StatusOK)
		r.add(op)
	}
}

// object writes get, update and patch of an object or of a subresource (whose
// title is after the kind in the ids).
func (r *resource) object(path string, scope []common.Parameter, verbs []string, after, noun string, obj any, gvk schema.GroupVersionKind) {
	if slices.Contains(verbs, "get") {
		op := r.op("GET", path, r.id("read", "", after), "get", "read "+specified(noun, r.served.View.Kind), scope)
		op.results, op.gvk = answers(obj, http.StatusOK), gvk
		r.add(op)
	}
	if slices.Contains(verbs, "update") {
		op := r.op("PUT", path, r.id("replace", "", after), "put", "replace "+specified(noun, r.served.View.Kind), scope, updateParams, []common.Parameter{inBody(true)})
		op.body, op.results, op.gvk = obj, answers(obj, http.StatusOK, http.StatusCreated), gvk
		r.add(op)
	}
	if slices.Contains(verbs, "patch") {
		op := r.op("PATCH", path, r.id("patch", "", after), "patch", "partially update "+specified(noun, r.served.View.Kind), scope, patchParams, []common.Parameter{inBody(true)})
		op.consumes, op.body, op.results, op.gvk = patchMedia, metav1.Patch{}, answers(obj, http.StatusOK, http.StatusCreated), gvk
		r.add(op)
	}
}

// specified is "the specified Pod", or "log of the specified Pod".
func specified(noun, kind string) string {
	if noun == kind {
		return "the specified " + kind
	}
	return noun + " of the specified " + kind
}

// subresource writes the routes of one subresource.
func (r *resource) subresource(name string, sub *api.Subresource, path string, scope []common.Parameter) {
	after, verbs, kind := upperFirst(name), sub.Verbs, r.served.View.Kind
	if verbs == nil {
		verbs = []string{"get", "patch", "update"}
	}
	of := func(kind string) []common.Parameter { return append(slices.Clone(scope), nameParam(kind)) }
	switch {
	case sub.Object != nil:
		r.object(path, of(kind), verbs, after, name, value(r.served.View.New()), r.served.View.GroupVersionKind)
	case sub.Project != nil:
		r.object(path, of(sub.Project.GVK.Kind), verbs, after, name, value(sub.Project.New()), sub.Project.GVK)
	case sub.Action != nil:
		body := value(sub.Action.New())
		op := r.op("POST", path, r.id("create", "", after), "post", "create "+name+" of "+article(kind), of(sub.Action.GVK.Kind), createParams, []common.Parameter{inBody(true)})
		op.body, op.results, op.gvk = body, answers(body, http.StatusOK, http.StatusCreated, http.StatusAccepted), sub.Action.GVK
		r.add(op)
	case sub.Connect != nil:
		r.connect(name, sub.Connect, path, of)
	}
}

// connect writes the routes of a streamed or proxied subresource. Logs are a
// stream here but an ordinary get in upstream's documents.
func (r *resource) connect(name string, c *api.Connect, path string, of func(kind string) []common.Parameter) {
	var options []common.Parameter
	if obj, err := r.scheme.New(c.Options); err == nil {
		options = query(value(obj).(documented))
	}
	if c.Options == corev1.SchemeGroupVersion.WithKind("PodLogOptions") {
		op := r.op("GET", path, r.id("read", "", upperFirst(name)), "get", "read "+specified(name, r.served.View.Kind), of(r.served.View.Kind), options)
		op.produces, op.results = append([]string{"text/plain"}, bodyMedia...), answers("", http.StatusOK)
		r.add(op)
		return
	}
	methods := c.Methods
	if slices.Contains(methods, "*") {
		methods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
	}
	for _, m := range methods {
		verb := upperFirst(strings.ToLower(m))
		op := r.op(m, path, r.id("connect", verb, upperFirst(name)), "connect", "connect "+m+" requests to "+name+" of "+r.served.View.Kind)
		op.produces, op.gvk, op.results = anyMedia, c.Options, answers("", http.StatusOK)
		op.params = slices.Concat(of(c.Options.Kind), options)
		r.add(op)
		if c.Path {
			with := *op
			with.path, with.id = path+"/{path:*}", op.id+"WithPath"
			with.params = append(slices.Clone(op.params), inPath("path", "path to the resource"))
			r.add(&with)
		}
	}
}
