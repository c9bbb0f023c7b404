package apiserver

import (
	"net/http"
	"slices"
	"strings"

	"github.com/coxswain/cox/client"
)

// routed says what is wrong with the path or the method of a request for a
// built-in kind: a 404 where no path leads, a 405 where one does that knows
// other methods; nil for none. As upstream, only those learn of it who may ask.
func (c *call) routed(t *target, method string) error {
	switch exists, known := c.routes(t, method); {
	case !exists:
		return plainly(http.StatusNotFound, "")
	case !known:
		return noMethod()
	}
	return nil
}

// routes says whether a path of a built-in kind leads somewhere, and whether it
// knows the method.
func (c *call) routes(t *target, method string) (exists, known bool) {
	scoped := c.res.Namespaced == (t.namespace != "")
	switch {
	case c.sub != nil && (!scoped || t.watch):
		return false, false
	case c.sub != nil && c.sub.Connect != nil && c.sub.Connect.Path:
		return true, connects(c.sub.Connect.Methods, method)
	case strings.Trim(t.rest, "/") != "":
		return false, false
	case t.watch:
		exists = c.res.verbs[client.Watch] && (scoped || t.namespace == "" && t.name == "")
		return exists, method == http.MethodGet
	case c.sub != nil:
		return true, c.subKnows(method)
	case !scoped:
		// Namespaced objects are listed across namespaces, and otherwise only
		// reached through theirs.
		if c.res.Namespaced && t.name == "" {
			return c.serves(method, client.List)
		}
		return false, false
	case t.name == "":
		return c.serves(method, client.List, client.Create, client.DeleteCollection)
	}
	return c.serves(method, client.Get, client.Update, client.Patch, client.Delete)
}

// serves says whether the kind has one of the verbs, and the method's.
func (c *call) serves(method string, verbs ...client.Verb) (exists, known bool) {
	for _, v := range verbs {
		if c.res.verbs[v] {
			exists = true
			known = known || methodOf(v) == method
		}
	}
	return exists, known
}

func (c *call) subKnows(method string) bool {
	switch {
	case c.sub.Connect != nil:
		return connects(c.sub.Connect.Methods, method)
	case c.sub.Action != nil:
		return method == http.MethodPost
	case c.sub.Verbs == nil:
		return method == http.MethodGet || method == http.MethodPut || method == http.MethodPatch
	}
	for _, v := range c.sub.Verbs {
		if methodOf(client.Verb(v)) == method {
			return true
		}
	}
	return false
}

// connects says whether a stream is opened by a method.
func connects(methods []string, method string) bool {
	return len(methods) == 0 || slices.Contains(methods, method)
}

// methodOf is the HTTP method that a verb is asked by.
func methodOf(v client.Verb) string {
	switch v {
	case client.Get, client.List:
		return http.MethodGet
	case client.Create:
		return http.MethodPost
	case client.Update:
		return http.MethodPut
	case client.Patch:
		return http.MethodPatch
	case client.Delete, client.DeleteCollection:
		return http.MethodDelete
	}
	return ""
}
