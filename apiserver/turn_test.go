package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/client"
)

// A request that finds no seat in time is refused at both doors with a 429
// that says when to come again; a watch keeps none.
func TestTurns(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	w := newWorld(t, func(c *apiserver.Config) {
		c.Flow = flow.New(flow.Config{Seats: 1, Patience: 10 * time.Millisecond})
		t.Cleanup(c.Flow.Close)
	}, withHook(func(context.Context, *client.Request, runtime.Object, runtime.Object) (func(bool), error) {
		entered <- struct{}{}
		<-release
		return nil, nil
	}))
	in := client.ConfigMaps.In(w.local, "default")
	watch, err := in.Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	// A level can borrow what the others lend, so more than one may get in;
	// not more than there are levels with seats to lend.
	done := make(chan error, 20)
	for i := range 20 {
		go func() {
			_, err := in.Create(t.Context(), configMap("default", "held-"+string(rune('a'+i)), nil))
			done <- err
		}()
	}
	<-entered
	refused := 0
	for len(entered)+1+refused < 20 {
		if err := <-done; err == nil {
			t.Fatal("a request ended that waits")
		}
		refused++
	}
	if refused < 10 {
		t.Errorf("only %d of 20 were refused", refused)
	}
	resp, body := w.http(http.MethodGet, cmPath, "")
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, `"reason":"TooManyRequests"`) {
		t.Error(resp.StatusCode, resp.Header, body)
	}
	close(release)
	for range 20 - refused {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		if resp, body := w.http(http.MethodGet, cmPath, ""); resp.StatusCode != http.StatusOK {
			t.Error("seats were not given back:", resp.StatusCode, body)
		}
		if resp, body := w.http(http.MethodGet, "/version", ""); resp.StatusCode != http.StatusOK {
			t.Error("seats were not given back:", resp.StatusCode, body)
		}
	}
}

// A refusal that repeats a name which is no text is a Status in every format.
func TestUnreadableName(t *testing.T) {
	w := newWorld(t)
	for _, accept := range []string{asJSON, "application/yaml", "application/vnd.kubernetes.protobuf"} {
		resp, body := w.http(http.MethodGet, cmPath+"/%a5%01%ff", "", "Accept", accept, "X-Test-User", "nobody")
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Content-Type") != accept || !strings.Contains(body, "Status") {
			t.Errorf("%s: %d in %s: %s", accept, resp.StatusCode, resp.Header.Get("Content-Type"), body)
		}
	}
}
