package aggregation_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/aggregation"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/crd"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/store/storetest"
)

// world is a whole API server with another behind it.
type world struct {
	t       *testing.T
	url     string
	root    client.Interface
	ext     *extension
	metrics prometheus.Collector
}

func newWorld(t *testing.T) *world {
	t.Helper()
	tab, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	st, _ := storetest.Start(t, tab)
	bundle, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ext: newExtension(t, bundle)}
	var docs http.Handler
	srv, err := apiserver.New(apiserver.Config{
		Table: tab, Store: st.Kind, RequestTimeout: 3 * time.Second,
		OpenAPI: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { docs.ServeHTTP(rw, r) }),
		Authn: authn.Func(func(r *http.Request) (client.User, bool, error) {
			return client.User{Name: "ann", UID: "u-1", Groups: []string{"g1", "g2"}, Extra: map[string][]string{"example.com/a:b": {"x"}}},
				r.Header.Get("Authorization") == "Bearer secret", nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.root = client.As(srv.Door(), client.User{Name: "system:apiserver", Groups: []string{"system:masters"}})
	agg := aggregation.New(aggregation.Config{
		Door: w.root, Kinds: srv.Kinds,
		Identity: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return bundle.FrontProxyClient.Certificate()
		},
		Dial: func(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
			if namespace != "ns" || name != "api" || port != 7443 {
				return nil, fmt.Errorf("there is no service %s/%s:%d", namespace, name, port)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.ext.Listener.Addr().String())
		},
	})
	docs = crd.New(crd.Config{Door: w.root, Server: srv, Forget: st.Forget}).OpenAPIWith(agg)
	srv.SetAggregator(agg)
	w.metrics = agg.Metrics()
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = agg.Run(ctx) }()
	t.Cleanup(func() { end(); <-ended })
	ts := httptest.NewServer(srv)
	t.Cleanup(ts.Close)
	w.url = ts.URL
	return w
}

// do sends a request as ann.
func (w *world) do(path string, header ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(body)
}

const name = "v1.wardle.example.com"

// reach waits until the APIService's condition has the reason.
func (w *world) reach(status apiregistrationv1.ConditionStatus, reason, message string) {
	w.t.Helper()
	var last []apiregistrationv1.APIServiceCondition
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s, err := aggregation.APIServices.In(w.root, "").Get(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		last = s.Status.Conditions
		if len(last) == 1 && last[0].Reason == reason && last[0].Status == status && strings.Contains(last[0].Message, message) {
			return
		}
	}
	w.t.Fatalf("conditions %+v, want %s %s %s", last, status, reason, message)
}

// until waits for what follows from a condition a moment later.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not reached: %s", what)
		}
	}
}

func (w *world) register(change func(*apiregistrationv1.APIServiceSpec)) {
	w.t.Helper()
	port := int32(7443)
	s := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "wardle.example.com", Version: "v1", GroupPriorityMinimum: 17050, VersionPriority: 15, CABundle: w.ext.ca,
		Service: &apiregistrationv1.ServiceReference{Namespace: "ns", Name: "api", Port: &port},
	}}
	in := aggregation.APIServices.In(w.root, "")
	_, err := in.Create(w.t.Context(), s)
	if apierrors.IsAlreadyExists(err) {
		_, err = in.Mutate(w.t.Context(), name, "", func(have *apiregistrationv1.APIService) (bool, error) {
			have.Spec = s.Spec
			change(&have.Spec)
			return true, nil
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// service makes the Service, with a label so that it can be changed.
func (w *world) service(label string, ports ...corev1.ServicePort) {
	w.t.Helper()
	in := client.Services.In(w.root, "ns")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", Ports: ports}}
	_, err := in.Create(w.t.Context(), s)
	if apierrors.IsAlreadyExists(err) {
		_, err = in.Mutate(w.t.Context(), "api", "", func(have *corev1.Service) (bool, error) {
			have.Labels = map[string]string{"state": label}
			if ports != nil {
				have.Spec.Ports = ports
			}
			return true, nil
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) slice(ready bool) {
	w.t.Helper()
	in := client.EndpointSlices.In(w.root, "ns")
	portName, port := "https", int32(8443)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "api-1", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
	_, err := in.Create(w.t.Context(), s)
	if apierrors.IsAlreadyExists(err) {
		_, err = in.Mutate(w.t.Context(), "api-1", "", func(have *discoveryv1.EndpointSlice) (bool, error) {
			have.Endpoints = s.Endpoints
			return true, nil
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

const (
	list       = "/apis/wardle.example.com/v1/namespaces/ns/flunders"
	flunders   = "/apis/wardle.example.com/v1/flunders"
	aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

// up makes all that the server needs to be available.
func (w *world) up() {
	w.t.Helper()
	w.register(nil)
	w.service("", corev1.ServicePort{Name: "https", Port: 7443, Protocol: corev1.ProtocolTCP})
	w.slice(true)
	w.reach("True", "Passed", "all checks passed")
}

// version is the group version's item of the aggregated discovery, and how
// many groups precede it.
func (w *world) version() (freshness string, resources []string, before string) {
	w.t.Helper()
	_, body := w.do("/apis", "Accept", aggregated)
	var doc struct {
		Items []struct {
			Metadata struct{ Name string }
			Versions []struct {
				Freshness string
				Resources []struct {
					Resource     string
					ResponseKind *metav1.GroupVersionKind
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		w.t.Fatal(err)
	}
	for _, g := range doc.Items {
		if g.Metadata.Name != "wardle.example.com" {
			before = g.Metadata.Name
			continue
		}
		for _, r := range g.Versions[0].Resources {
			if r.ResponseKind != nil {
				resources = append(resources, r.Resource)
			}
		}
		return g.Versions[0].Freshness, resources, before
	}
	return "", nil, ""
}

func TestAvailability(t *testing.T) {
	w := newWorld(t)
	w.register(nil)
	w.reach("False", "ServiceNotFound", `service/api in "ns" is not present`)
	res, body := w.do(list)
	if res.StatusCode != http.StatusServiceUnavailable || body != "service unavailable\n" {
		t.Errorf("while it is down: %d %q", res.StatusCode, body)
	}
	if fresh, list, _ := w.version(); fresh != "Stale" || len(list) != 0 {
		t.Errorf("discovery says %s %v", fresh, list)
	}
	if _, body := w.do("/apis"); !strings.Contains(body, "wardle.example.com/v1") {
		t.Error("the group is not listed while its server is down")
	}
	w.service("", corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP})
	w.reach("False", "ServicePortError", `service/api in "ns" is not listening on port 7443`)
	w.service("", corev1.ServicePort{Name: "https", Port: 7443, Protocol: corev1.ProtocolTCP})
	w.reach("False", "EndpointsNotFound", `cannot find endpointslices for service/api in "ns"`)
	w.slice(false)
	w.reach("False", "MissingEndpoints", `endpointslices for service/api in "ns" have no addresses with port name "https"`)
	w.slice(true)
	w.reach("True", "Passed", "all checks passed")
	if fresh, list, before := w.version(); fresh != "Current" || strings.Join(list, " ") != "flunders lonely" || before != "policy" {
		t.Errorf("discovery says %s %v behind %s", fresh, list, before)
	}

	// Who cannot prove to be the Service is not asked.
	_, other := certificate(t, "api.ns.svc")
	w.register(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = other })
	w.reach("False", "FailedDiscoveryCheck", "certificate signed by unknown authority")
	if res, _ := w.do(list); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("with another authority: %d", res.StatusCode)
	}
	w.register(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle, s.InsecureSkipTLSVerify = nil, true })
	w.reach("True", "Passed", "")
	w.register(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = []byte("none") })
	w.reach("False", "FailedDiscoveryCheck", "unable to load root certificates")
	if fresh, list, _ := w.version(); fresh != "Stale" || strings.Join(list, " ") != "flunders lonely" {
		t.Errorf("what was there before is %s %v", fresh, list)
	}

	for reason, want := range map[string]float64{"FailedDiscoveryCheck": 2, "ServiceNotFound": 1} {
		w.metric("aggregator_unavailable_apiservice_total", reason, want)
	}
	w.metric("aggregator_unavailable_apiservice", "", 1)

	// As a local one it is always there, and passes nothing on.
	w.register(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle, s.Service = nil, nil })
	w.reach("True", "Local", "Local APIServices are always available")
	if res, _ := w.do(list); res.StatusCode != http.StatusNotFound {
		t.Errorf("as a local one: %d", res.StatusCode)
	}
	w.metric("aggregator_unavailable_apiservice", "", 0)
}

// metric waits until one of the APIService has a value.
func (w *world) metric(metric, reason string, want float64) {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.metrics)
	got := -1.0
	for end := time.Now().Add(time.Minute); got != want && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		families, err := reg.Gather()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if f.GetName() == metric && labels["name"] == name && labels["reason"] == reason {
					got = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	if got != want {
		w.t.Errorf("%s of %q is %v, want %v", metric, reason, got, want)
	}
}

func TestPassesRequestsOn(t *testing.T) {
	w := newWorld(t)
	w.up()
	res, body := w.do(flunders, "X-Remote-User", "root", "X-Remote-Group", "system:masters", "Audit-Id", "same", "Cookie", "a=b")
	if res.StatusCode != http.StatusOK || !strings.Contains(body, "FlunderList") || len(res.Header["Audit-Id"]) != 1 {
		t.Fatalf("%d %s %v", res.StatusCode, body, res.Header)
	}
	h := (<-w.ext.seen).Header
	for key, want := range map[string]string{
		"X-Remote-User": "ann", "X-Remote-Uid": "u-1", "X-Remote-Group": "g1,g2", "X-Remote-Extra-Example.com%2fa%3ab": "x",
		"Authorization": "", "Audit-Id": "same",
	} {
		if got := strings.Join(h[key], ","); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}

	// A watch flows, and ends with the client.
	ctx, end := context.WithCancel(t.Context())
	defer end()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.url+flunders+"?watch=1", nil)
	req.Header.Set("Authorization", "Bearer secret")
	stream, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	if line, err := bufio.NewReader(stream.Body).ReadString('\n'); err != nil || !strings.Contains(line, "ADDED") {
		t.Fatalf("watched %q: %v", line, err)
	}
	end()
	<-(<-w.ext.seen).Context().Done()

	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /apis/wardle.example.com/v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	rd := bufio.NewReader(conn)
	up, err := http.ReadResponse(rd, nil)
	if err != nil || up.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(up, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := rd.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("through the upgraded connection: %q %v", line, err)
	}

	res, body = w.do("/apis/wardle.example.com/v1/moved")
	if res.StatusCode != http.StatusBadGateway || res.Header.Get("Location") != "" || body != "the backend attempted to redirect this request, which is not permitted" {
		t.Errorf("a redirect: %d %q %v", res.StatusCode, body, res.Header)
	}
	if res, body = w.do("/apis/wardle.example.com/v1/hang"); res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, `"reason":"Timeout"`) {
		t.Errorf("a server that hangs: %d %s", res.StatusCode, body)
	}
}

func TestPublishesWhatOthersServe(t *testing.T) {
	w := newWorld(t)
	w.up()
	const doc = "/openapi/v3/apis/wardle.example.com/v1"
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	read := func() {
		_, body := w.do("/openapi/v3")
		clear(index.Paths)
		if err := json.Unmarshal([]byte(body), &index); err != nil {
			t.Fatal(err)
		}
	}
	w.until("its document is in the index", func() bool { read(); return index.Paths["apis/wardle.example.com/v1"].ServerRelativeURL != "" })
	if strings.Contains(index.Paths["api/v1"].ServerRelativeURL, "stolen") {
		t.Error("another group's document is the extension's")
	}
	if res, body := w.do(index.Paths["apis/wardle.example.com/v1"].ServerRelativeURL); res.StatusCode != http.StatusOK || body != v3Document {
		t.Errorf("its document: %d %s", res.StatusCode, body)
	}
	if res, _ := w.do(doc, "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); res.StatusCode != http.StatusOK {
		t.Errorf("as protobuf: %d", res.StatusCode)
	}
	var v2 struct {
		Paths       map[string]json.RawMessage
		Definitions map[string]json.RawMessage
	}
	w.until("the v2 document has its path", func() bool {
		_, body := w.do("/openapi/v2")
		if err := json.Unmarshal([]byte(body), &v2); err != nil {
			t.Fatal(err)
		}
		return v2.Paths["/apis/wardle.example.com/v1/flunders"] != nil
	})
	for _, text := range []json.RawMessage{v2.Paths["/api/v1/pods"], v2.Paths["/api/v1/namespaces/{namespace}/pods"], v2.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]} {
		if strings.Contains(string(text), "stolen") {
			t.Errorf("the extension speaks for others: %s", text)
		}
	}
	if v2.Definitions["com.example.wardle.Flunder"] == nil || v2.Definitions["com.example.Pod"] != nil {
		t.Error("definitions: its own is missing, or one is there that claims to be a Pod")
	}
	if res, _ := w.do("/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"); res.StatusCode != http.StatusOK {
		t.Errorf("v2 as protobuf: %d", res.StatusCode)
	}

	// A server that says nothing of use keeps what it said.
	for _, text := range []string{"{", strings.Replace(resources, "wardle.example.com/v1", "apps/v1", 1), `{"x":"` + strings.Repeat("x", 5<<20) + `"}`} {
		w.ext.answer(resources)
		w.service(fmt.Sprint("good", len(text)))
		w.until("discovery is current", func() bool { fresh, _, _ := w.version(); return fresh == "Current" })
		w.ext.answer(text)
		w.service(fmt.Sprint("bad", len(text)))
		w.until("discovery is stale", func() bool { fresh, _, _ := w.version(); return fresh == "Stale" })
		if _, list, _ := w.version(); len(list) != 2 {
			t.Errorf("a bad document leaves %v", list)
		}
	}

	if err := aggregation.APIServices.In(w.root, "").Delete(t.Context(), name, client.Options{}); err != nil {
		t.Fatal(err)
	}
	w.until("it is gone", func() bool { res, _ := w.do(list); return res.StatusCode == http.StatusNotFound })
	w.until("discovery has forgotten it", func() bool { fresh, _, _ := w.version(); return fresh == "" })
	if read(); index.Paths["apis/wardle.example.com/v1"].ServerRelativeURL != "" {
		t.Error("its document is still in the index")
	}
	if res, _ := w.do(doc); res.StatusCode != http.StatusNotFound {
		t.Errorf("its document: %d", res.StatusCode)
	}
}
