// Package shutdown_test ends API servers under load and sees that nobody
// notices more than that they are gone.
package shutdown_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/test/apiproc"
)

func TestMain(m *testing.M) {
	if apiproc.Main() {
		return
	}
	os.Exit(m.Run())
}

const path = "/api/v1/namespaces/default/configmaps"

// errGone says that no connection could be made: no request was sent.
var errGone = errors.New("the server does not listen")

// caller returns an HTTP client of its own. It does not repeat requests.
func caller(t *testing.T, cfg *rest.Config, http2 bool) *http.Client {
	t.Helper()
	secure, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if http2 {
		secure.NextProtos = []string{"h2"}
	}
	dialer := &tls.Dialer{Config: secure}
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: http2, MaxIdleConnsPerHost: 64,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errGone, err)
			}
			return c, nil
		},
	}}
}

// 64 clients write when the server is told to end: each of their requests is
// answered until it listens no longer, and watches end as if in time.
func TestStopUnderLoad(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) { stopUnderLoad(t, http2) })
	}
}

func stopUnderLoad(t *testing.T, http2 bool) {
	dir := t.TempDir()
	p := apiproc.New(t, dir)
	p.Start()
	url := "https://" + p.Address()
	post(t, caller(t, p.Config(), true), url+"/api/v1/namespaces", `{"metadata":{"name":"default"}}`)

	var watches, writers sync.WaitGroup
	for range 8 {
		resp, err := caller(t, p.Config(), http2).Get(url + path + "?watch=true")
		if err != nil {
			t.Fatal(err)
		}
		watches.Go(func() {
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Errorf("a watch did not end as it should: %v", err)
			}
		})
	}
	var acked, failed atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	warm := make(chan struct{}, 64)
	shared := caller(t, p.Config(), http2)
	for i := range 64 {
		c := shared
		if i%2 == 0 {
			c = caller(t, p.Config(), http2)
		}
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprintf(`{"metadata":{"name":"c-%d-%d"}}`, i, n)
				resp, err := c.Post(url+path, "application/json", strings.NewReader(body))
				if errors.Is(err, errGone) {
					return
				}
				if err != nil {
					t.Errorf("writer %d, request %d: %v", i, n, err)
					failed.Add(1)
					return
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusCreated {
					t.Errorf("writer %d, request %d: %d %s %v", i, n, resp.StatusCode, text, err)
					failed.Add(1)
					return
				}
				acked.Add(1)
				if n == 3 {
					warm <- struct{}{}
				}
			}
		})
	}
	for range 64 {
		select {
		case <-warm:
		case <-ctx.Done():
			t.Fatal("the writers do not get on")
		}
	}
	if err := p.Stop(); err != nil {
		t.Errorf("the server did not end well: %v", err)
	}
	writers.Wait()
	watches.Wait()

	// What was acknowledged is there.
	p.Start()
	resp, err := caller(t, p.Config(), true).Get("https://" + p.Address() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(strings.Count(string(text), `"name":"c-`)); n != acked.Load() {
		t.Errorf("%d objects, %d were acknowledged and %d failed", n, acked.Load(), failed.Load())
	}
}

func post(t *testing.T, c *http.Client, url, body string) {
	t.Helper()
	resp, err := c.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusConflict {
		t.Fatal(resp.Status)
	}
}
