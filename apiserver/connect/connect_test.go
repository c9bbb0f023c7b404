package connect_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/connect"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

// kubelet answers as a kubelet does: logs as text, streams as an upgrade that
// echoes what it is sent.
type kubelet struct{ seen chan string }

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.seen <- r.Method + " " + r.URL.RequestURI()
	switch {
	case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
		if strings.HasSuffix(r.URL.Path, "/waiting") {
			http.Error(w, `container "waiting" in pod "p" is waiting to start: ContainerCreating`, http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, "line 1\nline 2\n")
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(rw, "echo %s", line)
		_ = rw.Flush()
	default:
		_, _ = io.WriteString(w, "kubelet says hello")
	}
}

type world struct {
	t    *testing.T
	url  string
	seen chan string
}

// newWorld makes an API server whose node is a fake kubelet and whose pods
// and services all end at a fake page.
func newWorld(t *testing.T) *world {
	t.Helper()
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	st, _ := storetest.Start(t, table)
	kind := func(resource string) store.Interface {
		for _, k := range table.Kinds {
			if k.Resource == resource {
				return st.Kind(k)
			}
		}
		t.Fatalf("no %s", resource)
		return nil
	}

	k := &kubelet{seen: make(chan string, 10)}
	ks := httptest.NewTLSServer(k)
	t.Cleanup(ks.Close)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/html":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `<a href="/link">x</a>`)
		default:
			fmt.Fprintf(w, "%s %s?%s", r.Method, r.URL.Path, r.URL.RawQuery)
		}
	}))
	t.Cleanup(page.Close)
	pool := x509.NewCertPool()
	pool.AddCert(ks.Certificate())
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := page.Listener.Addr().String()
		if strings.HasPrefix(addr, "127.0.0.1:") {
			to = addr
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	host, port := split(t, ks.URL)
	fill(t, kind, host, port)
	connects := connect.New(connect.Config{
		Pods: kind("pods"), Nodes: kind("nodes"), Services: kind("services"), EndpointSlices: kind("endpointslices"),
		Kubelet: &tls.Config{RootCAs: pool}, Dial: dial,
	})
	srv, err := apiserver.New(apiserver.Config{
		Table: table, Store: st.Kind, Extensions: apiserver.Extensions{Connects: connects},
	})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(srv)
	t.Cleanup(ts.Close)
	return &world{t: t, url: ts.URL, seen: k.seen}
}

func split(t *testing.T, raw string) (string, int32) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname(), int32(n)
}

func fill(t *testing.T, kind func(string) store.Interface, host string, port int32) {
	t.Helper()
	put := func(resource, key string, obj runtime.Object) {
		t.Helper()
		if _, err := kind(resource).Create(t.Context(), key, obj); err != nil {
			t.Fatal(err)
		}
	}
	put("nodes", "n", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "elsewhere"}, {Type: corev1.NodeInternalIP, Address: host}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}},
	}})
	pod := func(name, node string, containers ...string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: "10.1.2.3"}}
		for _, c := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Ports: []corev1.ContainerPort{{ContainerPort: 8080}}})
		}
		put("pods", "ns/"+name, p)
	}
	pod("p", "n", "only")
	pod("two", "n", "a", "waiting")
	pod("unscheduled", "", "a")
	pod("lost", "gone", "a")
	put("services", "ns/s", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}})
	put("services", "ns/empty", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "empty", Namespace: "ns"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	put("endpointslices", "ns/s-1", &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "s-1", Namespace: "ns", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("web"), Port: ptr.To[int32](8080)}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}}},
	})
}

func (w *world) get(path string) (*http.Response, string) {
	w.t.Helper()
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Get(w.url + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	const pods = "/api/v1/namespaces/ns/pods/"
	for _, tt := range []struct {
		path string
		code int
		want string
		seen string
	}{
		{"p/log?follow=true&tailLines=5&timestamps=true", 200, "line 1\nline 2\n", "GET /containerLogs/ns/p/only?follow=true&tailLines=5&timestamps=true"},
		{"two/log", 400, "a container name must be specified for pod two, choose one of: [a waiting]", ""},
		{"two/log?container=x", 400, "container x is not valid for pod two", ""},
		{"two/log?container=waiting", 400, `container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating`, "GET /containerLogs/ns/two/waiting"},
		{"unscheduled/log", 200, "", ""},
		{"none/log", 404, `pods \"none\" not found`, ""},
		{"lost/log", 404, `pods \"gone\" not found`, ""}, // its node is not there
		{"p/log?tailLines=-1", 422, `PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`, ""},
		{"p/log?tailLines=x", 400, `parameter \"tailLines\"`, ""},
	} {
		resp, body := w.get(pods + tt.path)
		if resp.StatusCode != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.path, resp.StatusCode, body, tt.code, tt.want)
		}
		seen := ""
		select {
		case seen = <-w.seen:
		default:
		}
		if seen != tt.seen {
			t.Errorf("%s: the kubelet saw %q, want %q", tt.path, seen, tt.seen)
		}
	}
}

// TestLogsOverWebSocket: browsers cannot read a response piece by piece, so
// that a log may be asked for as messages.
func TestLogsOverWebSocket(t *testing.T) {
	w := newWorld(t)
	header := http.Header{"Sec-Websocket-Protocol": {"binary.k8s.io"}}
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(w.url, "http")+"/api/v1/namespaces/ns/pods/p/log?follow=true", header)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := ""
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			break
		}
		got += string(b)
	}
	if conn.Subprotocol() != "binary.k8s.io" || got != "line 1\nline 2\n" {
		t.Errorf("read %q by %q", got, conn.Subprotocol())
	}
}

func TestStreams(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ method, path, upgrade, seen string }{
		{"POST", "p/exec?command=ls&command=-l&stdout=true&stdin=true", "SPDY/3.1", "POST /exec/ns/p/only?command=ls&command=-l&input=1&output=1"},
		{"GET", "two/exec?container=a&command=ls&tty=1&stderr=1", "websocket", "GET /exec/ns/two/a?command=ls&error=1&tty=1"},
		{"POST", "p/attach?stdout=1", "SPDY/3.1", "POST /attach/ns/p/only?output=1"},
		{"GET", "p/portforward?ports=80&ports=81", "websocket", "GET /portForward/ns/p?port=80&port=81"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "%s /api/v1/namespaces/ns/pods/%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", tt.method, tt.path, tt.upgrade)
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != tt.upgrade {
				t.Fatal(err, resp)
			}
			fmt.Fprintf(conn, "hello\n")
			if line, err := r.ReadString('\n'); err != nil || line != "echo hello\n" {
				t.Error(err, line)
			}
			if got := <-w.seen; got != tt.seen {
				t.Errorf("the kubelet saw %q, want %q", got, tt.seen)
			}
		})
	}
	if resp, body := w.get("/api/v1/namespaces/ns/pods/p/exec?command=ls"); resp.StatusCode != 400 || !strings.Contains(body, "Upgrade request required") {
		t.Error(resp.StatusCode, body)
	}
	if resp, body := w.get("/api/v1/namespaces/ns/pods/unscheduled/exec?command=ls"); resp.StatusCode != 400 || !strings.Contains(body, "pod unscheduled does not have a host assigned") {
		t.Error(resp.StatusCode, body)
	}
}

func TestProxies(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		path     string
		code     int
		want     string
		location string
	}{
		{"/api/v1/namespaces/ns/pods/p/proxy/a/b?c=d", 200, "GET /a/b?c=d", ""},
		{"/api/v1/namespaces/ns/pods/http:p:8080/proxy/", 200, "GET /?", ""},
		{"/api/v1/namespaces/ns/pods/p/proxy", 301, "", "/api/v1/namespaces/ns/pods/p/proxy/"},
		{"/api/v1/namespaces/ns/pods/p/proxy/moved", 302, "", "/api/v1/namespaces/ns/pods/p/proxy/there"},
		{"/api/v1/namespaces/ns/pods/p/proxy/html", 200, `<a href="/api/v1/namespaces/ns/pods/p/proxy/link">`, ""},
		{"/api/v1/namespaces/ns/services/s/proxy/x", 200, "GET /x?", ""},
		{"/api/v1/namespaces/ns/services/s:web/proxy/x", 200, "GET /x?", ""},
		{"/api/v1/namespaces/ns/services/s:80/proxy/x", 200, "GET /x?", ""},
		{"/api/v1/namespaces/ns/services/s:81/proxy/x", 503, `no service port 81 found for service \"s\"`, ""},
		{"/api/v1/namespaces/ns/services/empty/proxy/x", 503, `no endpoints available for service \"empty\"`, ""},
		{"/api/v1/namespaces/ns/services/none/proxy/x", 404, `services \"none\" not found`, ""},
		{"/api/v1/nodes/n/proxy/healthz", 200, "kubelet says hello", ""},
		{"/api/v1/nodes/n:1234/proxy/healthz", 400, "address not allowed", ""},
	} {
		resp, body := w.get(tt.path)
		if resp.StatusCode != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.path, resp.StatusCode, body, tt.code, tt.want)
		}
		if got := resp.Header.Get("Location"); tt.location != "" && got != tt.location {
			t.Errorf("%s: sent to %q, want %q", tt.path, got, tt.location)
		}
	}
}
