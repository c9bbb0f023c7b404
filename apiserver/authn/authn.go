// Package authn finds out who makes an HTTP request: request in, user out.
package authn

import (
	"net/http"

	"github.com/coxswain/cox/client"
)

// Authenticator establishes the user of a request. It returns ok false when
// it has no opinion (no credential of its kind), and an error when there is a
// credential that is not valid: the request is then refused with 401. It is
// safe for concurrent use and never logs a credential.
type Authenticator interface {
	Authenticate(r *http.Request) (user client.User, ok bool, err error)
}

// Func adapts a function.
type Func func(r *http.Request) (client.User, bool, error)

// Authenticate calls f.
func (f Func) Authenticate(r *http.Request) (client.User, bool, error) { return f(r) }
