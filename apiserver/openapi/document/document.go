// Package document builds the OpenAPI documents: the table of kinds and the
// schemas of their Go types go in, the v2 document and one v3 document per
// group version come out. It runs when the tree is generated, never in a
// server.
package document

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coxswain/cox/api"
)

// Set is every document, v3's under its path below /openapi/v3/.
type Set struct {
	V2 *spec.Swagger
	V3 map[string]*spec3.OpenAPI
}

// Build makes the documents of a table. definitions is what openapi-gen made
// of the packages of its types.
func Build(table *api.Table, definitions common.GetOpenAPIDefinitions) (*Set, error) {
	containers, err := routes(table)
	if err != nil {
		return nil, err
	}
	kinds := kindsByModel(table.Scheme)
	definitions = withoutElementDefaults(definitions)
	info := &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "unversioned"}}
	ids := func(r common.Route) (string, []string, error) {
		return r.OperationName(), []string{r.(*route).tag}, nil
	}
	token := &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}
	const unauthorized = "Unauthorized"

	out := &Set{V3: map[string]*spec3.OpenAPI{}}
	all := make([]common.RouteContainer, len(containers))
	for i, c := range containers {
		all[i] = c
		// The options types belong to every group version; a v3 document names
		// its own and that of the core.
		named := naming(kinds, func(gvk schema.GroupVersionKind) bool {
			return gvk.GroupVersion() == c.gv || gvk.GroupVersion() == schema.GroupVersion{Version: "v1"}
		})
		doc, err := builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{c}, &common.OpenAPIV3Config{
			Info: info, GetDefinitions: definitions, GetDefinitionName: named, GetOperationIDAndTagsFromRoute: ids,
			CommonResponses: map[int]*spec3.Response{http.StatusUnauthorized: {ResponseProps: spec3.ResponseProps{Description: unauthorized}}},
			SecuritySchemes: spec3.SecuritySchemes{"BearerToken": {SecuritySchemeProps: spec3.SecuritySchemeProps{
				Type: token.Type, Name: token.Name, In: token.In, Description: token.Description,
			}}},
		})
		if err != nil {
			return nil, fmt.Errorf("build the v3 document of %s: %w", c.root, err)
		}
		out.V3[c.root[1:]] = doc
	}
	out.V2, err = builder.BuildOpenAPISpecFromRoutes(all, &common.Config{
		ProtocolList: []string{"https"}, Info: info, GetDefinitions: definitions, GetOperationIDAndTagsFromRoute: ids,
		GetDefinitionName:   naming(kinds, func(schema.GroupVersionKind) bool { return true }),
		CommonResponses:     map[int]spec.Response{http.StatusUnauthorized: {ResponseProps: spec.ResponseProps{Description: unauthorized}}},
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": token},
		DefaultSecurity:     []map[string][]string{{"BearerToken": {}}},
	})
	if err != nil {
		return nil, fmt.Errorf("build the v2 document: %w", err)
	}
	pruneDefaults(out.V2.Definitions)
	return out, nil
}

// naming returns the function with which the builders name a model and list
// the kinds it stands for. Of a model of several kinds only those that wanted
// approves are listed.
func naming(kinds map[string][]schema.GroupVersionKind, wanted func(schema.GroupVersionKind) bool) func(string) (string, spec.Extensions) {
	return func(name string) (string, spec.Extensions) {
		var list []interface{}
		for _, g := range kinds[name] {
			if len(kinds[name]) == 1 || wanted(g) {
				list = append(list, map[string]interface{}{"group": g.Group, "version": g.Version, "kind": g.Kind})
			}
		}
		if list == nil {
			return name, nil
		}
		return name, spec.Extensions{common.ExtensionPrefix + "group-version-kind": list}
	}
}

// withoutElementDefaults clears the zero defaults that openapi-gen writes for
// the elements of lists and maps: upstream does not publish them.
func withoutElementDefaults(get common.GetOpenAPIDefinitions) common.GetOpenAPIDefinitions {
	clear := func(s *spec.Schema) *spec.Schema {
		if s.Items != nil && s.Items.Schema != nil {
			s.Items.Schema.Default = nil
		}
		if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
			s.AdditionalProperties.Schema.Default = nil
		}
		return s
	}
	return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		w := schemamutation.Walker{SchemaCallback: clear, RefCallback: schemamutation.RefCallbackNoop}
		all := get(ref)
		for name, d := range all {
			d.Schema = *w.WalkSchema(&d.Schema)
			all[name] = d
		}
		return all
	}
}

// pruneDefaults removes the defaults from the v2 schemas: they are a matter of
// v3, v2's clients do not expect them.
func pruneDefaults(definitions spec.Definitions) {
	w := schemamutation.Walker{
		SchemaCallback: func(s *spec.Schema) *spec.Schema {
			if s.Default == nil {
				return s
			}
			without := *s
			without.Default = nil
			return &without
		},
		RefCallback: schemamutation.RefCallbackNoop,
	}
	for name, s := range definitions {
		definitions[name] = *w.WalkSchema(&s)
	}
}

// kindsByModel maps a type's model name to the kinds it is registered as.
func kindsByModel(s *runtime.Scheme) map[string][]schema.GroupVersionKind {
	out := map[string][]schema.GroupVersionKind{}
	for gvk, t := range s.AllKnownTypes() {
		// Options beside DeleteOptions are query parameters: upstream names no
		// kind for them. Neither do lists of meta.k8s.io.
		if gvk.Version == runtime.APIVersionInternal || gvk.Group == metav1.GroupName {
			continue
		}
		name := util.GetCanonicalTypeName(reflect.New(t).Elem().Interface())
		out[name] = append(out[name], gvk)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b schema.GroupVersionKind) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version))
		})
	}
	return out
}

// value turns the pointer that rows make into the value whose type names the
// model.
func value(obj runtime.Object) any { return reflect.ValueOf(obj).Elem().Interface() }

// routes lists every document's operations, in a stable order.
func routes(table *api.Table) ([]*container, error) {
	byRoot := map[string]*container{}
	at := func(root string, gv schema.GroupVersion) *container {
		c := byRoot[root]
		if c == nil {
			c = &container{root: root, gv: gv}
			byRoot[root] = c
		}
		return c
	}
	get := func(gv schema.GroupVersion, root, id, tag, description string, produces []string, model any) {
		op := &route{method: "GET", path: root + "/", id: id, tag: tag, description: description, consumes: produces, produces: produces}
		op.results = answers(model, http.StatusOK)
		at(root, gv).add(op)
	}
	get(schema.GroupVersion{}, "/api", "getCoreAPIVersions", "core", "get available API versions", bodyMedia, metav1.APIVersions{})
	get(schema.GroupVersion{}, "/apis", "getAPIVersions", "apis", "get available API versions", bodyMedia, metav1.APIGroupList{})
	get(schema.GroupVersion{}, "/version", "getCodeVersion", "version", "get the version information for this server", bodyMedia[:1], version.Info{})
	// What others judge the tokens of service accounts by: text, to this document.
	text := func(root, id, tag, description, media string) {
		at(root, schema.GroupVersion{}).add(&route{
			method: "GET", path: root + "/", id: id, tag: tag, description: description, produces: []string{media}, results: answers("", http.StatusOK),
		})
	}
	text("/.well-known/openid-configuration", "getServiceAccountIssuerOpenIDConfiguration", "WellKnown",
		"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", "application/json")
	text("/openid/v1/jwks", "getServiceAccountIssuerOpenIDKeyset", "openid",
		"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", "application/jwk-set+json")
	seen := map[schema.GroupVersion]bool{}
	groups := map[string]bool{}
	for _, k := range table.Kinds {
		for i := range k.Views {
			v := &k.Views[i]
			gv := v.GroupVersion()
			root := "/apis/" + gv.String()
			if gv.Group == "" {
				root = "/api/" + gv.Version
			} else if !groups[gv.Group] {
				groups[gv.Group] = true
				get(schema.GroupVersion{}, "/apis/"+gv.Group, "get"+title(schema.GroupVersion{Group: gv.Group})+"APIGroup", groupTag(gv.Group), "get information of a group", bodyMedia, metav1.APIGroup{})
			}
			if !seen[gv] {
				seen[gv] = true
				get(gv, root, "get"+title(gv)+"APIResources", tag(gv), "get available resources", bodyMedia, metav1.APIResourceList{})
			}
			(&resource{at(root, gv), api.Served{Kind: k, View: v}, gv, table.Scheme}).routes()
		}
	}
	out := make([]*container, 0, len(byRoot))
	for _, c := range byRoot {
		slices.SortFunc(c.routes, func(a, b common.Route) int {
			return cmp.Or(cmp.Compare(a.Path(), b.Path()), cmp.Compare(a.Method(), b.Method()))
		})
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *container) int { return cmp.Compare(a.root, b.root) })
	return out, nil
}
