package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	restwatch "k8s.io/client-go/rest/watch"
)

const (
	mediaProtobuf = runtime.ContentTypeProtobuf
	mediaJSON     = runtime.ContentTypeJSON

	// throttledTries bounds how often a request that the server refuses for
	// now (429, 503 with Retry-After) is sent again before the caller gets
	// the error.
	throttledTries = 10
	// maxErrorBody bounds what is read of an answer that is not a Status.
	maxErrorBody = 64 << 10
)

// Remote returns a door to an API server elsewhere: HTTPS as cfg says, with
// protobuf for the kinds that k8s.io/api knows and JSON for all others. A
// request's User is ignored, the credentials in cfg count. Errors are
// *apierrors.StatusError when the server answered. A request that the server
// puts off is sent again when it says so.
func Remote(cfg *rest.Config) (Interface, error) {
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", cfg.Host, err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("API server address %q: %w", cfg.Host, err)
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	return &remote{base: base, http: hc}, nil
}

// Via returns a door to an API server that a transport leads to, whatever the
// requests' host; the transport knows the user. It is Remote otherwise.
func Via(transport http.RoundTripper) Interface {
	return &remote{base: &url.URL{Scheme: "https", Host: "apiserver"}, http: &http.Client{Transport: transport}}
}

type remote struct {
	base *url.URL
	http *http.Client
}

// Do carries out every verb but watch.
func (r *remote) Do(ctx context.Context, req *Request) (*Result, error) {
	body, contentType, err := encodeBody(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: encoding the body: %w", req.Verb, req.Resource.Resource, err)
	}
	resp, err := r.send(ctx, req, body, contentType)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", req.Verb, req.Resource.Resource, err)
	}
	obj, err := decode(data, resp.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("%s %s: decoding the answer: %w", req.Verb, req.Resource.Resource, err)
	}
	res := &Result{Created: resp.StatusCode == http.StatusCreated}
	warnings, _ := utilnet.ParseWarningHeaders(resp.Header["Warning"])
	for _, w := range warnings {
		res.Warnings = append(res.Warnings, w.Text)
	}
	if req.Verb == List {
		res.List, err = items(obj)
		return res, err
	}
	res.Object = obj
	if req.Verb == Delete {
		_, done := obj.(*metav1.Status)
		res.Pending = !done || resp.StatusCode == http.StatusAccepted
	}
	return res, nil
}

// Watch opens a watch.
func (r *remote) Watch(ctx context.Context, req *Request) (watch.Interface, error) {
	req.Verb = Watch
	ctx, cancel := context.WithCancel(ctx)
	resp, err := r.send(ctx, req, nil, "")
	if err != nil {
		cancel()
		return nil, err
	}
	media := mediaType(resp.Header.Get("Content-Type"))
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	if !ok || info.StreamSerializer == nil {
		cancel()
		resp.Body.Close()
		return nil, fmt.Errorf("watch %s: the server answers in %q, which cannot be streamed", req.Resource.Resource, media)
	}
	frames := info.StreamSerializer.Framer.NewFrameReader(resp.Body)
	events := restwatch.NewDecoder(streaming.NewDecoder(frames, info.StreamSerializer.Serializer), anyDecoder{})
	return &remoteWatch{
		Interface: watch.NewStreamWatcher(events, apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "ClientWatchDecoding")),
		cancel:    cancel,
	}, nil
}

// remoteWatch ends the request with the watch.
type remoteWatch struct {
	watch.Interface
	cancel context.CancelFunc
}

func (w *remoteWatch) Stop() {
	w.cancel()
	w.Interface.Stop()
}

// send sends the request until the server takes or refuses it for good, and
// returns an answer of success or the error that it stands for.
func (r *remote) send(ctx context.Context, req *Request, body []byte, contentType string) (*http.Response, error) {
	target := r.url(req)
	for try := 1; ; try++ {
		hr, err := http.NewRequestWithContext(ctx, method(req), target, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body == nil {
			hr.Body, hr.GetBody = nil, nil
		} else {
			hr.Header.Set("Content-Type", contentType)
		}
		hr.Header.Set("Accept", accept(req))
		resp, err := r.http.Do(hr)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", req.Verb, req.Resource.Resource, err)
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		wait, again := retryAfter(resp)
		err = statusError(req, resp)
		if !again || try == throttledTries {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return 0, false
	}
	s, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	return time.Duration(s) * time.Second, err == nil
}

// statusError makes the error of an answer that is not a success.
func statusError(req *Request, resp *http.Response) error {
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if obj, err := decode(data, resp.Header.Get("Content-Type")); err == nil {
		if st, ok := obj.(*metav1.Status); ok && st.Status != metav1.StatusSuccess {
			return &apierrors.StatusError{ErrStatus: *st}
		}
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(resp.StatusCode, method(req),
		req.Resource.GroupResource(), req.Name, strings.TrimSpace(string(data)), seconds, true)
}

func method(req *Request) string {
	switch req.Verb {
	case Create:
		return http.MethodPost
	case Update:
		return http.MethodPut
	case Patch:
		return http.MethodPatch
	case Delete, DeleteCollection:
		return http.MethodDelete
	}
	return http.MethodGet
}

func accept(req *Request) string {
	if scheme.Scheme.IsVersionRegistered(req.Resource.GroupVersion()) {
		return mediaProtobuf + "," + mediaJSON
	}
	return mediaJSON
}

// url is the request's address with its options.
func (r *remote) url(req *Request) string {
	var p strings.Builder
	segment := func(s string) {
		p.WriteByte('/')
		p.WriteString(url.PathEscape(s))
	}
	p.WriteString(r.base.EscapedPath())
	if req.Resource.Group == "" {
		segment("api")
	} else {
		segment("apis")
		segment(req.Resource.Group)
	}
	segment(req.Resource.Version)
	if req.Namespace != "" {
		segment("namespaces")
		segment(req.Namespace)
	}
	segment(req.Resource.Resource)
	// A new object has no address yet, but a subresource is posted to its
	// object's.
	if req.Name != "" && (req.Verb != Create || req.Subresource != "") {
		segment(req.Name)
	}
	if req.Subresource != "" {
		segment(req.Subresource)
	}
	u := r.base.Scheme + "://" + r.base.Host + p.String()
	if q := query(req).Encode(); q != "" {
		u += "?" + q
	}
	return u
}

func query(req *Request) url.Values {
	q, o := url.Values{}, &req.Options
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	switch req.Verb {
	case Get:
		set("resourceVersion", o.ResourceVersion)
	case List, Watch, DeleteCollection:
		set("resourceVersion", o.ResourceVersion)
		set("resourceVersionMatch", string(o.ResourceVersionMatch))
		if o.LabelSelector != nil {
			set("labelSelector", o.LabelSelector.String())
		}
		if o.FieldSelector != nil {
			set("fieldSelector", o.FieldSelector.String())
		}
		if o.Limit > 0 {
			set("limit", strconv.FormatInt(o.Limit, 10))
		}
		set("continue", o.Continue)
		if o.TimeoutSeconds != nil {
			set("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
		}
		if o.SendInitialEvents != nil {
			set("sendInitialEvents", strconv.FormatBool(*o.SendInitialEvents))
		}
		if req.Verb == Watch {
			q.Set("watch", "true")
			if o.AllowWatchBookmarks {
				q.Set("allowWatchBookmarks", "true")
			}
		}
	case Create, Update, Patch:
		if o.DryRun {
			q.Set("dryRun", metav1.DryRunAll)
		}
		set("fieldManager", o.FieldManager)
		set("fieldValidation", o.FieldValidation)
		if o.Force {
			q.Set("force", "true")
		}
	}
	for key, values := range o.Query {
		q[key] = values
	}
	return q
}

// encodeBody returns a request's body and its media type; nil for none.
func encodeBody(req *Request) ([]byte, string, error) {
	switch req.Verb {
	case Create, Update:
		return encode(req.Object)
	case Patch:
		return req.Patch, string(req.PatchType), nil
	case Delete, DeleteCollection:
		return encodeDeleteOptions(&req.Options)
	}
	return nil, "", nil
}

func encodeDeleteOptions(o *Options) ([]byte, string, error) {
	d := metav1.DeleteOptions{
		TypeMeta:           metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		GracePeriodSeconds: o.GracePeriodSeconds, Preconditions: o.Preconditions, PropagationPolicy: o.PropagationPolicy,
		OrphanDependents: o.OrphanDependents, //nolint:staticcheck // still part of the API
	}
	if o.DryRun {
		d.DryRun = []string{metav1.DryRunAll}
	}
	data, err := json.Marshal(&d)
	return data, mediaJSON, err
}

func encode(obj runtime.Object) ([]byte, string, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		data, err := u.MarshalJSON()
		return data, mediaJSON, err
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, "", err
	}
	// The body was transferred to us, so that its kind may be filled in.
	if obj.GetObjectKind().GroupVersionKind().Empty() {
		obj.GetObjectKind().SetGroupVersionKind(kinds[0])
	}
	media := mediaProtobuf
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	if !ok {
		return nil, "", fmt.Errorf("no serializer for %s", media)
	}
	var b bytes.Buffer
	if err := info.Serializer.Encode(obj, &b); err != nil {
		return nil, "", err
	}
	return b.Bytes(), media, nil
}

// items takes a typed or unstructured list apart into objects of their own,
// so that keeping one does not keep them all.
func items(obj runtime.Object) (*ListResult, error) {
	l, err := meta.ListAccessor(obj)
	if err != nil {
		return nil, fmt.Errorf("list: got %T, which is no list", obj)
	}
	out := &ListResult{ResourceVersion: l.GetResourceVersion(), Continue: l.GetContinue(), RemainingItemCount: l.GetRemainingItemCount()}
	if n := meta.LenList(obj); n > 0 {
		out.Items = make([]runtime.Object, 0, n)
	}
	err = meta.EachListItemWithAlloc(obj, func(o runtime.Object) error {
		out.Items = append(out.Items, o)
		return nil
	})
	return out, err
}

func mediaType(contentType string) string {
	if i := strings.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	if contentType = strings.TrimSpace(contentType); contentType == "" {
		return mediaJSON
	}
	return contentType
}

// decode makes an object of an answer: typed where the scheme knows its
// kind, else unstructured.
func decode(data []byte, contentType string) (runtime.Object, error) {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType(contentType))
	if !ok {
		return nil, fmt.Errorf("media type %q", contentType)
	}
	obj, _, err := info.Serializer.Decode(data, nil, nil)
	if runtime.IsNotRegisteredError(err) && info.EncodesAsText {
		obj, _, err = unstructured.UnstructuredJSONScheme.Decode(data, nil, nil)
	}
	return obj, err
}

// anyDecoder decodes the objects inside watch events, whose frames do not
// name a media type: the serializers recognize their own.
type anyDecoder struct{}

func (anyDecoder) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := scheme.Codecs.UniversalDeserializer().Decode(data, gvk, into)
	if runtime.IsNotRegisteredError(err) {
		return unstructured.UnstructuredJSONScheme.Decode(data, gvk, into)
	}
	return obj, kind, err
}
