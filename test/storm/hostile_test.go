package storm_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/test/apiproc"
)

var watches = flag.Int("storm.watches", 1000, "how many idle watches are held")

const maps = "/api/v1/namespaces/default/configmaps"

// send makes one request and returns its status and the answer's beginning.
func send(t *testing.T, c *http.Client, method, url, contentType string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, string(text)
}

func start(t *testing.T) (*apiproc.Proc, *rest.Config, *http.Client) {
	t.Helper()
	p := apiproc.New(t, t.TempDir())
	p.Start()
	cfg := p.Config()
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, "POST", cfg.Host+"/api/v1/namespaces", "application/json", strings.NewReader(`{"metadata":{"name":"default"}}`))
	return p, cfg, c
}

// bomb is YAML whose aliases stand for 9 to the power of levels strings.
func bomb(levels int) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i <= levels; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 8), i-1)
	}
	return b.String()
}

// Documents that are too large, too deep or that grow when they are read are
// refused, and cost the server little.
func TestHostileBodies(t *testing.T) {
	p, cfg, c := start(t)
	before := p.RSS()
	deep := func(open, shut string, n int) string { return strings.Repeat(open, n) + strings.Repeat(shut, n) }
	object := func(data string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":` + data + `}`
	}
	for _, tc := range []struct {
		name, method, path, contentType, body string
		want                                  []int
	}{
		{"4 MB", "POST", maps, "application/json", object(`{"k":"` + strings.Repeat("x", 4<<20) + `"}`), []int{413}},
		{"2 MB", "POST", maps, "application/json", object(`{"k":"` + strings.Repeat("x", 2<<20) + `"}`), []int{400, 413, 422, 500}},
		{"deep JSON", "POST", maps, "application/json", object(deep(`{"a":`, "}", 200000)), []int{400}},
		{"deep arrays", "POST", maps, "application/json", deep("[", "]", 1000000), []int{400}},
		{"deep YAML", "POST", maps, "application/yaml", deep("[", "]", 100000), []int{400}},
		{"YAML bomb", "POST", maps, "application/yaml", bomb(9), []int{400}},
		{"larger YAML bomb", "POST", maps, "application/yaml", bomb(40), []int{400}},
		{"YAML bomb applied", "PATCH", maps + "/bomb?fieldManager=m", "application/apply-patch+yaml", bomb(9), []int{400}},
		{"deep merge patch", "PATCH", maps + "/x", "application/merge-patch+json", deep(`{"a":`, "}", 200000), []int{400, 404, 422}},
		{"20,000 JSON patch operations", "PATCH", maps + "/x", "application/json-patch+json",
			"[" + strings.TrimSuffix(strings.Repeat(`{"op":"add","path":"/data/a","value":"b"},`, 20000), ",") + "]", []int{404, 413, 422}},
		{"a patch that doubles", "PATCH", maps + "/x", "application/json-patch+json",
			"[" + strings.TrimSuffix(strings.Repeat(`{"op":"copy","from":"/data","path":"/data/a"},`, 60), ",") + "]", []int{400, 404, 413, 422}},
		{"a long selector", "GET", maps + "?labelSelector=" + strings.Repeat("a%2Cb%21%3Dc%2C", 5000), "", "", []int{200, 400, 414, 431}},
		{"empty protobuf", "POST", maps, "application/vnd.kubernetes.protobuf", "k8s\x00", []int{400}},
		{"protobuf that says it is long", "POST", maps, "application/vnd.kubernetes.protobuf", "k8s\x00\x0a\xff\xff\xff\xff\x07", []int{400}},
	} {
		if strings.HasPrefix(tc.name, "20,000") {
			send(t, c, "POST", cfg.Host+maps, "application/json", strings.NewReader(object(`{"k":"v"}`)))
		}
		code, text := send(t, c, tc.method, cfg.Host+tc.path, tc.contentType, strings.NewReader(tc.body))
		ok := false
		for _, w := range tc.want {
			ok = ok || code == w
		}
		if !ok {
			t.Errorf("%s: %d %.300s, want %v", tc.name, code, text, tc.want)
		}
	}
	if code, text := send(t, c, "GET", cfg.Host+"/readyz", "", nil); code != 200 {
		t.Errorf("afterwards: %d %s", code, text)
	}
	t.Logf("resident: %d MiB before, %d MiB afterwards", before>>20, p.RSS()>>20)
	if p.RSS() > before+400<<20 {
		t.Errorf("the server has grown from %d to %d MiB", before>>20, p.RSS()>>20)
	}
}

// Clients that send or read slowly, or not at all, are in nobody's way.
func TestSlowClients(t *testing.T) {
	p, cfg, c := start(t)
	secure, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	secure.NextProtos = []string{"http/1.1"}
	dial := func() net.Conn {
		conn, err := tls.Dial("tcp", p.Address(), secure)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	large := `{"metadata":{"name":"l%d"},"data":{"k":"` + strings.Repeat("x", 900<<10) + `"}}`
	for i := range 8 {
		if code, text := send(t, c, "POST", cfg.Host+maps, "application/json", strings.NewReader(fmt.Sprintf(large, i))); code != 201 {
			t.Fatal(code, text)
		}
	}
	slow := func(what, text string) {
		conn := dial()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(what, err)
		}
	}
	for range 100 {
		slow("half a header", "GET "+maps+" HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		slow("half a body", "POST "+maps+"?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		slow("nothing is read", "GET "+maps+" HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for i := range 20 {
		body := fmt.Sprintf(`{"metadata":{"name":"quick-%d"}}`, i)
		if code, text := send(t, c, "POST", cfg.Host+maps, "application/json", strings.NewReader(body)); code != 201 {
			t.Errorf("a quick client beside slow ones: %d %s", code, text)
		}
	}
	// A body that does not come is waited for as long as the request may take.
	conn := dial()
	_, _ = io.WriteString(conn, "POST "+maps+"?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal("no answer to half a body:", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("half a body: %s", resp.Status)
	}
	t.Logf("resident with 300 slow clients: %d MiB", p.RSS()>>20)
}

// Idle watches cost little, and each is told of a change.
func TestIdleWatches(t *testing.T) {
	p, cfg, c := start(t)
	before := p.RSS()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told sync.WaitGroup
	var clients []*http.Client
	for range 1 + *watches/200 { // a connection carries 250 streams
		cfg := p.Config()
		cfg.Timeout = time.Hour + time.Duration(len(clients)) // else they would share one transport
		cfg.Dial = (&net.Dialer{}).DialContext
		c, err := rest.HTTPClientFor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for i := range *watches {
		req, err := http.NewRequestWithContext(ctx, "GET", cfg.Host+maps+"?watch=1&fieldSelector=metadata.name%3Dthe-one", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := clients[i%len(clients)].Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("watch %d: %v %v", i, resp, err)
		}
		told.Go(func() {
			defer resp.Body.Close()
			line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
			if err != nil || !bytes.Contains(line, []byte("the-one")) {
				t.Errorf("watch %d: %.100s %v", i, line, err)
			}
		})
	}
	after := p.RSS()
	t.Logf("%d watches: %d MiB resident before, %d MiB with them, %d KiB each", *watches, before>>20, after>>20, (after-before)/int64(*watches)>>10)
	if each := (after - before) / int64(*watches); each > 100<<10 {
		t.Errorf("a watch costs %d KiB", each>>10)
	}
	if code, text := send(t, c, "POST", cfg.Host+maps, "application/json", strings.NewReader(`{"metadata":{"name":"the-one"}}`)); code != 201 {
		t.Fatal(code, text)
	}
	told.Wait()
}
