package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
	"github.com/coxswain/cox/pki"
)

// reviewDoor knows the token "good" as the user of that name, who may see
// metrics, and publishes an authority.
type reviewDoor struct {
	authority      []byte
	tokens, access int
}

func (d *reviewDoor) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	switch o := req.Object.(type) {
	case *authenticationv1.TokenReview:
		d.tokens++
		o.Status.Authenticated = o.Spec.Token == "good"
		o.Status.User.Username = o.Spec.Token
		return &client.Result{Object: o}, nil
	case *authorizationv1.SubjectAccessReview:
		d.access++
		o.Status.Allowed = o.Spec.User == "good" && o.Spec.NonResourceAttributes.Path == "/metrics" && o.Spec.NonResourceAttributes.Verb == "get"
		return &client.Result{Object: o}, nil
	}
	return &client.Result{Object: &corev1.ConfigMap{Data: map[string]string{"client-ca-file": string(d.authority)}}}, nil
}

func (*reviewDoor) Watch(context.Context, *client.Request) (watch.Interface, error) {
	panic("nothing is watched")
}

func TestSecurePort(t *testing.T) {
	bundle, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	door := &reviewDoor{authority: bundle.CA.PEM()}
	r := &managerRole{profiling: true, name: "kube-controller-manager", shown: map[string]string{"leader-elect": "true"}}
	r.loops.flags(pflag.NewFlagSet("", pflag.ContinueOnError))
	r.secure = secureServing{bind: "127.0.0.1", port: freeTestPort(t), open: []string{"/healthz"}}
	l, err := r.secure.listen("test")
	if err != nil {
		t.Fatal(err)
	}
	pages := newManagerPages(r, &rest.Config{Host: "https://10.0.0.1:6443"})
	_, _ = pages.metrics.Counted(door, pages.host).Do(t.Context(), &client.Request{Verb: client.Get, Resource: client.ConfigMaps.GroupVersionResource})
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		over <- serveUntil(ctx, l, &guarded{
			who:  authn.Union(authn.AnonymousEverywhere(), authn.Bearer(&tokenReviews{door: door, ttl: time.Hour, seen: memo.New[[32]byte, reviewed](8)}), &clientAuthority{door: door}),
			may:  authz.Union(authz.Masters(), &accessReviews{door: door, allowed: time.Hour, denied: time.Hour, seen: memo.New[[32]byte, judged](8)}),
			open: r.secure.open, next: pages.handler(), log: slog.New(slog.DiscardHandler),
		})
	}()
	defer func() {
		cancel()
		if err := <-over; err != context.Canceled {
			t.Errorf("ended with %v", err)
		}
	}()
	url := "https://" + l.Addr().String()
	ask := func(path, token string, cert *tls.Certificate) (int, string) {
		t.Helper()
		conf := &tls.Config{InsecureSkipVerify: true} // its certificate is its own
		if cert != nil {
			conf.Certificates = []tls.Certificate{*cert}
		}
		transport := &http.Transport{TLSClientConfig: conf}
		defer transport.CloseIdleConnections()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	master, stranger := clientOf(t, bundle.CA), clientOf(t, otherAuthority(t))
	for _, c := range []struct {
		path, token string
		cert        *tls.Certificate
		code        int
		says        string
	}{
		{"/healthz", "", nil, 200, "ok"},
		{"/healthz?verbose", "", nil, 200, "[+]ping ok\nhealthz check passed\n"},
		{"/metrics", "", nil, 403, `forbidden: User \"system:anonymous\" cannot get path \"/metrics\"`},
		{"/livez", "", nil, 403, "system:anonymous"}, // not among the open paths here
		{"/metrics", "bad", nil, 401, "Unauthorized"},
		{"/metrics", "good", nil, 200, "rest_client_requests_total"},
		{"/metrics", "good", nil, 200, `workqueue_depth`},
		{"/configz", "good", nil, 403, "cannot get path"},
		{"/configz", "", master, 200, `"ConcurrentDeploymentSyncs":0`},
		{"/statusz", "", master, 200, "kube-controller-manager statusz"},
		{"/flagz", "", master, 200, "leader-elect=true"},
		{"/metrics/slis", "", master, 200, `kubernetes_healthcheck{name="ping",type="healthz"} 1`},
		{"/debug/pprof/cmdline", "", master, 200, "test"},
		{"/nothing", "", master, 404, ""},
		{"/metrics", "", stranger, 401, "Unauthorized"},
	} {
		if strings.Contains(c.says, "workqueue") { // a loop that has run shows its queue
			loop := client.NewMeasuredLoop("q", pages.metrics, slog.New(slog.DiscardHandler), func(context.Context, string) (time.Duration, error) { return 0, nil })
			done, stop := context.WithCancel(t.Context())
			stop()
			loop.Add("x")
			loop.Run(done, 1)
		}
		if code, body := ask(c.path, c.token, c.cert); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s as %q: %d %s", c.path, c.token, code, body)
		} else if code >= 400 && code != 404 {
			var st metav1.Status
			if err := json.Unmarshal([]byte(body), &st); err != nil || st.Code != int32(code) {
				t.Errorf("%s: %s", c.path, body)
			}
		}
	}
	if door.tokens != 2 || door.access > 4 {
		t.Errorf("%d tokens and %d accesses were reviewed", door.tokens, door.access)
	}
}

func clientOf(t *testing.T, ca *pki.CA) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(pki.Spec{CommonName: "m", Organizations: []string{"system:masters"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, &key.PublicKey, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func otherAuthority(t *testing.T) *pki.CA {
	t.Helper()
	b, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return b.CA
}

func freeTestPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
