package apiserver

import (
	"context"
	"net/http"
	"strings"

	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/client"
)

// takeTurn waits until flow control lets the request be carried out. Watches
// take a turn for as long as they are being opened; streams into pods take
// none. The error is a 429.
func (c *call) takeTurn(ctx context.Context) error {
	f := c.srv.cfg.Flow
	if f == nil || c.sub != nil && c.sub.Connect != nil {
		return nil
	}
	req := c.req
	a := flow.Attributes{
		User: &req.User, Verb: string(req.Verb), Group: req.Resource.Group, Version: req.Resource.Version, Resource: req.Resource.Resource,
		Subresource: req.Subresource, Namespace: c.authNamespace(), Name: c.name, Seats: c.seats(),
	}
	var err error
	c.turn, err = f.Take(ctx, &a)
	if c.front != nil {
		tellTurn(c.front.header, &c.turn)
	}
	return err
}

// seats is how much of the server a request is thought to take.
func (c *call) seats() int {
	o := &c.req.Options
	lists := c.req.Verb == client.List || c.req.Verb == client.Watch && o.SendInitialEvents != nil && *o.SendInitialEvents
	if !lists || c.res.store == nil || c.name != "" {
		return 1
	}
	return flow.ListSeats(c.res.store.Count(), o.Limit)
}

// takePathTurn is takeTurn for a request that is not for a resource.
func (s *Server) takePathTurn(w http.ResponseWriter, r *http.Request, user *client.User) (flow.Turn, error) {
	if s.cfg.Flow == nil {
		return flow.Turn{}, nil
	}
	t, err := s.cfg.Flow.Take(r.Context(), &flow.Attributes{User: user, Verb: strings.ToLower(r.Method), Path: r.URL.Path})
	tellTurn(w.Header(), &t)
	return t, err
}

// tellTurn names what a request was classified as.
func tellTurn(h http.Header, t *flow.Turn) {
	schema, level := t.UIDs()
	if schema == nil {
		return
	}
	h["X-Kubernetes-Pf-Flowschema-Uid"], h["X-Kubernetes-Pf-Prioritylevel-Uid"] = schema, level
}
