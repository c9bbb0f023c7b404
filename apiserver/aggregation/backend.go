package aggregation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/apiserver/services"
	"github.com/coxswain/cox/client"
)

// backend is the server behind one APIService.
type backend struct {
	name      string
	spec      apiregistrationv1.APIServiceSpec
	target    url.URL
	plain     *http.Transport // HTTP/2 where the server speaks it
	upgrade   *http.Transport // HTTP/1.1, for connections that change protocol
	broken    error
	available atomic.Bool
}

func newBackend(c Config, s *apiregistrationv1.APIService) *backend {
	b := &backend{name: s.Name, spec: *s.Spec.DeepCopy()}
	port := int32(443)
	if s.Spec.Service.Port != nil {
		port = *s.Spec.Service.Port
	}
	namespace, name := s.Spec.Service.Namespace, s.Spec.Service.Name
	host := services.Host(namespace, name)
	b.target = url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: s.Spec.InsecureSkipTLSVerify, // asked for by name
		GetClientCertificate: c.Identity,
	}
	if len(s.Spec.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(s.Spec.CABundle) {
			b.broken = fmt.Errorf("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, namespace, name, port) }
	b.plain = &http.Transport{TLSClientConfig: conf, DialContext: dial, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
	one := conf.Clone()
	one.NextProtos = []string{"http/1.1"}
	b.upgrade = &http.Transport{TLSClientConfig: one, DialContext: dial, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
	for _, cond := range s.Status.Conditions {
		if cond.Type == apiregistrationv1.Available && cond.Status == apiregistrationv1.ConditionTrue {
			b.available.Store(true) // as another server or an earlier life found it
		}
	}
	return b
}

func (b *backend) sameAs(s *apiregistrationv1.APIService) bool {
	return reflect.DeepEqual(b.spec, s.Spec)
}

func (b *backend) close() {
	b.plain.CloseIdleConnections()
	b.upgrade.CloseIdleConnections()
}

// RoundTrip sends a request the way that it needs.
func (b *backend) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return b.upgrade.RoundTrip(r)
	}
	return b.plain.RoundTrip(r)
}

// Handler returns what serves a group version elsewhere, or nil. The caller
// has authenticated and authorized the request, and names its user.
func (a *Aggregator) Handler(gv schema.GroupVersion) func(http.ResponseWriter, *http.Request, client.User) {
	b := (*a.state.Load())[gv]
	if b == nil {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request, u client.User) {
		if !b.available.Load() || b.broken != nil {
			http.Error(w, "service unavailable", http.StatusServiceUnavailable)
			return
		}
		proxy := &httputil.ReverseProxy{
			Transport: b, FlushInterval: -1, ErrorLog: slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = b.target.Scheme, b.target.Host, b.target.Host
				p.SetXForwarded()
				p.Out.Header["X-Forwarded-For"] = append(p.In.Header["X-Forwarded-For"], p.Out.Header["X-Forwarded-For"]...)
				setUser(p.Out.Header, u)
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				a.cfg.Log.Warn("an aggregated API server did not answer", "apiservice", b.name, "path", r.URL.Path, "error", err)
				http.Error(w, "error trying to reach service: "+err.Error(), http.StatusServiceUnavailable)
			},
		}
		proxy.ServeHTTP(w, r)
	}
}

// setUser names the user in the front-proxy headers, and no one else.
func setUser(h http.Header, u client.User) {
	for k := range h {
		if strings.HasPrefix(k, "X-Remote-") || strings.HasPrefix(k, "Impersonate-") {
			h.Del(k)
		}
	}
	h.Del("Authorization")
	h.Set("X-Remote-User", u.Name)
	if u.UID != "" {
		h.Set("X-Remote-Uid", u.UID)
	}
	for _, g := range u.Groups {
		h.Add("X-Remote-Group", g)
	}
	for k, vs := range u.Extra {
		for _, v := range vs {
			h.Add("X-Remote-Extra-"+url.PathEscape(k), v)
		}
	}
}

// discover asks the server what it serves.
func (b *backend) discover(ctx context.Context) ([]metav1.APIResource, error) {
	if b.broken != nil {
		return nil, b.broken
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u := b.target
	u.Path = "/apis/" + b.spec.Group + "/" + b.spec.Version
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	setUser(req.Header, client.User{Name: "system:kube-aggregator", Groups: []string{"system:masters"}})
	res, err := b.plain.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("failing or missing response from %v: Get %q: %w", u.String(), u.String(), err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("failing or missing response from %v: %w", u.String(), err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, fmt.Errorf("failing or missing response from %v: bad status from %v: %d", u.String(), u.String(), res.StatusCode)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(bytes.TrimSpace(body), &list); err != nil {
		return []metav1.APIResource{}, nil // it answers; what it serves is its own affair
	}
	if list.APIResources == nil {
		list.APIResources = []metav1.APIResource{}
	}
	return list.APIResources, nil
}

func same(a, b []metav1.APIResource) bool { return a != nil && reflect.DeepEqual(a, b) }
