package storm_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/test/apiproc"
	"github.com/coxswain/cox/test/storm"
)

var (
	count      = flag.Int("storm.n", 4000, "how many requests are made")
	seed       = flag.Uint64("storm.seed", 1, "which ones")
	workers    = flag.Int("storm.workers", 64, "how many requests are under way at once; some watches and waits take seconds")
	kubeconfig = flag.String("storm.kubeconfig", "", "a cluster that may be spoilt, instead of a server made for the test")
)

func TestMain(m *testing.M) {
	if apiproc.Main() {
		return
	}
	os.Exit(m.Run())
}

// server is what is stormed; proc is nil for a cluster elsewhere.
func server(t *testing.T) (*rest.Config, *apiproc.Proc) {
	if *kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		return cfg, nil
	}
	p := apiproc.New(t, t.TempDir())
	p.Start()
	return p.Config(), p
}

// Random requests, many of them broken, leave the server healthy, and each is
// answered by a proper Status where it is not by what was asked for.
func TestStorm(t *testing.T) {
	cfg, proc := server(t)
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	send(t, c, "POST", cfg.Host+"/api/v1/namespaces", "application/json", strings.NewReader(`{"metadata":{"name":"default"}}`)) // or little gets far
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(*count)*10*time.Millisecond)
	defer cancel()
	if proc != nil {
		t.Logf("resident before: %d MiB", proc.RSS()>>20)
	}
	var next, bad atomic.Int64
	var mu sync.Mutex
	codes := map[int]int{}
	began := time.Now()
	var wg sync.WaitGroup
	for n := range *workers {
		wg.Go(func() {
			m := storm.NewMaker(*seed*uint64(*workers) + uint64(n))
			for bad.Load() < 20 {
				i := next.Add(1)
				if i > int64(*count) {
					return
				}
				if i%50_000 == 0 {
					t.Logf("%d requests in %v", i, time.Since(began).Round(time.Second))
				}
				r := m.Next()
				code, err := try(ctx, c, cfg.Host, r)
				if err != nil {
					bad.Add(1)
					t.Errorf("%v\n%v", err, r)
				}
				mu.Lock()
				codes[code]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, path := range []string{"/livez", "/readyz", "/api/v1/namespaces"} {
		resp, err := c.Get(cfg.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s afterwards: %s", path, resp.Status)
		}
	}
	t.Logf("answers: %v", codes)
	if proc != nil {
		t.Logf("resident afterwards: %d MiB", proc.RSS()>>20)
		if text := proc.Stderr(); strings.Contains(text, "panic") {
			t.Errorf("something panicked:\n%s", text)
		}
	}
}

// try makes a request and judges the answer.
func try(ctx context.Context, c *http.Client, host string, r *storm.Request) (int, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, host+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return 0, nil // no HTTP client could make it
	}
	req.Header = r.Header
	resp, err := c.Do(req)
	if err != nil {
		return 0, fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, fmt.Errorf("half an answer: %w", err)
	}
	switch {
	case r.Method == http.MethodHead && resp.StatusCode == http.StatusInternalServerError:
		get := *r // the answer has no body that would say why: that of GET has
		get.Method = http.MethodGet
		return try(ctx, c, host, &get)
	case resp.StatusCode == http.StatusInternalServerError && known(string(body)):
		return resp.StatusCode, proper(resp, body)
	case resp.StatusCode == http.StatusInternalServerError && strings.Contains(string(body), "ServerTimeout"):
		return resp.StatusCode, proper(resp, body) // a disk that is slow beside other work: clients try again
	case resp.StatusCode == http.StatusInternalServerError && healthPath(r.Path):
		return resp.StatusCode, nil // of the same cause; how the server is afterwards is asked at the end
	case resp.StatusCode == http.StatusNotAcceptable && strings.HasPrefix(r.Path, "/openapi"):
		return resp.StatusCode, nil // not a resource either: upstream answers without a body
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusGatewayTimeout && resp.StatusCode != http.StatusNotImplemented:
		return resp.StatusCode, fmt.Errorf("%s: %s", resp.Status, head(body))
	case resp.StatusCode < 400 || r.Method == http.MethodHead:
		return resp.StatusCode, nil
	}
	return resp.StatusCode, proper(resp, body)
}

// known says that upstream refuses the same request with a 500, too: asked and
// compared, message for message.
func known(body string) bool {
	body = strings.Join(strings.Fields(body), " ") // YAML breaks lines
	for _, text := range []string{
		"failed to create typed patch object", // what is applied does not fit the schema
		"failed to convert new object",        // or not the Go type
		"strconv.ParseUint: parsing",          // a resourceVersion that is none
		"resourceVersion should not be set on objects to be created",
		" doesn't match $setElementOrder list",
		"yaml: control characters are not allowed", // an object that YAML cannot show
	} {
		if strings.Contains(body, text) {
			return true
		}
	}
	return false
}

func healthPath(path string) bool {
	return strings.HasPrefix(path, "/readyz") || strings.HasPrefix(path, "/livez") || strings.HasPrefix(path, "/healthz")
}

func head(b []byte) string { return string(b[:min(len(b), 600)]) }

// proper says whether a refusal is one that clients understand.
func proper(resp *http.Response, body []byte) error {
	ct := resp.Header.Get("Content-Type")
	switch {
	case strings.HasPrefix(ct, "application/json"):
		var s struct {
			Kind, Status, Message string
			Code                  int
		}
		if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" || s.Status != "Failure" || s.Code != resp.StatusCode {
			return fmt.Errorf("%s: no Status: %s", resp.Status, head(body))
		}
	case strings.HasPrefix(ct, "application/yaml"), strings.HasPrefix(ct, "application/vnd.kubernetes.protobuf"):
		if !strings.Contains(string(body), "Status") {
			return fmt.Errorf("%s: no Status: %s", resp.Status, head(body))
		}
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusGatewayTimeout:
		// What is no resource is refused in plain text, as by upstream, and what
		// took too long.
	default:
		return fmt.Errorf("%s in %s: %s", resp.Status, ct, head(body))
	}
	return nil
}
