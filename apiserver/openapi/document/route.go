package document

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
)

// The types below are what kube-openapi's builders read: they implement its
// RouteContainer, Route, StatusCodeResponse and Parameter interfaces.

// container is one document of OpenAPI v3: the routes below a root path.
type container struct {
	root   string
	gv     schema.GroupVersion
	routes []common.Route
}

func (c *container) RootPath() string                   { return c.root }
func (c *container) PathParameters() []common.Parameter { return nil }
func (c *container) Routes() []common.Route             { return c.routes }

func (c *container) add(r *route) { c.routes = append(c.routes, r) }

// route is one operation.
type route struct {
	method, path, id, description, tag string
	consumes, produces                 []string
	params                             []common.Parameter
	action                             string
	gvk                                schema.GroupVersionKind
	// body is a value of the request's type, results one of the answer's type
	// per status code.
	body    any
	results []common.StatusCodeResponse
}

func (r *route) Method() string                                   { return r.method }
func (r *route) Path() string                                     { return r.path }
func (r *route) OperationName() string                            { return r.id }
func (r *route) Parameters() []common.Parameter                   { return r.params }
func (r *route) Description() string                              { return r.description }
func (r *route) Consumes() []string                               { return r.consumes }
func (r *route) Produces() []string                               { return r.produces }
func (r *route) RequestPayloadSample() interface{}                { return r.body }
func (r *route) ResponsePayloadSample() interface{}               { return nil }
func (r *route) StatusCodeResponses() []common.StatusCodeResponse { return r.results }

// Metadata carries the extensions that tell a client which kind and verb an
// operation belongs to.
func (r *route) Metadata() map[string]interface{} {
	if r.action == "" {
		return nil
	}
	return map[string]interface{}{
		common.ExtensionPrefix + "action":             r.action,
		common.ExtensionPrefix + "group-version-kind": map[string]string{"group": r.gvk.Group, "version": r.gvk.Version, "kind": r.gvk.Kind},
	}
}

type response struct {
	code  int
	model any
}

func (r response) Code() int          { return r.code }
func (r response) Message() string    { return http.StatusText(r.code) }
func (r response) Model() interface{} { return r.model }

// answers lists one model under several status codes.
func answers(model any, codes ...int) []common.StatusCodeResponse {
	out := make([]common.StatusCodeResponse, len(codes))
	for i, c := range codes {
		out[i] = response{c, model}
	}
	return out
}

type parameter struct {
	name, description, dataType string
	kind                        common.ParameterKind
	required                    bool
}

func (p parameter) Name() string               { return p.name }
func (p parameter) Description() string        { return p.description }
func (p parameter) Required() bool             { return p.required }
func (p parameter) Kind() common.ParameterKind { return p.kind }
func (p parameter) DataType() string           { return p.dataType }
func (p parameter) AllowMultiple() bool        { return false }

func inPath(name, description string) common.Parameter {
	return parameter{name, description, "string", common.PathParameterKind, true}
}

func inQuery(name, dataType, description string) common.Parameter {
	return parameter{name, description, dataType, common.QueryParameterKind, false}
}

func inBody(required bool) common.Parameter {
	return parameter{"body", "", "", common.BodyParameterKind, required}
}

// title makes "AppsV1" of apps/v1, "CoreV1" of v1, "RbacAuthorization" of
// rbac.authorization.k8s.io with no version: the middle of operation ids.
func title(gv schema.GroupVersion) string {
	return upperFirst(groupTag(gv.Group)) + upperFirst(gv.Version)
}

// tag is the operations' tag: "apps_v1".
func tag(gv schema.GroupVersion) string {
	if gv.Version == "" {
		return groupTag(gv.Group)
	}
	return groupTag(gv.Group) + "_" + gv.Version
}

// groupTag joins the labels of a group's name but its k8s.io suffix.
func groupTag(group string) string {
	if group == "" {
		return "core"
	}
	labels := strings.Split(strings.TrimSuffix(group, ".k8s.io"), ".")
	for i := range labels[1:] {
		labels[i+1] = upperFirst(labels[i+1])
	}
	return strings.Join(labels, "")
}

func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// article is a noun with its indefinite article: "a Pod", "an Ingress", none
// before a plural such as Endpoints.
func article(noun string) string {
	switch {
	case strings.HasSuffix(noun, "s") && !strings.HasSuffix(noun, "ss"):
		return noun
	case strings.ContainsRune("aeiouAEIOU", rune(noun[0])):
		return "an " + noun
	}
	return "a " + noun
}
