package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/apiserver/callout"
)

func event(n int) *auditv1.Event {
	return &auditv1.Event{AuditID: types.UID(fmt.Sprint(n)), Level: auditv1.LevelMetadata, Stage: auditv1.StageResponseComplete}
}

func TestWebhook(t *testing.T) {
	var mu sync.Mutex
	var got []auditv1.EventList
	code := 200
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Kind != "EventList" || in.APIVersion != "audit.k8s.io/v1" {
			t.Errorf("got %+v, %v", in, err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, in)
		w.WriteHeader(code)
	}))
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("clusters: [{name: c, cluster: {server: '%s', insecure-skip-tls-verify: true}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n", srv.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := callout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	hook := NewWebhook(target, time.Nanosecond)
	b := NewBatch(hook, BatchOptions{Wait: time.Hour})
	for i := range 3 {
		if err := b.Write(event(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || len(got[0].Items) != 3 || got[0].Items[2].AuditID != "2" {
		t.Fatalf("got %+v", got)
	}
	if err := hook.Write(event(7)); err != nil || len(got) != 2 {
		t.Errorf("blocking: %v, %d", err, len(got))
	}
	mu.Lock()
	code = 500
	mu.Unlock()
	if err := hook.Write(event(8)); err == nil || len(got) != 7 {
		t.Errorf("a server in trouble: %v, asked %d times", err, len(got)-2)
	}
}

// batches notes what it is given.
type batches struct {
	mu  sync.Mutex
	got [][]*auditv1.Event
	at  []time.Time
	err error
}

func (b *batches) WriteBatch(_ context.Context, evs []*auditv1.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got, b.at = append(b.got, evs), append(b.at, time.Now())
	return b.err
}

func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &batches{}
		var lost []error
		b := NewBatch(sink, BatchOptions{Buffer: 50, Size: 10, Wait: time.Second, Every: 100 * time.Millisecond, Burst: 2, Failed: func(err error) { lost = append(lost, err) }})
		start := time.Now()
		for i := range 40 {
			if err := b.Write(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Write(event(40)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		var sizes []int
		n := 0
		for _, evs := range sink.got {
			sizes = append(sizes, len(evs))
			for _, ev := range evs {
				if ev.AuditID != types.UID(fmt.Sprint(n)) {
					t.Errorf("event %d is %s", n, ev.AuditID)
				}
				n++
			}
		}
		if fmt.Sprint(sizes) != "[10 10 10 10 1]" {
			t.Errorf("batches of %v", sizes)
		}
		// Two at once, then one every 100 ms; the last waits for company.
		for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond, 1200 * time.Millisecond} {
			if got := sink.at[i].Sub(start); got != want {
				t.Errorf("batch %d after %v, want %v", i, got, want)
			}
		}
		sink.err = errors.New("away")
		if err := b.Write(event(0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(lost) != 1 || !strings.Contains(lost[0].Error(), "1 audit events are lost: away") {
			t.Errorf("lost: %v", lost)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := b.Write(event(0)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("written after the end: %v", err)
		}
	})
}

// stuck never finishes on its own.
type stuck struct{}

func (stuck) WriteBatch(ctx context.Context, _ []*auditv1.Event) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestBatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBatch(stuck{}, BatchOptions{Buffer: 5, Size: 1})
		if err := b.Write(event(0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // on its way
		for i := range 5 {
			if err := b.Write(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Write(event(6)); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Close(ctx); err == nil {
			t.Error("closed as if all were sent")
		}
	})
}

func TestTruncated(t *testing.T) {
	var got *auditv1.Event
	s := Truncated(SinkFunc(func(ev *auditv1.Event) error { got = ev; return nil }), 1000)
	ev := event(1)
	ev.Annotations = map[string]string{"a": "b"}
	if err := s.Write(ev); err != nil || got != ev {
		t.Errorf("a small one: %v", err)
	}
	ev.ResponseObject = &runtime.Unknown{Raw: []byte(`"` + strings.Repeat("x", 2000) + `"`), ContentType: runtime.ContentTypeJSON}
	if err := s.Write(ev); err != nil || got.ResponseObject != nil || got.Annotations["audit.k8s.io/truncated"] != "true" || got.Annotations["a"] != "b" {
		t.Errorf("a large one: %+v, %v", got, err)
	}
	if ev.ResponseObject == nil || len(ev.Annotations) != 1 {
		t.Error("the shared event was changed")
	}
	ev.RequestURI = strings.Repeat("x", 2000)
	got = nil
	if err := s.Write(ev); err == nil || got != nil {
		t.Errorf("too large without bodies: %v", err)
	}
	failing := SinkFunc(func(*auditv1.Event) error { return errors.New("no") })
	got = nil
	if err := Tee(failing, s).Write(event(2)); err == nil || got == nil {
		t.Errorf("the second sink got %v, %v", got, err)
	}
}
