package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/coxswain/cox/apiserver/admission/match"
	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/apiserver/services"
)

// maxAnswer bounds what a webhook may answer, in bytes.
const maxAnswer = 16 << 20

// failure says that a webhook could not be asked.
type failure struct {
	hook string
	err  error
}

func (f *failure) Error() string { return fmt.Sprintf("failed calling webhook %q: %v", f.hook, f.err) }
func (f *failure) Unwrap() error { return f.err }

// caller asks one webhook over its own connections.
type caller struct {
	name      string
	mutating  bool // and may answer with a patch
	url       url.URL
	version   string // of AdmissionReview
	timeout   time.Duration
	http      *http.Client
	transport *http.Transport
	cred      *callout.Credential // nil: none
}

func newCaller(w *admissionv1.MutatingWebhook, dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error), users *callout.Users) (*caller, error) {
	c := &caller{name: w.Name, timeout: 10 * time.Second}
	if w.TimeoutSeconds != nil {
		c.timeout = time.Duration(*w.TimeoutSeconds) * time.Second
	}
	i := slices.IndexFunc(w.AdmissionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return c, errors.New("webhook does not accept known AdmissionReview versions (v1, v1beta1)")
	}
	c.version = w.AdmissionReviewVersions[i]
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(w.ClientConfig.CABundle) > 0 {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(w.ClientConfig.CABundle) {
			return c, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	c.transport = &http.Transport{
		TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 25,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	c.http = &http.Client{Transport: c.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	switch {
	case w.ClientConfig.Service != nil:
		s := w.ClientConfig.Service
		port := int32(443)
		if s.Port != nil {
			port = *s.Port
		}
		host := services.Host(s.Namespace, s.Name)
		c.url = url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
		if s.Path != nil {
			c.url.Path = *s.Path
		}
		tlsConfig.ServerName = host
		c.cred = users.For(host)
		if port != 443 {
			c.cred = users.For(c.url.Host)
		}
		c.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, s.Namespace, s.Name, port)
		}
	case w.ClientConfig.URL != nil:
		u, err := url.Parse(*w.ClientConfig.URL)
		if err != nil {
			return c, fmt.Errorf("Unparsable URL: %w", err)
		}
		c.url = *u
		c.cred = users.For(u.Host)
		c.transport.Proxy = http.ProxyFromEnvironment
	default:
		return c, errors.New("webhook configuration must have either service or URL")
	}
	c.cred.TLS(tlsConfig)
	q := url.Values{"timeout": {c.timeout.String()}}
	c.url.RawQuery = q.Encode()
	if c.url.Path == "" {
		c.url.Path = "/"
	}
	return c, nil
}

func (c *caller) close() {
	if c != nil && c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// review is an AdmissionReview with the request's objects as JSON.
func review(w *match.Write, s match.Seen, version string) (*admissionreviewv1.AdmissionReview, error) {
	req := w.Request(s)
	req.UID = types.UID(uuid.NewUUID())
	for _, o := range []struct {
		in  runtime.Object
		out *runtime.RawExtension
	}{{w.Object, &req.Object}, {w.Old, &req.OldObject}} {
		if o.in == nil {
			continue
		}
		seen, err := w.In(s, o.in)
		if err != nil {
			return nil, err
		}
		if o.out.Raw, err = json.Marshal(match.Typed(seen, s.Kind)); err != nil {
			return nil, err
		}
	}
	return &admissionreviewv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionreviewv1.GroupName + "/" + version, Kind: "AdmissionReview"},
		Request:  req,
	}, nil
}

// ask sends a review and returns the checked answer. Every error is a
// *failure.
func (c *caller) ask(ctx context.Context, rev *admissionreviewv1.AdmissionReview) (*admissionreviewv1.AdmissionResponse, error) {
	fail := func(format string, err error) error { return &failure{c.name, fmt.Errorf(format, err)} }
	body, err := json.Marshal(rev)
	if err != nil {
		return nil, fail("could not create admission objects: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fail("could not get REST client: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", "kube-apiserver-admission")
	if err := c.cred.Authorize(req); err != nil {
		return nil, fail("failed to call webhook: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fail("failed to call webhook: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fail("failed to call webhook: %w", err)
	}
	if res.StatusCode < 200 || res.StatusCode > 206 {
		return nil, fail("failed to call webhook: %w", failed(res, answer))
	}
	if len(answer) == 0 {
		return nil, fail("failed to call webhook: %w", fmt.Errorf("0-length response with status code: %d and content type: %s", res.StatusCode, res.Header.Get("Content-Type")))
	}
	var got admissionreviewv1.AdmissionReview
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fail("failed to call webhook: %w", err)
	}
	if err := check(&got, rev, c.mutating); err != nil {
		return nil, fail("received invalid webhook response: %w", err)
	}
	return got.Response, nil
}

// failed is the error of an answer that is no success: the Status in it, or what
// its code says, with its text if it is one.
func failed(res *http.Response, answer []byte) error {
	var st metav1.Status
	if err := json.Unmarshal(answer, &st); err == nil && st.Kind == "Status" && st.Status != metav1.StatusSuccess {
		return &apierrors.StatusError{ErrStatus: st}
	}
	text := "unknown"
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/") {
		text = string(bytes.TrimSpace(answer))
	}
	return apierrors.NewGenericServerResponse(res.StatusCode, http.MethodPost, schema.GroupResource{}, "", text, 0, true)
}

// check holds an answer against what its version promises.
func check(got, asked *admissionreviewv1.AdmissionReview, mutating bool) error {
	r := got.Response
	if r == nil {
		return errors.New("webhook response was absent")
	}
	v1 := asked.APIVersion == admissionreviewv1.SchemeGroupVersion.String()
	if v1 {
		if got.APIVersion != asked.APIVersion || got.Kind != asked.Kind {
			return fmt.Errorf("expected webhook response of %v, got %v", asked.GroupVersionKind(), got.GroupVersionKind())
		}
		if r.UID != asked.Request.UID {
			return fmt.Errorf("expected response.uid=%q, got %q", asked.Request.UID, r.UID)
		}
	}
	switch {
	case !v1 || len(r.Patch) == 0 && r.PatchType == nil:
	case !mutating && len(r.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !mutating:
		return errors.New("validating webhook may not return response.patchType")
	case len(r.Patch) == 0:
		return fmt.Errorf("webhook returned response.patchType but not response.patch")
	case r.PatchType == nil:
		return fmt.Errorf("webhook returned response.patch but not response.patchType")
	case *r.PatchType != admissionreviewv1.PatchTypeJSONPatch:
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	return nil
}

// refusal is the Status by which a webhook's no reaches the user.
func refusal(hook string, result *metav1.Status) error {
	st := metav1.Status{Status: metav1.StatusFailure}
	if result != nil {
		st = *result.DeepCopy()
	}
	if st.Code < http.StatusBadRequest {
		st.Code = http.StatusBadRequest
	}
	if st.Status == "" || st.Status == metav1.StatusSuccess {
		st.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", hook)
	switch {
	case st.Message != "":
		st.Message = by + ": " + st.Message
	case st.Reason != "":
		st.Message = by + ": " + string(st.Reason)
	default:
		st.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: st}
}
