package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// step is one request of the suite. It makes its request anew for each door,
// since requests are transferred.
type step struct {
	name string
	req  func() *client.Request
	// want is a part of the error's text; "" wants success.
	want   string
	reason metav1.StatusReason
	check  func(t *testing.T, res *client.Result)
}

var (
	cms     = corev1.SchemeGroupVersion.WithResource("configmaps")
	pods    = corev1.SchemeGroupVersion.WithResource("pods")
	nss     = corev1.SchemeGroupVersion.WithResource("namespaces")
	deploys = appsv1.SchemeGroupVersion.WithResource("deployments")
)

func create(gvr schema.GroupVersionResource, ns string, obj func() runtime.Object, opt ...func(*client.Request)) func() *client.Request {
	return build(client.Create, gvr, ns, "", obj, opt)
}

func update(gvr schema.GroupVersionResource, ns, name string, obj func() runtime.Object, opt ...func(*client.Request)) func() *client.Request {
	return build(client.Update, gvr, ns, name, obj, opt)
}

func verb(v client.Verb, gvr schema.GroupVersionResource, ns, name string, opt ...func(*client.Request)) func() *client.Request {
	return build(v, gvr, ns, name, nil, opt)
}

func patching(pt types.PatchType, gvr schema.GroupVersionResource, ns, name, body string, opt ...func(*client.Request)) func() *client.Request {
	opt = append(opt, func(r *client.Request) { r.PatchType, r.Patch = pt, []byte(body) })
	return build(client.Patch, gvr, ns, name, nil, opt)
}

func build(v client.Verb, gvr schema.GroupVersionResource, ns, name string, obj func() runtime.Object, opt []func(*client.Request)) func() *client.Request {
	return func() *client.Request {
		r := &client.Request{Verb: v, Resource: gvr, Namespace: ns, Name: name}
		if obj != nil {
			r.Object = obj()
		}
		for _, o := range opt {
			o(r)
		}
		return r
	}
}

func sub(name string) func(*client.Request) { return func(r *client.Request) { r.Subresource = name } }

func opts(f func(*client.Options)) func(*client.Request) {
	return func(r *client.Request) { f(&r.Options) }
}

func cm(name string, change ...func(*corev1.ConfigMap)) func() runtime.Object {
	return func() runtime.Object {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}
		for _, f := range change {
			f(c)
		}
		return c
	}
}

func deployment(replicas int32) func() runtime.Object {
	return func() runtime.Object {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "i"}}}}}}
	}
}

func wantData(key, value string) func(*testing.T, *client.Result) {
	return func(t *testing.T, res *client.Result) {
		t.Helper()
		if got := res.Object.(*corev1.ConfigMap).Data[key]; got != value {
			t.Errorf("data[%s] = %q, want %q", key, got, value)
		}
	}
}

var stringMeta = opts(func(o *client.Options) { o.DryRun = true })

var suite = []step{
	{name: "create", req: create(cms, "a", cm("one")), check: func(t *testing.T, res *client.Result) {
		c := res.Object.(*corev1.ConfigMap)
		if !res.Created || c.UID == "" || c.ResourceVersion == "" || c.CreationTimestamp.IsZero() || len(c.ManagedFields) != 1 || c.Namespace != "a" {
			t.Errorf("created %v: %+v", res.Created, c)
		}
	}},
	{name: "create again", req: create(cms, "a", cm("one")), want: `configmaps "one" already exists`, reason: metav1.StatusReasonAlreadyExists},
	{name: "create with a bare finalizer", req: create(cms, "a", cm("fin", func(c *corev1.ConfigMap) { c.Finalizers = []string{"mine"} })), want: `ConfigMap "fin" is invalid: metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`, reason: metav1.StatusReasonInvalid},
	{name: "update to a bare finalizer", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.Finalizers = []string{"mine"} })), want: `ConfigMap "one" is invalid: metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`, reason: metav1.StatusReasonInvalid},
	{name: "create with a revision", req: create(cms, "a", cm("rv", func(c *corev1.ConfigMap) { c.ResourceVersion = "5" })), want: "resourceVersion should not be set on objects to be created"},
	{name: "create in another namespace", req: create(cms, "a", cm("x", func(c *corev1.ConfigMap) { c.Namespace = "b" })), want: "the namespace of the provided object does not match the namespace sent on the request", reason: metav1.StatusReasonBadRequest},
	{name: "create without a name", req: create(cms, "a", cm("")), want: `metadata.name: Required value: name or generateName is required`, reason: metav1.StatusReasonInvalid},
	{name: "create with a bad name", req: create(cms, "a", cm("Bad_Name")), want: `ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain`, reason: metav1.StatusReasonInvalid},
	{name: "create what strategy refuses", req: create(cms, "a", cm("i", func(c *corev1.ConfigMap) { c.Data["invalid"] = "x" })), want: `ConfigMap "i" is invalid: data[invalid]: Invalid value: "x": is not wanted`, reason: metav1.StatusReasonInvalid},
	{name: "create vetoed", req: create(cms, "a", cm("v", func(c *corev1.ConfigMap) { c.Labels = map[string]string{"veto": "1"} })), want: `configmaps "v" is forbidden: vetoed`, reason: metav1.StatusReasonForbidden},
	{name: "create mutated", req: create(cms, "a", cm("m", func(c *corev1.ConfigMap) { c.Labels = map[string]string{"mutate": "1"} })), check: func(t *testing.T, res *client.Result) {
		if res.Object.(*corev1.ConfigMap).Labels["mutated"] != "yes" {
			t.Error("not mutated")
		}
	}},
	{name: "create with a warning", req: create(cms, "a", cm("w", func(c *corev1.ConfigMap) { c.Labels = map[string]string{"warn": "1"} })), check: func(t *testing.T, res *client.Result) {
		if len(res.Warnings) != 1 || res.Warnings[0] != "a warning" {
			t.Error(res.Warnings)
		}
	}},
	{name: "create dry", req: create(cms, "a", cm("dry"), stringMeta), check: func(t *testing.T, res *client.Result) {
		if c := res.Object.(*corev1.ConfigMap); c.ResourceVersion != "" || c.UID == "" {
			t.Errorf("%+v", c)
		}
	}},
	{name: "get dry", req: verb(client.Get, cms, "a", "dry"), want: `configmaps "dry" not found`, reason: metav1.StatusReasonNotFound},
	{name: "create generated", req: create(cms, "a", func() runtime.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "gen-"}}
	}), check: func(t *testing.T, res *client.Result) {
		if !regexp.MustCompile(`^gen-[a-z0-9]{5}$`).MatchString(res.Object.(*corev1.ConfigMap).Name) {
			t.Error(res.Object.(*corev1.ConfigMap).Name)
		}
	}},
	{name: "get", req: verb(client.Get, cms, "a", "one"), check: wantData("k", "v")},
	{name: "get forbidden", req: verb(client.Get, cms, "forbidden", "one"), want: `configmaps "one" is forbidden: User "tester" cannot get resource "configmaps" in API group "" in the namespace "forbidden": no rights here`, reason: metav1.StatusReasonForbidden},
	{name: "list forbidden", req: verb(client.List, cms, "forbidden", ""), want: `configmaps is forbidden: User "tester" cannot list resource "configmaps" in API group "" in the namespace "forbidden": no rights here`, reason: metav1.StatusReasonForbidden},

	{name: "update", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.Data["k"] = "2" })), check: wantData("k", "2")},
	{name: "update unchanged", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.Data["k"] = "2" })), check: wantData("k", "2")},
	{name: "update with an old revision", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.ResourceVersion = "1" })), want: `Operation cannot be fulfilled on configmaps "one": the object has been modified; please apply your changes to the latest version and try again`, reason: metav1.StatusReasonConflict},
	{name: "update with another uid", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.UID = "other" })), want: `Precondition failed: UID in precondition: other, UID in object meta: `, reason: metav1.StatusReasonConflict},
	{name: "update with a revision that is none", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.ResourceVersion = "-5" })), want: `strconv.ParseUint: parsing "-5": invalid syntax`},
	{name: "update of what is the server's", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) {
		c.Data["k"], c.CreationTimestamp, c.SelfLink, c.Generation = "2", metav1.Unix(1, 0), "x", 7
	})), check: func(t *testing.T, res *client.Result) {
		if c := res.Object.(*corev1.ConfigMap); c.CreationTimestamp.Year() < 2000 || c.SelfLink != "" || c.Generation != 0 {
			t.Errorf("%+v", c)
		}
	}},
	{name: "update to one being deleted", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.DeletionGracePeriodSeconds = ptr.To[int64](5) })), want: `ConfigMap "one" is invalid: metadata.deletionGracePeriodSeconds: Invalid value: 5: field is immutable`, reason: metav1.StatusReasonInvalid},
	{name: "patch of the uid", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":{"uid":"x"}}`), want: `ConfigMap "one" is invalid: metadata.uid: Invalid value: "x": field is immutable`, reason: metav1.StatusReasonInvalid},
	{name: "patch to no revision", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":{"resourceVersion":null}}`), check: wantData("k", "2")},
	{name: "update absent", req: update(cms, "a", "none", cm("none")), want: `configmaps "none" not found`, reason: metav1.StatusReasonNotFound},
	{name: "update under another name", req: update(cms, "a", "one", cm("two")), want: `the name of the object (two) does not match the name on the URL (one)`, reason: metav1.StatusReasonBadRequest},
	{name: "update dry", req: update(cms, "a", "one", cm("one", func(c *corev1.ConfigMap) { c.Data["k"] = "dry" }), stringMeta), check: wantData("k", "dry")},
	{name: "get after dry update", req: verb(client.Get, cms, "a", "one"), check: wantData("k", "2")},

	{name: "merge patch", req: patching(types.MergePatchType, cms, "a", "one", `{"data":{"k":null,"l":"3"}}`), check: wantData("l", "3")},
	{name: "merge patch with an old revision", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":{"resourceVersion":"1"}}`), want: "the object has been modified", reason: metav1.StatusReasonConflict},
	{name: "json patch", req: patching(types.JSONPatchType, cms, "a", "one", `[{"op":"test","path":"/kind","value":"ConfigMap"},{"op":"add","path":"/data/m","value":"4"}]`), check: wantData("m", "4")},
	{name: "json patch that fails", req: patching(types.JSONPatchType, cms, "a", "one", `[{"op":"remove","path":"/data/none"}]`), want: "the server rejected our request due to an error in our request", reason: metav1.StatusReasonInvalid},
	{name: "broken json patch", req: patching(types.JSONPatchType, cms, "a", "one", `{`), want: "unexpected end of JSON input", reason: metav1.StatusReasonBadRequest},
	{name: "strategic patch", req: patching(types.StrategicMergePatchType, cms, "a", "one", `{"metadata":{"finalizers":["x/a"]},"data":{"n":"5"}}`), check: wantData("n", "5")},
	{name: "strategic patch merges a list", req: patching(types.StrategicMergePatchType, cms, "a", "one", `{"metadata":{"finalizers":["x/b"]}}`), check: func(t *testing.T, res *client.Result) {
		if f := res.Object.(*corev1.ConfigMap).Finalizers; fmt.Sprint(f) != "[x/b x/a]" {
			t.Error(f)
		}
	}},
	{name: "patch with a field that is not there", req: patching(types.MergePatchType, cms, "a", "one", `{"dat":{"n":"5"}}`, opts(func(o *client.Options) { o.FieldValidation = "Strict" })), want: `strict decoding error: unknown field "dat"`, reason: metav1.StatusReasonInvalid},
	{name: "patch of another kind", req: patching(types.MergePatchType, cms, "a", "one", `{"kind":"Secret"}`), want: `no kind "Secret" is registered for version "v1"`, reason: metav1.StatusReasonInvalid},
	{name: "patch by nothing", req: patching(types.MergePatchType, cms, "a", "one", `null`), want: `Invalid JSON Patch`, reason: metav1.StatusReasonBadRequest},
	{name: "patch that takes the name", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":null}`), want: `the name of the object (one based on URL) was undeterminable: name must be provided`, reason: metav1.StatusReasonBadRequest},
	{name: "patch with a warning", req: patching(types.MergePatchType, cms, "a", "one", `{"dat":{"n":"5"}}`), check: func(t *testing.T, res *client.Result) {
		if len(res.Warnings) != 1 || res.Warnings[0] != `unknown field "dat"` {
			t.Error(res.Warnings)
		}
	}},
	{name: "patch absent", req: patching(types.MergePatchType, cms, "a", "none", `{}`), want: `configmaps "none" not found`, reason: metav1.StatusReasonNotFound},

	{name: "apply creates", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: b}\n", opts(func(o *client.Options) { o.FieldManager = "me" })), check: func(t *testing.T, res *client.Result) {
		c := res.Object.(*corev1.ConfigMap)
		if !res.Created || c.Data["a"] != "b" || len(c.ManagedFields) != 1 || c.ManagedFields[0].Manager != "me" || c.ManagedFields[0].Operation != "Apply" {
			t.Errorf("%v %+v", res.Created, c)
		}
	}},
	{name: "apply conflicts", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: c}\n", opts(func(o *client.Options) { o.FieldManager = "you" })), want: `Apply failed with 1 conflict: conflict with "me": .data.a`, reason: metav1.StatusReasonConflict},
	{name: "apply forced", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: c}\n", opts(func(o *client.Options) { o.FieldManager, o.Force = "you", true })), check: wantData("a", "c")},
	{name: "apply drops what was mine", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {z: c}\n", opts(func(o *client.Options) { o.FieldManager, o.Force = "you", true })), check: wantData("a", "")},
	{name: "apply without a manager", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n"), want: `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`, reason: metav1.StatusReasonInvalid},
	{name: "apply of an uid", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app, uid: x}\n", opts(func(o *client.Options) { o.FieldManager = "me" })), want: `metadata.uid: Invalid value: "x": field is immutable`, reason: metav1.StatusReasonInvalid},
	{name: "apply of a list", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "[]", opts(func(o *client.Options) { o.FieldManager = "me" })), want: `error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}`, reason: metav1.StatusReasonBadRequest},
	{name: "apply of bytes that are none", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\nbinaryData: {a: '%'}", opts(func(o *client.Options) { o.FieldManager = "me" })), want: `to proper version: unable to convert unstructured object to /v1, Kind=ConfigMap: error decoding from json: illegal base64 data at input byte 0`},
	{name: "apply of one field twice", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"app"},"data":{"z":"b","z":"c"}}`, opts(func(o *client.Options) { o.FieldManager = "you" })), check: func(t *testing.T, res *client.Result) {
		if len(res.Warnings) != 1 || res.Warnings[0] != `line 1: key "z" already set in map` {
			t.Error(res.Warnings)
		}
	}},
	{name: "apply of an unknown field", req: patching(types.ApplyYAMLPatchType, cms, "a", "app", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\nspec: {}\n", opts(func(o *client.Options) { o.FieldManager = "me" })), want: `.spec: field not declared in schema`},

	{name: "delete with finalizers", req: verb(client.Delete, cms, "a", "one"), check: func(t *testing.T, res *client.Result) {
		c, ok := res.Object.(*corev1.ConfigMap)
		if !ok || c.DeletionTimestamp == nil || *c.DeletionGracePeriodSeconds != 0 {
			t.Errorf("%+v", res.Object)
		}
	}},
	{name: "no new finalizers", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":{"finalizers":["x/a","x/c"]}}`), want: `metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x/c"}`, reason: metav1.StatusReasonInvalid},
	{name: "create what is going", req: create(cms, "a", cm("one")), want: `object is being deleted: configmaps "one" already exists`, reason: metav1.StatusReasonAlreadyExists},
	{name: "last finalizer", req: patching(types.MergePatchType, cms, "a", "one", `{"metadata":{"finalizers":null}}`)},
	{name: "gone", req: verb(client.Get, cms, "a", "one"), want: `configmaps "one" not found`, reason: metav1.StatusReasonNotFound},
	{name: "delete", req: verb(client.Delete, cms, "a", "m"), check: func(t *testing.T, res *client.Result) {
		st, ok := res.Object.(*metav1.Status)
		if !ok || st.Status != "Success" || st.Details.Name != "m" || st.Details.Kind != "configmaps" || st.Details.UID == "" {
			t.Errorf("%+v", res.Object)
		}
	}},
	{name: "delete dry", req: verb(client.Delete, cms, "a", "w", stringMeta)},
	{name: "delete another uid", req: verb(client.Delete, cms, "a", "w", opts(func(o *client.Options) { o.Preconditions = &metav1.Preconditions{UID: ptr.To(types.UID("x"))} })), want: "Operation cannot be fulfilled on ConfigMap \"w\": the UID in the precondition (x) does not match the UID in record (", reason: metav1.StatusReasonConflict},
	{name: "delete in the foreground", req: verb(client.Delete, cms, "a", "w", opts(func(o *client.Options) { o.PropagationPolicy = ptr.To(metav1.DeletePropagationForeground) })), check: func(t *testing.T, res *client.Result) {
		if f := res.Object.(*corev1.ConfigMap).Finalizers; len(f) != 1 || f[0] != "foregroundDeletion" {
			t.Error(f)
		}
	}},
	{name: "delete with two policies", req: verb(client.Delete, cms, "a", "w", opts(func(o *client.Options) {
		o.PropagationPolicy, o.OrphanDependents = ptr.To(metav1.DeletePropagationForeground), ptr.To(true)
	})), want: "propagationPolicy: Invalid value: \"Foreground\": orphanDependents and deletionPropagation cannot be both set", reason: metav1.StatusReasonInvalid},

	{name: "create pod", req: create(pods, "a", func() runtime.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"l": "1"}}, Spec: corev1.PodSpec{NodeName: "n"}}
	}), check: func(t *testing.T, res *client.Result) {
		if res.Object.(*corev1.Pod).Spec.RestartPolicy != "Always" {
			t.Error("not defaulted")
		}
	}},
	{name: "list by field", req: verb(client.List, pods, "a", "", opts(func(o *client.Options) { o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", "n") })), check: wantCount(1)},
	{name: "list by another field", req: verb(client.List, pods, "", "", opts(func(o *client.Options) { o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", "other") })), check: wantCount(0)},
	{name: "list by an unknown field", req: verb(client.List, pods, "a", "", opts(func(o *client.Options) { o.FieldSelector = fields.OneTermEqualSelector("spec.x", "n") })), want: "field label not supported: spec.x", reason: metav1.StatusReasonBadRequest},
	{name: "list with a match but no revision", req: verb(client.List, pods, "a", "", opts(func(o *client.Options) { o.ResourceVersionMatch = metav1.ResourceVersionMatchExact })), want: "resourceVersionMatch is forbidden unless resourceVersion is provided", reason: metav1.StatusReasonInvalid},
	{name: "status", req: update(pods, "a", "p", func() runtime.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"l": "2"}}, Spec: corev1.PodSpec{NodeName: "ignored"}, Status: corev1.PodStatus{Phase: "Running"}}
	}, sub("status")), check: func(t *testing.T, res *client.Result) {
		p := res.Object.(*corev1.Pod)
		if p.Status.Phase != "Running" || p.Spec.NodeName != "n" || len(p.ManagedFields) != 2 || p.ManagedFields[1].Subresource != "status" {
			t.Errorf("%+v", p)
		}
	}},
	{name: "graceful delete", req: verb(client.Delete, pods, "a", "p"), check: func(t *testing.T, res *client.Result) {
		p := res.Object.(*corev1.Pod)
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
			t.Errorf("%+v", p)
		}
	}},
	{name: "longer grace is ignored", req: verb(client.Delete, pods, "a", "p", opts(func(o *client.Options) { o.GracePeriodSeconds = ptr.To[int64](60) })), check: wantGrace(30)},
	{name: "shorter grace", req: verb(client.Delete, pods, "a", "p", opts(func(o *client.Options) { o.GracePeriodSeconds = ptr.To[int64](5) })), check: wantGrace(5)},
	{name: "no grace", req: verb(client.Delete, pods, "a", "p", opts(func(o *client.Options) { o.GracePeriodSeconds = ptr.To[int64](0) })), check: func(t *testing.T, res *client.Result) {
		if _, ok := res.Object.(*corev1.Pod); !ok {
			t.Errorf("a pod's delete answers with %T", res.Object)
		}
	}},
	{name: "pod gone", req: verb(client.Get, pods, "a", "p"), want: `pods "p" not found`, reason: metav1.StatusReasonNotFound},
	{name: "bind", req: create(pods, "a", func() runtime.Object {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Name: "node"}}
	}, sub("binding"), func(r *client.Request) { r.Name = "p" }), check: func(t *testing.T, res *client.Result) {
		if st, ok := res.Object.(*metav1.Status); !ok || st.Message != "bound p to node" || !res.Created {
			t.Errorf("%+v", res)
		}
	}},

	{name: "create deployment", req: create(deploys, "a", deployment(1)), check: wantGeneration(1)},
	{name: "scale", req: update(deploys, "a", "d", func() runtime.Object {
		return &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "a"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}
	}, sub("scale")), check: func(t *testing.T, res *client.Result) {
		if n := res.Object.(*autoscalingv1.Scale).Spec.Replicas; n != 3 {
			t.Error(n)
		}
	}},
	{name: "scaled", req: verb(client.Get, deploys, "a", "d"), check: func(t *testing.T, res *client.Result) {
		d := res.Object.(*appsv1.Deployment)
		if *d.Spec.Replicas != 3 || d.Generation != 2 || d.ManagedFields[0].Subresource != "scale" {
			t.Errorf("%+v", d)
		}
	}},
	{name: "scale by patch", req: patching(types.MergePatchType, deploys, "a", "d", `{"spec":{"replicas":4}}`, sub("scale")), check: func(t *testing.T, res *client.Result) {
		if n := res.Object.(*autoscalingv1.Scale).Spec.Replicas; n != 4 {
			t.Error(n)
		}
	}},
	{name: "scale below zero", req: patching(types.MergePatchType, deploys, "a", "d", `{"spec":{"replicas":-1}}`, sub("scale")), want: `Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0`, reason: metav1.StatusReasonInvalid},
	{name: "the scale's metadata is checked", req: patching(types.MergePatchType, deploys, "a", "d", `{"metadata":{"labels":{"a":"-"}}}`, sub("scale")), want: `Scale.autoscaling "d" is invalid: metadata.labels: Invalid value: "-"`, reason: metav1.StatusReasonInvalid},
	{name: "the scale's uid is the object's", req: patching(types.MergePatchType, deploys, "a", "d", `{"metadata":{"uid":"other"}}`, sub("scale")), want: `Precondition failed: UID in precondition: other`, reason: metav1.StatusReasonConflict},
	{name: "apply of the scale conflicts", req: patching(types.ApplyYAMLPatchType, deploys, "a", "d", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":7}}`, sub("scale"),
		opts(func(o *client.Options) { o.FieldManager = "me" })), want: `Apply failed with 1 conflict: conflict with "cox" with subresource "scale" using autoscaling/v1: .spec.replicas`, reason: metav1.StatusReasonConflict},
	{name: "apply of the scale", req: patching(types.ApplyYAMLPatchType, deploys, "a", "d", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":7}}`, sub("scale"),
		opts(func(o *client.Options) { o.FieldManager, o.Force = "me", true })), check: func(t *testing.T, res *client.Result) {
		if n := res.Object.(*autoscalingv1.Scale).Spec.Replicas; n != 7 {
			t.Error(n)
		}
	}},
	{name: "the scale's owner", req: verb(client.Get, deploys, "a", "d"), check: func(t *testing.T, res *client.Result) {
		d := res.Object.(*appsv1.Deployment)
		if e := d.ManagedFields[0]; *d.Spec.Replicas != 7 || e.Manager != "me" || e.Operation != "Apply" || e.Subresource != "scale" || e.APIVersion != "apps/v1" {
			t.Errorf("%+v", d.ObjectMeta)
		}
	}},
	{name: "apply of a scale that is none", req: patching(types.ApplyYAMLPatchType, deploys, "a", "d", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":"7"}}`, sub("scale"),
		opts(func(o *client.Options) { o.FieldManager, o.Force = "me", true })), want: `.spec.replicas: expected numeric (int or float), got string`},
	{name: "apply of the scale of nothing", req: patching(types.ApplyYAMLPatchType, deploys, "a", "none", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"none"},"spec":{"replicas":7}}`, sub("scale"),
		opts(func(o *client.Options) { o.FieldManager = "me" })), want: `deployments.apps "none" not found`, reason: metav1.StatusReasonNotFound},
	{name: "get scale", req: verb(client.Get, deploys, "a", "d", sub("scale"))},

	{name: "create namespace", req: create(nss, "", func() runtime.Object {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	})},
	{name: "delete namespace", req: verb(client.Delete, nss, "", "gone"), check: func(t *testing.T, res *client.Result) {
		n := res.Object.(*corev1.Namespace)
		if n.DeletionTimestamp == nil || n.DeletionGracePeriodSeconds != nil || n.Status.Phase != corev1.NamespaceTerminating {
			t.Errorf("%+v", n)
		}
	}},
	{name: "finalize namespace", req: update(nss, "", "gone", func() runtime.Object {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	}, sub("finalize"))},
	{name: "namespace gone", req: verb(client.Get, nss, "", "gone"), want: `namespaces "gone" not found`, reason: metav1.StatusReasonNotFound},

	{name: "another view", req: create(eventsv1.SchemeGroupVersion.WithResource("events"), "a", func() runtime.Object {
		return &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, Note: "hello"}
	}), check: func(t *testing.T, res *client.Result) {
		if res.Object.(*eventsv1.Event).Note != "hello" {
			t.Errorf("%+v", res.Object)
		}
	}},
	{name: "the same through the hub", req: verb(client.Get, corev1.SchemeGroupVersion.WithResource("events"), "a", "e"), check: func(t *testing.T, res *client.Result) {
		if res.Object.(*corev1.Event).Message != "hello" {
			t.Errorf("%+v", res.Object)
		}
	}},
	{name: "no such resource", req: verb(client.Get, schema.GroupVersionResource{Group: "x", Version: "v1", Resource: "y"}, "a", "e"), want: "the server could not find the requested resource", reason: metav1.StatusReasonNotFound},
	{name: "delete collection", req: verb(client.DeleteCollection, cms, "a", "", opts(func(o *client.Options) { o.GracePeriodSeconds = ptr.To[int64](0) }))},
	{name: "all gone but one", req: verb(client.List, cms, "a", ""), check: wantCount(1)}, // w waits for its dependents
}

func wantCount(n int) func(*testing.T, *client.Result) {
	return func(t *testing.T, res *client.Result) {
		if len(res.List.Items) != n || res.List.ResourceVersion == "" {
			t.Errorf("%d items at %q, want %d", len(res.List.Items), res.List.ResourceVersion, n)
		}
	}
}

func wantGrace(n int64) func(*testing.T, *client.Result) {
	return func(t *testing.T, res *client.Result) {
		if got := *res.Object.(*corev1.Pod).DeletionGracePeriodSeconds; got != n {
			t.Errorf("grace period %d, want %d", got, n)
		}
	}
}

func wantGeneration(n int64) func(*testing.T, *client.Result) {
	return func(t *testing.T, res *client.Result) {
		if got := res.Object.(metav1.Object).GetGeneration(); got != n {
			t.Errorf("generation %d, want %d", got, n)
		}
	}
}

// bind is the action behind pods/binding in these tests.
func bind(_ context.Context, req *client.Request) (*client.Result, error) {
	b := req.Object.(*corev1.Binding)
	return &client.Result{Created: true, Object: &metav1.Status{Status: metav1.StatusSuccess, Message: "bound " + req.Name + " to " + b.Target.Name}}, nil
}

// TestBothDoors runs the suite through each door of a server of its own and
// compares what came out: results, errors and audit records.
func TestBothDoors(t *testing.T) {
	withBind := func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{"pods/binding": bind}
	}
	local, remote := newWorld(t, withBind), newWorld(t, withBind)
	for _, s := range suite {
		var seen [2]string
		for i, w := range []*world{local, remote} {
			door, name := w.local, "local"
			if i == 1 {
				door, name = w.remote, "http"
			}
			t.Run(s.name+"/"+name, func(t *testing.T) {
				res, err := door.Do(t.Context(), s.req())
				judge(t, s, res, err)
				seen[i] = normal(t, res, err, w.events.take())
			})
		}
		if seen[0] != seen[1] {
			t.Errorf("%s: the doors differ\nlocal %s\nhttp  %s", s.name, seen[0], seen[1])
		}
	}
}

func judge(t *testing.T, s step, res *client.Result, err error) {
	t.Helper()
	switch {
	case s.want == "" && err != nil:
		t.Fatal(err)
	case s.want != "" && err == nil:
		t.Fatalf("no error, want %q", s.want)
	case s.want != "":
		if !regexp.MustCompile(regexp.QuoteMeta(s.want)).MatchString(err.Error()) {
			t.Errorf("error %q, want %q", err, s.want)
		}
		if got := apierrors.ReasonForError(err); got != s.reason {
			t.Errorf("reason %q, want %q", got, s.reason)
		}
	case s.check != nil:
		s.check(t, res)
	}
}

var varying = []*regexp.Regexp{
	regexp.MustCompile(`"uid":"[^"]*"`), regexp.MustCompile(`"[a-zA-Z]*[tT]ime(stamp)?":"[^"]*"`),
	regexp.MustCompile(`\\+"(uid|[a-zA-Z]*[tT]ime(stamp)?)\\+":\\+"[^"]*"`), // in what an error quotes
	regexp.MustCompile(`gen-[a-z0-9]{5}`), regexp.MustCompile(`UID in (object meta: |record \()[-0-9a-f]*`),
}

// normal is what an outcome looks like without what no two runs share.
func normal(t *testing.T, res *client.Result, err error, audit []string) string {
	t.Helper()
	var out []byte
	if err != nil {
		var st apierrors.APIStatus
		if s, ok := err.(apierrors.APIStatus); ok {
			st = s
		} else {
			t.Fatalf("%T is not an API status: %v", err, err)
		}
		status := st.Status()
		status.TypeMeta = metav1.TypeMeta{}
		out, _ = json.Marshal(status)
	} else {
		shown := *res
		shown.Pending = false // only the server knows
		if l := shown.List; l != nil && l.Items == nil {
			l.Items = []runtime.Object{}
		}
		if l, ok := shown.Object.(*corev1.ConfigMapList); ok { // what a collection's deletion answers is typed over HTTP
			shown.Object, shown.List = nil, &client.ListResult{ResourceVersion: l.ResourceVersion}
			for i := range l.Items {
				shown.List.Items = append(shown.List.Items, &l.Items[i])
			}
		}
		if shown.Object != nil {
			shown.Object = shown.Object.DeepCopyObject()
			shown.Object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		out, _ = json.Marshal(shown)
	}
	for _, re := range varying {
		out = re.ReplaceAll(out, []byte("*"))
	}
	return fmt.Sprintf("%s\naudit %q", out, audit)
}

// TestWatchBothDoors sees the same events through both doors.
func TestWatchBothDoors(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for name, door := range map[string]client.Interface{"local": w.local, "http": w.remote} {
		t.Run(name, func(t *testing.T) {
			ns := name
			if _, err := client.ConfigMaps.In(w.local, ns).Create(ctx, configMap(ns, "first", nil)); err != nil {
				t.Fatal(err)
			}
			yes := true
			wt, err := client.ConfigMaps.In(door, ns).Watch(ctx, client.Options{
				SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer wt.Stop()
			next := func(want watch.EventType) *corev1.ConfigMap {
				t.Helper()
				ev, ok := <-wt.ResultChan()
				if !ok || ev.Type != want {
					t.Fatalf("event %v %v, want %v", ok, ev, want)
				}
				return ev.Object.(*corev1.ConfigMap)
			}
			if c := next(watch.Added); c.Name != "first" {
				t.Fatal(c)
			}
			if c := next(watch.Bookmark); c.Annotations[metav1.InitialEventsAnnotationKey] != "true" || c.ResourceVersion == "" {
				t.Fatal(c)
			}
			second, err := client.ConfigMaps.In(w.remote, ns).Create(ctx, configMap(ns, "second", nil))
			if err != nil {
				t.Fatal(err)
			}
			if c := next(watch.Added); c.Name != "second" || c.ResourceVersion != second.ResourceVersion {
				t.Fatal(c)
			}
			if _, err := client.ConfigMaps.In(w.local, ns).Patch(ctx, "second", types.MergePatchType, []byte(`{"data":{"a":"b"}}`)); err != nil {
				t.Fatal(err)
			}
			if c := next(watch.Modified); c.Data["a"] != "b" {
				t.Fatal(c)
			}
			if err := client.ConfigMaps.In(w.remote, ns).Delete(ctx, "second", client.Options{}); err != nil {
				t.Fatal(err)
			}
			if c := next(watch.Deleted); c.Data["a"] != "b" || c.ResourceVersion <= second.ResourceVersion {
				t.Fatal(c)
			}
		})
	}
}
