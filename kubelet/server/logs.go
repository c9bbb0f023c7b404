package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/logs"
)

// containerLogs streams a container's log. The parameters are those of the
// API's PodLogOptions.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	opts, err := logOptions(q, time.Now())
	if err != nil {
		refuse(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	if _, ok := s.cfg.Node.Pod(namespace, pod, ""); !ok {
		refuse(w, fmt.Sprintf("pod %q does not exist", pod), http.StatusNotFound)
		return
	}
	previous, _ := strconv.ParseBool(q.Get("previous"))
	c, err := s.cfg.Node.Container(namespace, pod, "", container, previous)
	if err != nil {
		refuse(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if opts.Follow && c.Running {
		opts.Ended = s.ended(ctx, c.ID)
	} else {
		opts.Follow = false
	}
	// Headers go out with the first byte or the first pause; an error before
	// that can still be told.
	flush := http.NewResponseController(w)
	err = logs.Read(ctx, c.Log, opts, w, func() { _ = flush.Flush() })
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, os.ErrNotExist):
		refuse(w, fmt.Sprintf("the log of container %q in pod %q is gone", container, pod), http.StatusInternalServerError)
	default:
		s.log.Warn("cannot read a container's log", "pod", namespace+"/"+pod, "container", container, "err", err)
		refuse(w, err.Error(), http.StatusInternalServerError)
	}
}

func logOptions(q url.Values, now time.Time) (logs.Options, error) {
	var o logs.Options
	var err error
	flag := func(name string) (on bool) {
		if v := q.Get(name); v != "" && err == nil {
			if on, err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("%s: %q is not a boolean", name, v)
			}
		}
		return on
	}
	number := func(name string, least int64) *int64 {
		v := q.Get(name)
		if v == "" || err != nil {
			return nil
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil || n < least {
			err = fmt.Errorf("%s: %q is not a number of at least %d", name, v, least)
		}
		return &n
	}
	o.Follow, o.Timestamps = flag("follow"), flag("timestamps")
	o.Limit = number("limitBytes", 1)
	if v := q.Get("tailLines"); v != "" && v != "all" {
		o.Tail = number("tailLines", 0)
	} else if v := q.Get("tail"); v != "" && v != "all" {
		o.Tail = number("tail", 0)
	}
	if n := number("sinceSeconds", 1); n != nil {
		o.Since = now.Add(-time.Duration(*n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			err = fmt.Errorf("sinceTime: %q is not a time", v)
		}
	}
	switch v := q.Get("stream"); v {
	case "", "All":
	case "Stdout", "Stderr":
		o.Stream = strings.ToLower(v)
	default:
		return o, fmt.Errorf("stream: %q is none of All, Stdout, Stderr", v)
	}
	return o, err
}

// ended returns a channel that is closed once the container has ended, as the
// runtime's events say.
func (s *Server) ended(ctx context.Context, id string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s.awaitEnd(ctx, id) {
		}
	}()
	return done
}

// awaitEnd returns true when the stream of events broke and must be opened
// anew.
func (s *Server) awaitEnd(ctx context.Context, id string) (again bool) {
	events, err := s.cfg.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err == nil {
		// The stream's first sign of life comes with its first event, so ask
		// for the state after opening it and again whenever it breaks.
		if !s.isRunning(ctx, id) {
			return false
		}
		for err == nil {
			var e *runtimeapi.ContainerEventResponse
			if e, err = events.Recv(); err == nil && e.ContainerId == id &&
				(e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT || e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT) {
				return false
			}
		}
	}
	if ctx.Err() != nil {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second): // the runtime restarts
		return true
	}
}

// isRunning errs on the side of true when the runtime does not answer.
func (s *Server) isRunning(ctx context.Context, id string) bool {
	res, err := s.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	if err != nil {
		return true
	}
	for _, c := range res.Containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return true
		}
	}
	return false
}
