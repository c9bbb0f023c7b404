package apiserver_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/client"
)

const (
	cmPath = "/api/v1/namespaces/default/configmaps"
	asJSON = "application/json"
	proto  = "application/vnd.kubernetes.protobuf"
)

// protoSerializer is the library's, against which ours is held.
var protoSerializer = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

func TestAnswersToBadRequests(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
		want                     string
	}{
		{"no json", "POST", cmPath, `{`, nil, 400, `"message":"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)"`},
		{"another kind", "POST", cmPath, `{"kind":"Pod","apiVersion":"v1"}`, nil, 400, `Pod in version \"v1\" cannot be handled as a ConfigMap`},
		{"unknown kind", "POST", cmPath, `{"kind":"Foo","apiVersion":"v1"}`, nil, 400, `Foo in version \"v1\" cannot be handled as a ConfigMap: no kind \"Foo\" is registered for version \"v1\"`},
		{"another version", "POST", cmPath, `{"kind":"Deployment","apiVersion":"apps/v1"}`, nil, 400, `converting (v1.Deployment) to (core.ConfigMap): unknown conversion`},
		{"a status", "PUT", cmPath + "/a", `{"kind":"Status","apiVersion":"v1"}`, nil, 400, `Status in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Status) to (core.ConfigMap): unknown conversion`},
		{"unknown version", "POST", cmPath, `{"kind":"ConfigMap","apiVersion":"v2"}`, nil, 400, `no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"`},
		{"no options", "DELETE", cmPath + "/a", `{"kind":"Status","apiVersion":"v1"}`, nil, 400, `converting (v1.Status) to (v1.DeleteOptions): unknown conversion`},
		{"no options without a version", "DELETE", cmPath + "/a", `{"kind":"ConfigMap"}`, nil, 400, `no kind \"ConfigMap\" is registered for version \"meta.k8s.io/v1\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"`},
		{"other options", "DELETE", cmPath + "/a", `{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`, nil, 400, `converting (v1.CreateOptions) to (v1.DeleteOptions): unknown conversion`},
		{"an applied object without a name", "PATCH", cmPath + "/a?fieldManager=m", `{"kind":"ConfigMap","apiVersion":"v1"}`, []string{"Content-Type", "application/apply-patch+yaml"}, 400, `the name of the object (a based on URL) was undeterminable: name must be provided`},
		{"strict", "POST", cmPath + "?fieldValidation=Strict", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"s"},"x":1,"data":{"a":"1","a":"2"}}`, nil, 400, `ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"x\", duplicate field \"data.a\"`},
		{"bad field validation", "POST", cmPath + "?fieldValidation=Hard", `{}`, nil, 422, `fieldValidation: Unsupported value: \"Hard\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"`},
		{"wrong type", "POST", cmPath, `{"kind":"ConfigMap","apiVersion":"v1","data":{"a":1}}`, nil, 400, `ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string`},
		{"content type", "POST", cmPath, `{}`, []string{"Content-Type", "text/plain"}, 415, `the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf`},
		{"patch type", "PATCH", cmPath + "/a", `{}`, []string{"Content-Type", asJSON}, 415, `"message":"415: Unsupported Media Type","reason":"UnsupportedMediaType","details":{},"code":415`},
		{"accept", "GET", cmPath, ``, []string{"Accept", "image/png"}, 406, `406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf`},
		{"table in protobuf", "GET", cmPath, ``, []string{"Accept", proto + ";as=Table;g=meta.k8s.io;v=v1"}, 406, `NotAcceptable`},
		{"method", "PUT", cmPath, `{}`, nil, 405, `"message":"the server does not allow this method on the requested resource","reason":"MethodNotAllowed","details":{},"code":405`},
		{"method for all namespaces", "DELETE", "/api/v1/configmaps", ``, nil, 405, `"details":{}`},
		{"dry run", "POST", cmPath + "?dryRun=Some", `{}`, nil, 422, `dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"`},
		{"limit", "GET", cmPath + "?limit=x", ``, nil, 400, `strconv.ParseInt: parsing \"x\": invalid syntax`},
		{"label selector", "GET", cmPath + "?labelSelector=a%20b", ``, nil, 400, `unable to parse requirement`},
		{"unauthorized", "GET", cmPath, ``, []string{"Authorization", "Bearer wrong"}, 401, `"message":"Unauthorized","reason":"Unauthorized","code":401`},
		{"nobody", "GET", "/version", ``, []string{"X-Test-User", "nobody"}, 403, `"message":"forbidden: User \"nobody\" cannot get path \"/version\"","reason":"Forbidden","details":{},"code":403`},
		{"no such resource", "GET", "/api/v1/namespaces/default/unicorns", ``, nil, 404, `"message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404`},
		{"no such subresource", "GET", cmPath + "/a/horn", ``, nil, 404, `"details":{},"code":404`},
		{"behind an object", "GET", cmPath + "/a/status/x", ``, nil, 404, `"details":{},"code":404`},
		{"without its namespace", "GET", "/api/v1/configmaps/a", ``, nil, 404, `"details":{},"code":404`},
		{"no such version", "GET", "/api/v9", ``, nil, 404, `"details":{},"code":404`},
		{"no such version's resource", "GET", "/apis/apps/v9/deployments", ``, nil, 404, `"details":{},"code":404`},
		{"no such group", "GET", "/apis/unicorns.example/v1/horns", ``, nil, 404, "404 page not found\n"},
		{"no such path", "GET", "/unicorns", ``, nil, 404, "404 page not found\n"},
		{"too large", "POST", cmPath, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, nil, 413, `Request entity too large: limit is 3145728`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			h := tt.header
			if tt.method == "POST" && h == nil {
				h = []string{"Content-Type", asJSON}
			}
			resp, body := w.http(tt.method, tt.path, tt.body, h...)
			if resp.StatusCode != tt.code || !strings.Contains(body, tt.want) {
				t.Errorf("%d %s\nwant %d %s", resp.StatusCode, body, tt.code, tt.want)
			}
		})
	}
}

func TestFieldValidationWarns(t *testing.T) {
	w := newWorld(t)
	resp, body := w.http("POST", cmPath, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"s"},"x":1}`, "Content-Type", asJSON)
	if got := resp.Header.Values("Warning"); resp.StatusCode != 201 || len(got) != 1 || got[0] != `299 - "unknown field \"x\""` {
		t.Error(resp.StatusCode, got, body)
	}
	resp, _ = w.http("POST", cmPath+"?fieldValidation=Ignore", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"t"},"x":1}`, "Content-Type", asJSON)
	if got := resp.Header.Values("Warning"); resp.StatusCode != 201 || len(got) != 0 {
		t.Error(resp.StatusCode, got)
	}
}

func TestFormats(t *testing.T) {
	w := newWorld(t)
	in := configMap("default", "f", map[string]string{"a": "<b>"})
	in.APIVersion, in.Kind = "v1", "ConfigMap"
	var buf bytes.Buffer
	if err := protoSerializer.Encode(in, &buf); err != nil {
		t.Fatal(err)
	}
	if resp, body := w.http("POST", cmPath, buf.String(), "Content-Type", proto); resp.StatusCode != 201 {
		t.Fatal(resp.StatusCode, body)
	}
	if resp, body := w.http("POST", cmPath, "metadata:\n  name: yam\ndata:\n  k: v\n", "Content-Type", "application/yaml"); resp.StatusCode != 201 {
		t.Fatal(resp.StatusCode, body)
	}
	var want corev1.ConfigMap
	_, js := w.http("GET", cmPath+"/f", "")
	if err := json.Unmarshal([]byte(js), &want); err != nil || want.Data["a"] != "<b>" {
		t.Fatal(err, js)
	}

	resp, body := w.http("GET", cmPath+"/f", "", "Accept", proto)
	got, gvk, err := protoSerializer.Decode([]byte(body), nil, nil)
	if err != nil || gvk.Kind != "ConfigMap" || got.(*corev1.ConfigMap).ResourceVersion != want.ResourceVersion || resp.Header.Get("Content-Type") != proto {
		t.Fatal(err, gvk, got, resp.Header)
	}
	// The stored bytes, and the revision behind them: read, that is what JSON says.
	want.TypeMeta = metav1.TypeMeta{}
	if got := got.(*corev1.ConfigMap); !apiequality.Semantic.DeepEqual(got.ObjectMeta, want.ObjectMeta) || !reflect.DeepEqual(got.Data, want.Data) {
		t.Errorf("protobuf says %v, JSON %v", got, want)
	}

	_, body = w.http("GET", cmPath, "", "Accept", proto+", "+asJSON)
	got, _, err = protoSerializer.Decode([]byte(body), nil, nil)
	if err != nil || len(got.(*corev1.ConfigMapList).Items) != 2 || got.(*corev1.ConfigMapList).Items[0].Data["a"] != "<b>" {
		t.Fatal(err, got)
	}
	if item := got.(*corev1.ConfigMapList).Items[0]; !apiequality.Semantic.DeepEqual(item.ObjectMeta, want.ObjectMeta) {
		t.Errorf("protobuf says %v in a list, JSON %v", item, want)
	}

	_, body = w.http("GET", cmPath, "", "Accept", "application/yaml")
	var y corev1.ConfigMapList
	if err := yaml.UnmarshalStrict([]byte(body), &y); err != nil || len(y.Items) != 2 || y.Kind != "ConfigMapList" {
		t.Fatal(err, body)
	}

	_, body = w.http("GET", cmPath+"/f?pretty=1", "")
	if !strings.HasPrefix(body, "{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",") {
		t.Error(body)
	}
	_, body = w.http("GET", cmPath+"/none", "", "Accept", proto)
	got, _, err = protoSerializer.Decode([]byte(body), nil, nil)
	if err != nil || got.(*metav1.Status).Reason != metav1.StatusReasonNotFound {
		t.Error(err, body)
	}
}

func TestTablesAndMetadata(t *testing.T) {
	w := newWorld(t)
	if _, err := client.Pods.In(w.local, "default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "n"}}); err != nil {
		t.Fatal(err)
	}
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	var got metav1.Table
	read := func(body string) {
		t.Helper()
		got = metav1.Table{}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err, body)
		}
	}
	_, body := w.http("GET", "/api/v1/pods", "", "Accept", table)
	read(body)
	if got.Kind != "Table" || got.APIVersion != "meta.k8s.io/v1" || got.ResourceVersion == "" || len(got.ColumnDefinitions) != 2 || len(got.Rows) != 1 || fmt.Sprint(got.Rows[0].Cells) != "[p n]" {
		t.Error(body)
	}
	var meta metav1.PartialObjectMetadata
	if err := json.Unmarshal(got.Rows[0].Object.Raw, &meta); err != nil || meta.Kind != "PartialObjectMetadata" || meta.Name != "p" {
		t.Error(err, body)
	}
	_, body = w.http("GET", "/api/v1/namespaces/default/pods/p?includeObject=Object", "", "Accept", table)
	read(body)
	if !strings.Contains(string(got.Rows[0].Object.Raw), `"kind":"Pod"`) {
		t.Error(body)
	}
	_, body = w.http("GET", cmPath, "", "Accept", table)
	read(body)
	if len(got.Rows) != 0 || got.ColumnDefinitions[1].Name != "Created At" {
		t.Error(body)
	}
	_, body = w.http("GET", "/api/v1/pods", "", "Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) != 1 || list.Kind != "PartialObjectMetadataList" || list.Items[0].Kind != "PartialObjectMetadata" || list.Items[0].Name != "p" {
		t.Error(err, body)
	}
	resp, body := w.http("GET", "/api/v1/namespaces/default/pods/p", "", "Accept", proto+";as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	metaScheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(metaScheme); err != nil {
		t.Fatal(err)
	}
	obj, _, err := protobuf.NewSerializer(metaScheme, metaScheme).Decode([]byte(body), nil, nil)
	if err != nil || obj.(*metav1.PartialObjectMetadata).Name != "p" {
		t.Error(err, resp.StatusCode, obj)
	}
	// Deletion's status is shown as it is even to who asked for a table.
	if resp, body := w.http("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", "", "Accept", table); resp.StatusCode != 200 {
		t.Error(resp.StatusCode, body)
	}
}

func TestWatchFrames(t *testing.T) {
	w := newWorld(t)
	if _, err := client.ConfigMaps.In(w.local, "default").Create(t.Context(), configMap("default", "a", map[string]string{"k": "v"})); err != nil {
		t.Fatal(err)
	}
	open := func(accept string) *bufio.Reader {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", w.ts.URL+cmPath+"?watch=1&resourceVersion=0", nil)
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(err, resp)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewReader(resp.Body)
	}
	line, err := open(asJSON).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"`) {
		t.Error(err, line)
	}
	if line, err = open("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").ReadString('\n'); err != nil || !strings.HasPrefix(line, `{"type":"ADDED","object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a"`) || strings.Contains(line, "data\":{\"k") {
		t.Error(err, line)
	}
	if line, err = open("application/json;as=Table;g=meta.k8s.io;v=v1").ReadString('\n'); err != nil || !strings.Contains(line, `"kind":"Table"`) || !strings.Contains(line, `"cells":["a",`) {
		t.Error(err, line)
	}
	r := open(proto + ";stream=watch")
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(r, frame); err != nil {
		t.Fatal(err)
	}
	var ev metav1.WatchEvent
	if err := ev.Unmarshal(frame); err != nil || ev.Type != "ADDED" {
		t.Fatal(err, ev.Type)
	}
	obj, _, err := protoSerializer.Decode(ev.Object.Raw, nil, nil)
	if err != nil || obj.(*corev1.ConfigMap).Data["k"] != "v" {
		t.Error(err, obj)
	}
}

func TestShutdownEndsWatches(t *testing.T) {
	w := newWorld(t)
	wt, err := client.ConfigMaps.In(w.remote, "").Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lw, err := client.ConfigMaps.In(w.local, "").Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range wt.ResultChan() {
	}
	for range lw.ResultChan() {
	}
	if resp, _ := w.http("GET", "/readyz", ""); resp.StatusCode != 500 {
		t.Error("ready while shutting down")
	}
}

func TestCompression(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		if _, err := client.ConfigMaps.In(w.local, "default").Create(t.Context(), configMap("default", fmt.Sprint("big", i), map[string]string{"k": strings.Repeat("x", 64<<10)})); err != nil {
			t.Fatal(err)
		}
	}
	resp, body := w.http("GET", cmPath, "", "Accept-Encoding", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(resp.Header)
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var list corev1.ConfigMapList
	if err := json.NewDecoder(z).Decode(&list); err != nil || len(list.Items) != 3 {
		t.Error(err, len(list.Items))
	}
	if resp, _ := w.http("GET", cmPath+"/big0", "", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("a small answer is compressed")
	}
}

// TestLocalDoorEncodesNothing: requests through the local door reach the
// store without a byte of JSON or protobuf.
func TestLocalDoorEncodesNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	r := client.ConfigMaps.In(w.local, "default")
	c, err := r.Create(ctx, configMap("default", "x", map[string]string{"a": "b"}))
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Data["a"] = "c"
	if _, err := r.Update(ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.List(ctx, client.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(ctx, "x", client.Options{}); err != nil {
		t.Fatal(err)
	}
	if e, d := w.srv.Encodings(); e != 0 || d != 0 {
		t.Errorf("%d encodings and %d decodings", e, d)
	}
	if _, err := client.ConfigMaps.In(w.remote, "default").Create(ctx, configMap("default", "x", nil)); err != nil {
		t.Fatal(err)
	}
	if e, d := w.srv.Encodings(); e != 0 || d != 1 { // what is stored is what is answered
		t.Errorf("the HTTP door: %d encodings and %d decodings", e, d)
	}
	// An object is encoded once per revision and format.
	w.http("GET", cmPath+"/x", "")
	before, _ := w.srv.Encodings()
	for range 3 {
		w.http("GET", cmPath+"/x", "")
		w.http("GET", cmPath, "")
	}
	if after, _ := w.srv.Encodings(); after != before {
		t.Errorf("%d more encodings of the same object", after-before)
	}
}

func TestVersionAndMetrics(t *testing.T) {
	w := newWorld(t)
	if _, body := w.http("GET", "/version", ""); !strings.Contains(body, `"gitVersion": "v1.36.2+cox"`) {
		t.Error(body)
	}
	if _, body := w.http("GET", "/metrics", ""); !strings.Contains(body, "apiserver_request_total") && !strings.Contains(body, "go_goroutines") {
		t.Error(body)
	}
}

func TestImpersonation(t *testing.T) {
	w := newWorld(t)
	resp, body := w.http("GET", "/version", "", "Impersonate-User", "nobody")
	if resp.StatusCode != 403 || !strings.Contains(body, `User \"nobody\" cannot get path`) {
		t.Error(resp.StatusCode, body)
	}
	resp, body = w.http("GET", "/version", "", "X-Test-User", "nobody", "Impersonate-User", "system:serviceaccount:ns:sa")
	if resp.StatusCode != 403 || !strings.Contains(body, `forbidden: User \"nobody\" cannot impersonate-on:serviceaccount:get path \"/version\"`) {
		t.Error(resp.StatusCode, body)
	}
}

// A timeout that is none is refused, whatever is asked for.
func TestTimeoutInURL(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/version?timeout=soon", "/api/v1/namespaces/default/configmaps?timeout=soon"} {
		if resp, body := w.http("GET", path, ""); resp.StatusCode != 400 || !strings.Contains(body, "invalid timeout specified in the request URL") {
			t.Error(path, resp.StatusCode, body)
		}
	}
}

// Before the server knows what others serve it does not say that something is
// not served.
func TestNotKnownYet(t *testing.T) {
	w := newWorld(t)
	known := false
	w.srv.SetKnown(func() bool { return known })
	for path, codes := range map[string][2]int{
		"/apis/unicorns.example/v1/horns":  {http.StatusServiceUnavailable, http.StatusNotFound},
		"/apis/unicorns.example/v1":        {http.StatusServiceUnavailable, http.StatusNotFound},
		"/apis/apps/v1/horns":              {http.StatusNotFound, http.StatusNotFound},
		"/api/v1/namespaces/default/horns": {http.StatusNotFound, http.StatusNotFound},
	} {
		for i, want := range codes {
			known = i == 1
			resp, body := w.http("GET", path, "")
			if resp.StatusCode != want {
				t.Errorf("%s, known %v: %d %s", path, known, resp.StatusCode, body)
			}
			if want == http.StatusServiceUnavailable && (resp.Header.Get("Retry-After") != "5" || !strings.Contains(body, "before all known HTTP paths have been installed")) {
				t.Errorf("%s: %v %s", path, resp.Header, body)
			}
		}
	}
}
