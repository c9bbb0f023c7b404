package aggregation

import (
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
	"github.com/coxswain/cox/apiserver/wire"
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
	documents atomic.Pointer[published] // nil before they are read
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
	transport := func(conf *tls.Config) *http.Transport {
		return &http.Transport{
			TLSClientConfig: conf, DialContext: dial, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
			DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
		}
	}
	b.plain = transport(conf)
	b.plain.ForceAttemptHTTP2 = true
	// A server whose machine died must not hold the requests of its connection.
	b.plain.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	one := conf.Clone()
	one.NextProtos = []string{"http/1.1"}
	b.upgrade = transport(one)
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
			ModifyResponse: judge,
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				if cause := context.Cause(r.Context()); cause != nil {
					wire.Fail(w, r, cause) // it took too long, or the client has gone
					return
				}
				a.cfg.Log.Warn("an aggregated API server did not answer", "apiservice", b.name, "path", r.URL.Path, "error", err)
				http.Error(w, "error trying to reach service: "+err.Error(), http.StatusServiceUnavailable)
			},
		}
		proxy.ServeHTTP(w, r)
	}
}

// judge refuses redirects: a client would follow them with its credentials, to
// wherever the other server wants (CVE-2022-3172). Headers that this server
// has set already are not set twice.
func judge(res *http.Response) error {
	if res.StatusCode >= 300 && res.StatusCode <= 399 && res.Header.Get("Location") != "" {
		const text = "the backend attempted to redirect this request, which is not permitted"
		_ = res.Body.Close()
		res.StatusCode, res.Status = http.StatusBadGateway, ""
		res.Header = http.Header{"Content-Type": {"text/plain; charset=utf-8"}}
		res.Body, res.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	}
	res.Header.Del("Audit-Id")
	if res.Header.Get("Cache-Control") == "no-cache, private" {
		res.Header.Del("Cache-Control")
	}
	return nil
}

// fetch gets a document from the server as the aggregator, in JSON, within
// five seconds. code is 0 if the server did not answer; an answer that is
// longer than most bytes is an error.
func (b *backend) fetch(ctx context.Context, path, tag string, most int64) (code int, header http.Header, body []byte, err error) {
	if b.broken != nil {
		return 0, nil, nil, b.broken
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u := b.target
	u.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	setUser(req.Header, client.User{Name: "system:kube-aggregator", Groups: []string{"system:masters"}})
	res, err := b.plain.RoundTrip(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("Get %q: %w", u.String(), err)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, most+1))
	if err == nil && int64(len(body)) > most {
		err = fmt.Errorf("the answer at %s is longer than %d bytes", path, most)
	}
	return res.StatusCode, res.Header, body, err
}

// discover asks the server what it serves. err says that it cannot be used,
// bad that it can but does not say what it serves.
func (b *backend) discover(ctx context.Context) (list []metav1.APIResource, bad, err error) {
	gv := b.spec.Group + "/" + b.spec.Version
	code, _, body, err := b.fetch(ctx, "/apis/"+gv, "", 4<<20)
	at := b.target.String() + "/apis/" + gv
	switch {
	case code == 0:
		return nil, nil, fmt.Errorf("failing or missing response from %s: %w", at, err)
	case code < 200 || code > 299:
		return nil, nil, fmt.Errorf("failing or missing response from %s: bad status from %s: %d", at, at, code)
	case err != nil:
		return nil, err, nil
	}
	list, bad = resourcesOf(body, gv)
	return list, bad, nil
}

// resourcesOf reads a server's list of the resources of a group version.
func resourcesOf(text []byte, gv string) ([]metav1.APIResource, error) {
	var doc metav1.APIResourceList
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("its list of resources: %w", err)
	}
	if doc.GroupVersion != gv {
		return nil, fmt.Errorf("its list of resources is that of %q", doc.GroupVersion)
	}
	list := []metav1.APIResource{}
	for _, r := range doc.APIResources {
		if r.Name != "" && r.Kind != "" {
			list = append(list, r)
		}
	}
	return list, nil
}
