package apiserver

import (
	"context"

	"github.com/coxswain/cox/client"
)

// Inside is the local door for the server's own parts, above all admission,
// under a user who may read everything. What they look up in the state at hand
// (resourceVersion 0) while a request is carried out is part of that request:
// it waits for no turn of its own, and is not authorized, recorded or counted.
// All else goes through the local door.
func (s *Server) Inside(user client.User) client.Interface {
	return client.As(&inside{door{s}}, user)
}

type inside struct{ door }

// Do carries out a request. See client.Interface.
func (d *inside) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	o := &req.Options
	read := req.Verb == client.Get || req.Verb == client.List
	if !read || req.Subresource != "" || o.ResourceVersion != "0" || o.ResourceVersionMatch != "" || d.s.isElsewhere(req) {
		return d.door.Do(ctx, req)
	}
	c, err := d.s.newCall(req)
	if err != nil || c.res.store == nil {
		return d.door.Do(ctx, req)
	}
	var ans *answer
	if req.Verb == client.Get {
		ans, err = c.get(ctx)
	} else {
		ans, err = c.list(ctx)
	}
	if err != nil {
		return nil, apiError(err)
	}
	return c.result(ans)
}
