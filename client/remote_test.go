package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func remoteTo(t *testing.T, h http.HandlerFunc) Interface {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := Remote(&rest.Config{Host: srv.URL + "/prefix/"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a request becomes on the wire.
func TestRemoteRequests(t *testing.T) {
	crd := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}
	for _, tc := range []struct {
		name, want, body string
		req              Request
	}{
		{"get", "GET /prefix/api/v1/namespaces/n/pods/p", "", Request{Verb: Get, Resource: Pods.GroupVersionResource, Namespace: "n", Name: "p"}},
		{"escaped", "GET /prefix/api/v1/namespaces/n/pods/..%2Fsecrets%2Fs", "", Request{Verb: Get, Resource: Pods.GroupVersionResource, Namespace: "n", Name: "../secrets/s"}},
		{"list", "GET /prefix/apis/apps/v1/deployments?continue=c&fieldSelector=metadata.name%3Dx&labelSelector=a%3Db&limit=5&resourceVersion=0", "",
			Request{Verb: List, Resource: Deployments.GroupVersionResource, Options: Options{
				Limit: 5, Continue: "c", ResourceVersion: "0", LabelSelector: labels.SelectorFromSet(labels.Set{"a": "b"}), FieldSelector: fields.OneTermEqualSelector("metadata.name", "x"),
			}}},
		{"create", "POST /prefix/api/v1/namespaces/n/pods?dryRun=All&fieldManager=m&fieldValidation=Strict", "application/vnd.kubernetes.protobuf",
			Request{Verb: Create, Resource: Pods.GroupVersionResource, Namespace: "n", Name: "p", Object: &corev1.Pod{}, Options: Options{DryRun: true, FieldManager: "m", FieldValidation: "Strict"}}},
		{"subresource", "POST /prefix/api/v1/namespaces/n/pods/p/eviction", "application/vnd.kubernetes.protobuf",
			Request{Verb: Create, Resource: Pods.GroupVersionResource, Namespace: "n", Name: "p", Subresource: "eviction", Object: &policyv1.Eviction{}}},
		{"status", "PUT /prefix/api/v1/nodes/x/status", "application/vnd.kubernetes.protobuf",
			Request{Verb: Update, Resource: Nodes.GroupVersionResource, Name: "x", Subresource: "status", Object: &corev1.Node{}}},
		{"apply", "PATCH /prefix/api/v1/nodes/x?fieldManager=m&force=true", "application/apply-patch+yaml",
			Request{Verb: Patch, Resource: Nodes.GroupVersionResource, Name: "x", PatchType: types.ApplyYAMLPatchType, Patch: []byte("{}"), Options: Options{FieldManager: "m", Force: true}}},
		{"delete", "DELETE /prefix/api/v1/nodes/x", "application/json",
			Request{Verb: Delete, Resource: Nodes.GroupVersionResource, Name: "x", Options: Options{GracePeriodSeconds: ptr.To[int64](0)}}},
		{"custom", "POST /prefix/apis/example.com/v1/namespaces/n/things", "application/json",
			Request{Verb: Create, Resource: crd, Namespace: "n", Object: &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Thing"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got, media string
			c := remoteTo(t, func(w http.ResponseWriter, r *http.Request) {
				got, media = r.Method+" "+r.RequestURI, r.Header.Get("Content-Type")
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}`)
			})
			if _, err := c.Do(t.Context(), &tc.req); err != nil {
				t.Fatal(err)
			}
			if got != tc.want || media != tc.body {
				t.Errorf("sent %s (%s)\nwant %s (%s)", got, media, tc.want, tc.body)
			}
		})
	}
}

// A status is an error with its reason; anything else becomes one.
func TestRemoteErrors(t *testing.T) {
	for _, tc := range []struct {
		name, media, body string
		code              int
		is                func(error) bool
	}{
		{"status", "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","code":409,"message":"no"}`, 409, apierrors.IsConflict},
		{"text", "text/plain", "nothing here", 404, apierrors.IsNotFound},
		{"no body", "", "", 403, apierrors.IsForbidden},
		{"protobuf", "application/vnd.kubernetes.protobuf", protoStatus(t), 410, apierrors.IsResourceExpired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := remoteTo(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.media)
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			})
			for _, call := range []func() error{
				func() error { _, err := Pods.In(c, "n").Get(t.Context(), "p"); return err },
				func() error { _, err := Pods.In(c, "n").Watch(t.Context(), Options{}); return err },
			} {
				if err := call(); !tc.is(err) {
					t.Errorf("error %#v", err)
				}
			}
		})
	}
}

func protoStatus(t *testing.T) string {
	t.Helper()
	st := apierrors.NewResourceExpired("too old").Status()
	st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	data, err := runtime.Encode(info.Serializer, &st)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A request that the server puts off is sent again, body and all.
func TestRemoteIsPutOff(t *testing.T) {
	var calls atomic.Int32
	c := remoteTo(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if calls.Add(1) == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	})
	res, err := c.Do(t.Context(), &Request{Verb: Create, Resource: Pods.GroupVersionResource, Namespace: "n", Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}})
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := res.Object.(*corev1.Pod); !ok || p.Name != "p" || !res.Created || calls.Load() != 2 {
		t.Errorf("got %+v after %d calls", res, calls.Load())
	}
}

// A context's end ends the wait for a server that puts a request off.
func TestRemoteStopsWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := remoteTo(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		cancel()
	})
	if _, err := Pods.In(c, "n").Get(ctx, "p"); err == nil {
		t.Error("no error")
	}
}

// How long an informer's watch lasts is the server's to say: many short ones
// would wake a node at rest.
func TestInformersWatchLong(t *testing.T) {
	asked := make(chan string, 10)
	c := remoteTo(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "true" {
			asked <- r.URL.Query().Get("timeoutSeconds")
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	i := NewInformers(c)
	InformerFor(i, ConfigMaps)
	i.Start(ctx)
	if got := <-asked; got != "" {
		t.Errorf("the watch is to last %s s, want as long as the server likes", got)
	}
}
