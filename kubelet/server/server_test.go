package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
	"github.com/coxswain/cox/runtime"
)

// apiServer answers reviews: the token "good" is alice's, who may do what
// allowed holds.
type apiServer struct {
	allowed map[string]bool // "verb subresource"
	asked   []string
}

func (a *apiServer) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	switch o := req.Object.(type) {
	case *authenticationv1.TokenReview:
		o = o.DeepCopy()
		o.Status.Authenticated = o.Spec.Token == "good"
		o.Status.User.Username = "alice"
		return &client.Result{Object: o}, nil
	case *authorizationv1.SubjectAccessReview:
		o = o.DeepCopy()
		a.asked = append(a.asked, o.Spec.User+" "+o.Spec.ResourceAttributes.Verb+" "+o.Spec.ResourceAttributes.Subresource+" "+o.Spec.ResourceAttributes.Name)
		o.Status.Allowed = a.allowed[o.Spec.ResourceAttributes.Verb+" "+o.Spec.ResourceAttributes.Subresource]
		return &client.Result{Object: o}, nil
	}
	return nil, fmt.Errorf("unexpected %s of %v", req.Verb, req.Resource)
}

func (a *apiServer) Watch(context.Context, *client.Request) (watch.Interface, error) {
	return nil, errors.ErrUnsupported
}

// fakeNode is a node with one pod.
type fakeNode struct {
	pod     *corev1.Pod
	sandbox string
	refs    map[string]*kubelet.ContainerRef
}

func (n *fakeNode) NodeName() string       { return "node-1" }
func (n *fakeNode) PodList() []*corev1.Pod { return []*corev1.Pod{n.pod} }
func (n *fakeNode) VolumeStats(context.Context, *corev1.Pod) []stats.VolumeStats {
	used := uint64(5)
	return []stats.VolumeStats{
		{Name: "data", PVCRef: &stats.PVCReference{Namespace: "ns", Name: "claim"}, FsStats: stats.FsStats{UsedBytes: &used}, VolumeHealthStats: &stats.VolumeHealthStats{Abnormal: true}},
		{Name: "inline", FsStats: stats.FsStats{UsedBytes: &used}},
	}
}
func (n *fakeNode) Pod(namespace, name, uid string) (*corev1.Pod, bool) {
	return n.pod, namespace == n.pod.Namespace && name == n.pod.Name && (uid == "" || uid == string(n.pod.UID))
}
func (n *fakeNode) Container(_, _, _, container string, previous bool) (*kubelet.ContainerRef, error) {
	if c := n.refs[container]; c != nil && !previous {
		return c, nil
	}
	return nil, fmt.Errorf("container %q in pod %q is waiting to start: ContainerCreating", container, n.pod.Name)
}
func (n *fakeNode) Sandbox(_, _, _ string) (string, string, error) {
	return n.sandbox, "127.0.0.1", nil
}

func newPod() *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID = "default", "web", "uid-1"
	return p
}

// certs makes a CA, a serving certificate and client certificates.
type certs struct {
	t      *testing.T
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	server tls.Certificate
}

func newCerts(t *testing.T) *certs {
	c := &certs{t: t}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.caKey = key
	c.server = c.issue("node-1", "system:nodes")
	return c
}

func (c *certs) issue(cn, org string) tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: []string{org}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.ca, &key.PublicKey, c.caKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (c *certs) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.ca)
	return p
}

// serve runs the API and returns its address.
func serve(t *testing.T, c *certs, cfg Config) string {
	t.Helper()
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.server, nil }
	cfg.ClientCAs = c.pool
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestVolumesInMetrics(t *testing.T) {
	var out text
	out.volumes(t.Context(), &fakeNode{pod: newPod()})
	got := out.String()
	for _, want := range []string{
		`kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="claim"} 5`,
		`kubelet_volume_stats_health_status_abnormal{namespace="ns",persistentvolumeclaim="claim"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "inline") || strings.Contains(got, "capacity") {
		t.Errorf("what nobody told is in\n%s", got)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	api := &apiServer{allowed: map[string]bool{"get metrics": true, "get proxy": true}}
	c := newCerts(t)
	cri, err := runtime.Dial("unix:///nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	r, i := cri.CRI()
	addr := serve(t, c, Config{Node: &fakeNode{pod: newPod()}, Runtime: r, Images: i, Client: api})
	bob := c.issue("bob", "team")
	stranger := newCerts(t).issue("bob", "system:masters")
	for name, q := range map[string]struct {
		method, path, token string
		cert                *tls.Certificate
		want                int
	}{
		"nobody":              {"GET", "/healthz", "", nil, 401},
		"bad token":           {"GET", "/healthz", "bad", nil, 401},
		"token":               {"GET", "/metrics", "good", nil, 200},
		"certificate":         {"GET", "/metrics", "", &bob, 200},
		"falls back to proxy": {"GET", "/pods", "", &bob, 200},
		"who it is":           {"GET", "/statusz", "", &bob, 200},
		"its flags":           {"GET", "/flagz", "", &bob, 200},
		"no fallback":         {"GET", "/stats/summary", "", &bob, 403},
		"exec is a creation":  {"GET", "/exec/default/web/c?command=x&output=1", "", &bob, 403},
		"not another's path":  {"GET", "/metrics/../stats/summary", "", &bob, 400},
	} {
		tc := &tls.Config{RootCAs: c.pool()}
		if q.cert != nil {
			tc.Certificates = []tls.Certificate{*q.cert}
		}
		req, _ := http.NewRequest(q.method, "https://"+addr+q.path, nil)
		if q.token != "" {
			req.Header.Set("Authorization", "Bearer "+q.token)
		}
		tr := &http.Transport{TLSClientConfig: tc}
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		tr.CloseIdleConnections()
		if res.StatusCode != q.want {
			t.Errorf("%s: %d %s, want %d", name, res.StatusCode, body, q.want)
		}
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.pool(), Certificates: []tls.Certificate{stranger}}}
	req, _ := http.NewRequest("GET", "https://"+addr+"/metrics", nil)
	if res, err := tr.RoundTrip(req); err == nil && res.StatusCode == 200 {
		t.Error("a certificate of another CA is accepted")
	}
	for _, want := range []string{"bob get statusz node-1", "bob get configz node-1"} {
		if !slices.Contains(api.asked, want) {
			t.Errorf("%q was not asked: %q", want, api.asked)
		}
	}
	for _, a := range api.asked {
		if !strings.HasSuffix(a, " node-1") {
			t.Errorf("asked about %q", a)
		}
	}
}

func TestLogOptions(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for query, ok := range map[string]bool{
		"": true, "follow=true&tailLines=0&limitBytes=1&timestamps=true&sinceSeconds=5&stream=Stderr": true, "tailLines=all": true,
		"tailLines=-1": false, "limitBytes=0": false, "follow=maybe": false, "sinceTime=yesterday": false, "stream=stdin": false,
	} {
		q, _ := url.ParseQuery(query)
		o, err := logOptions(q, now)
		if (err == nil) != ok {
			t.Errorf("%q: %v", query, err)
		}
		if q.Get("sinceSeconds") == "5" && (!o.Since.Equal(now.Add(-5*time.Second)) || o.Stream != "stderr" || *o.Tail != 0) {
			t.Errorf("%q: %+v", query, o)
		}
	}
}

func TestRatesNeedTwoSamplesAndForget(t *testing.T) {
	var r rates
	at := time.Unix(100, 0)
	if got := r.of("a", at, 1e9); got != nil {
		t.Errorf("a first sample gives %d", *got)
	}
	if got := r.of("a", at.Add(2*time.Second), 2e9); got == nil || *got != 5e8 {
		t.Errorf("half a core: %v", got)
	}
	// Too close to compute anew, and after a restart of the counter.
	if got := r.of("a", at.Add(2100*time.Millisecond), 9e9); got == nil || *got != 5e8 {
		t.Errorf("too close: %v", got)
	}
	if got := r.of("a", at.Add(4*time.Second), 1); got != nil {
		t.Errorf("restarted: %v", *got)
	}
	r.keep(map[string]bool{})
	if len(r.last) != 0 {
		t.Error("nothing is forgotten")
	}
}

func TestSystemLogsStayInside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.log"), []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{SystemLogs: dir}}
	for path, want := range map[string]int{"/logs/a.log": 200, "/logs/": 200, "/logs/out/passwd": 404, "/logs/none": 404} {
		w := &recorder{header: http.Header{}}
		req, _ := http.NewRequest("GET", path, nil)
		s.systemLogs(w, req)
		if w.code != want && !(want == 404 && w.code >= 400) {
			t.Errorf("%s: %d", path, w.code)
		}
	}
}

type recorder struct {
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(c int)   { r.code = c }
func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = 200
	}
	return len(b), nil
}

// What is believed of a user holds for no other, be it that only what the
// credential says further tells them apart.
func TestAnswersAreKeptByUser(t *testing.T) {
	asked := 0
	a := &authorizer{allowed: time.Minute, denied: time.Minute, ask: func(_ context.Context, u client.User, _, _, _ string) (bool, string, error) {
		asked++
		return u.Extra["scope"] != nil, "", nil
	}}
	r := httptest.NewRequest("GET", "/metrics", nil)
	bob, scoped := client.User{Name: "bob"}, client.User{Name: "bob", Extra: map[string][]string{"scope": {"read"}}}
	for range 2 {
		if err := a.check(r, scoped); err != nil {
			t.Error(err)
		}
		if err := a.check(r, bob); err == nil {
			t.Error("bob may do what he may only with a certain credential")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times about two users", asked)
	}
}
