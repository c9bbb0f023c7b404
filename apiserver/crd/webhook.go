package crd

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
	"sync"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	kjson "sigs.k8s.io/json"
)

// webhookPatience is how long a conversion may take, as upstream.
const webhookPatience = 30 * time.Second

// mostAnswer bounds what is read of a webhook's answer, in bytes.
const mostAnswer = 64 << 20

// Resolver finds where a port of a Service can be reached: "10.0.0.1:8443".
type Resolver func(ctx context.Context, namespace, name string, port int32) (string, error)

// converter asks a webhook to convert objects between versions. It is made
// with its definition and connects at its first use. It is safe for concurrent
// use.
type converter struct {
	conf    *extv1.WebhookConversion
	resolve Resolver
	client  func() (*http.Client, error)
	url     string
}

func newConverter(conf *extv1.WebhookConversion, resolve Resolver) *converter {
	c := &converter{conf: conf, resolve: resolve, url: target(conf.ClientConfig)}
	c.client = sync.OnceValues(c.connect)
	return c
}

// target is the URL that is posted to.
func target(cc *extv1.WebhookClientConfig) string {
	if cc.URL != nil {
		return *cc.URL
	}
	s := cc.Service
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(s.Name+"."+s.Namespace+".svc", strconv.Itoa(int(servicePort(s))))}
	if s.Path != nil {
		u.Path = *s.Path
	}
	return u.String()
}

func servicePort(s *extv1.ServiceReference) int32 {
	if s.Port == nil {
		return 443
	}
	return *s.Port
}

func (c *converter) connect() (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem := c.conf.ClientConfig.CABundle; len(pem) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	dial := (&net.Dialer{Timeout: webhookPatience}).DialContext
	if s := c.conf.ClientConfig.Service; s != nil {
		plain := dial
		dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			if c.resolve == nil {
				return nil, errors.New("services cannot be reached from here")
			}
			addr, err := c.resolve(ctx, s.Namespace, s.Name, servicePort(s))
			if err != nil {
				return nil, err
			}
			return plain(ctx, network, addr)
		}
	}
	return &http.Client{
		Timeout: webhookPatience,
		Transport: &http.Transport{
			TLSClientConfig: conf, DialContext: dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// all converts objects to a version, in one call; those that are in it already
// are returned as they are. Arguments are only read.
func (c *converter) all(d *definition, to *version, objs []runtime.Object) ([]runtime.Object, error) {
	out := make([]runtime.Object, len(objs))
	var at []int
	var req extv1.ConversionRequest
	for i, o := range objs {
		u := o.(*unstructured.Unstructured)
		if u.GetAPIVersion() == to.av {
			out[i] = u
			continue
		}
		raw, err := json.Marshal(u.Object)
		if err != nil {
			return nil, err
		}
		at = append(at, i)
		req.Objects = append(req.Objects, runtime.RawExtension{Raw: raw})
	}
	if len(at) == 0 {
		return out, nil
	}
	failed := func(err error) error {
		return fmt.Errorf("conversion webhook for %v failed: %w", objs[at[0]].GetObjectKind().GroupVersionKind(), err)
	}
	req.UID, req.DesiredAPIVersion = uuid.NewUUID(), to.av
	got, err := c.call(&req)
	if err != nil {
		return nil, failed(err)
	}
	if len(got) != len(at) {
		return nil, failed(fmt.Errorf("webhook returned %d objects, expected %d", len(got), len(at)))
	}
	for n, i := range at {
		u, err := accept(objs[i].(*unstructured.Unstructured), got[n].Raw, to)
		if err != nil {
			return nil, failed(fmt.Errorf("invalid converted object at index %d: %w", n, err))
		}
		if _, err := to.normalize(u, true); err != nil {
			return nil, failed(err)
		}
		out[i] = u
	}
	return out, nil
}

// call posts a review and returns the objects of the answer.
func (c *converter) call(req *extv1.ConversionRequest) ([]runtime.RawExtension, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	review := extv1.ConversionReview{Request: req}
	review.APIVersion, review.Kind = "apiextensions.k8s.io/v1", "ConversionReview"
	if i := slices.IndexFunc(c.conf.ConversionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" }); i >= 0 {
		review.APIVersion = "apiextensions.k8s.io/" + c.conf.ConversionReviewVersions[i]
	}
	body, err := json.Marshal(&review)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), webhookPatience)
	defer cancel()
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"?timeout=30s", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.Header.Set("Accept", "application/json, */*")
	resp, err := client.Do(hr)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server responded with the status code %d but did not return more information", resp.StatusCode)
	}
	var back extv1.ConversionReview
	if err := json.Unmarshal(answer, &back); err != nil {
		return nil, fmt.Errorf("invalid response: %w", err)
	}
	return judge(&review, &back)
}

// judge checks that an answer belongs to the question, and that it is a yes.
func judge(review, back *extv1.ConversionReview) ([]runtime.RawExtension, error) {
	switch {
	case back.APIVersion != review.APIVersion || back.Kind != review.Kind:
		return nil, fmt.Errorf("invalid response: expected webhook response of %s, Kind=%s, got %s, Kind=%s", review.APIVersion, review.Kind, back.APIVersion, back.Kind)
	case back.Response == nil:
		return nil, errors.New("invalid response: no response provided")
	case back.Response.UID != review.Request.UID && review.APIVersion == "apiextensions.k8s.io/v1":
		return nil, fmt.Errorf("invalid response: expected response.uid %q, got %q", review.Request.UID, back.Response.UID)
	case back.Response.Result.Status == metav1.StatusSuccess:
		return back.Response.ConvertedObjects, nil
	case back.Response.Result.Message != "":
		return nil, errors.New(back.Response.Result.Message)
	case back.Response.Result.Status == "":
		return nil, errors.New(`invalid response: response.result.status was '', not 'Success'`)
	}
	return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", back.Response.Result.Status)
}

// accept makes a converted object of what a webhook returned. Of metadata, a
// webhook may change labels and annotations only.
func accept(was *unstructured.Unstructured, raw []byte, to *version) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &u.Object); err != nil {
		return nil, err
	}
	if av := u.GetAPIVersion(); av != to.av {
		return nil, fmt.Errorf("invalid groupVersion %q, expected %q", av, to.av)
	}
	if k := u.GetKind(); k != to.gvk.Kind {
		return nil, fmt.Errorf("invalid kind %q, expected %q", k, to.gvk.Kind)
	}
	meta, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("metadata of converted object is missing or no object")
	}
	before, _ := was.Object["metadata"].(map[string]any)
	for _, name := range []string{"name", "namespace", "uid"} {
		if !apiequality.Semantic.DeepEqual(meta[name], before[name]) {
			return nil, fmt.Errorf("metadata.%s may not be changed by a conversion", name)
		}
	}
	merged := runtime.DeepCopyJSON(before)
	for _, name := range []string{"labels", "annotations"} {
		if v, ok := meta[name]; ok {
			merged[name] = v
		} else {
			delete(merged, name)
		}
	}
	u.Object["metadata"] = merged
	return u, nil
}
