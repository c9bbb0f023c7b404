package storetest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/store"
)

// tooLarge asserts the error for a revision that does not exist yet.
func tooLarge(t *testing.T, err error) {
	t.Helper()
	reason(t, err, metav1.StatusReasonTimeout)
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return
	}
	equal(t, "code", s.Status().Code, http.StatusGatewayTimeout)
	if !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("%v has no cause %s", err, metav1.CauseTypeResourceVersionTooLarge)
	}
	if !strings.HasPrefix(err.Error(), "Timeout: Too large resource version: ") {
		t.Errorf("got %q", err)
	}
}

func testList(t *testing.T, open Opener) {
	f := open(t, Options{})
	i := f.Kind(ConfigMaps)
	equal(t, "empty", len(list(t, i, "", store.ListOptions{}).Entries), 0)
	for _, k := range []string{"b/x", "a/z", "a/y", "a-b/x", "b/w"} {
		ns, name, _ := strings.Cut(k, "/")
		create(t, i, ConfigMap(ns, name, "1"))
	}
	last := create(t, f.Kind(Pods), Pod("a", "p", ""))
	l := list(t, i, "", store.ListOptions{})
	equal(t, "all, in key order", keys(l), []string{"a-b/x", "a/y", "a/z", "b/w", "b/x"})
	equal(t, "revision", l.Revision, last.Revision)
	equal(t, "namespace", keys(list(t, i, "a/", store.ListOptions{})), []string{"a/y", "a/z"})
	equal(t, "other namespace", keys(list(t, i, "c/", store.ListOptions{})), []string{})
	equal(t, "count", i.Count(), 5)
	for _, e := range l.Entries {
		checkRevision(t, e)
	}
}

func testListSelectors(t *testing.T, open Opener) {
	f := open(t, Options{})
	i, pods := f.Kind(ConfigMaps), f.Kind(Pods)
	create(t, i, ConfigMap("a", "1", "web"))
	create(t, i, ConfigMap("a", "2", "db"))
	create(t, i, ConfigMap("b", "1", "web"))
	create(t, pods, Pod("a", "p1", "n1"))
	create(t, pods, Pod("a", "p2", "n2"))
	for _, tc := range []struct {
		i      store.Interface
		prefix string
		pred   store.Predicate
		want   []string
	}{
		{i, "", byLabel(t, "app=web"), []string{"a/1", "b/1"}},
		{i, "a/", byLabel(t, "app=web"), []string{"a/1"}},
		{i, "", byLabel(t, "app notin (web)"), []string{"a/2"}},
		{i, "", byField(t, "metadata.name=1"), []string{"a/1", "b/1"}},
		{i, "", byField(t, "metadata.namespace!=a"), []string{"b/1"}},
		{pods, "", byField(t, "spec.nodeName=n2"), []string{"a/p2"}},
	} {
		equal(t, "selected", keys(list(t, tc.i, tc.prefix, store.ListOptions{Predicate: tc.pred})), tc.want)
	}
}

// testListRevisions is the API documentation's table, row by row.
func testListRevisions(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	e2 := set(t, i, "ns/a", "2")
	e3 := create(t, i, ConfigMap("ns", "b", "3"))
	e4 := remove(t, i, "ns/b")
	e5 := set(t, i, "ns/a", "5")
	const (
		exact = metav1.ResourceVersionMatchExact
		least = metav1.ResourceVersionMatchNotOlderThan
	)
	newest := []string{"ns/a=5"}
	for _, tc := range []struct {
		rv    string
		match metav1.ResourceVersionMatch
		limit int64
		want  []string
		at    int64 // 0: the newest
	}{
		{"", "", 0, newest, 0},
		{"", "", 1, newest, 0},
		{RV(e2.Revision), "", 0, newest, 0},
		{RV(e2.Revision), least, 0, newest, 0},
		{RV(e2.Revision), least, 1, newest, 0},
		{RV(e5.Revision), least, 0, newest, 0},
		{RV(e1.Revision), exact, 0, []string{"ns/a=1"}, e1.Revision},
		{RV(e2.Revision), exact, 0, []string{"ns/a=2"}, e2.Revision},
		{RV(e3.Revision), exact, 0, []string{"ns/a=2", "ns/b=3"}, e3.Revision},
		{RV(e3.Revision), exact, 1, []string{"ns/a=2"}, e3.Revision},
		{RV(e3.Revision), "", 1, []string{"ns/a=2"}, e3.Revision},
		{RV(e4.Revision), exact, 0, []string{"ns/a=2"}, e4.Revision},
		{RV(e5.Revision), exact, 0, newest, e5.Revision},
	} {
		name := fmt.Sprintf("rv=%q match=%q limit=%d", tc.rv, tc.match, tc.limit)
		l := list(t, i, "ns/", store.ListOptions{ResourceVersion: tc.rv, ResourceVersionMatch: tc.match, Limit: tc.limit})
		equal(t, name, values(l), tc.want)
		if tc.at == 0 {
			tc.at = e5.Revision
		}
		equal(t, name+": revision", l.Revision, tc.at)
		for _, e := range l.Entries {
			checkRevision(t, e)
		}
	}
	if l := list(t, i, "", store.ListOptions{ResourceVersion: "0"}); len(l.Entries) == 0 {
		t.Error("a list of any state is empty, though the writer has seen more")
	}
	var wg sync.WaitGroup
	for _, o := range []store.ListOptions{
		{ResourceVersion: RV(e5.Revision + 1000)},
		{ResourceVersion: RV(e5.Revision + 1000), ResourceVersionMatch: least},
		{ResourceVersion: RV(e5.Revision + 1000), ResourceVersionMatch: exact},
	} {
		wg.Go(func() {
			_, err := i.List(t.Context(), "", o)
			tooLarge(t, err)
		})
	}
	wg.Wait()
	_, err := i.List(t.Context(), "", store.ListOptions{ResourceVersion: "-1"})
	reason(t, err, metav1.StatusReasonBadRequest)
}

func testListPages(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		create(t, i, ConfigMap("ns", k, "1"))
	}
	create(t, i, ConfigMap("other", "x", "1"))
	p1 := list(t, i, "ns/", store.ListOptions{Limit: 2})
	equal(t, "page 1", keys(p1), []string{"ns/a", "ns/b"})
	if p1.RemainingItemCount == nil || *p1.RemainingItemCount != 3 {
		t.Errorf("remaining %v, want 3", p1.RemainingItemCount)
	}
	// Upstream's token, to the letter.
	raw, err := base64.RawURLEncoding.DecodeString(p1.Continue)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "token", string(raw), fmt.Sprintf(`{"v":"meta.k8s.io/v1","rv":%d,"start":"b\u0000"}`, p1.Revision))

	// Changes in between are not seen.
	remove(t, i, "ns/d")
	set(t, i, "ns/c", "2")
	create(t, i, ConfigMap("ns", "c1", "1"))
	p2 := list(t, i, "ns/", store.ListOptions{Limit: 2, Continue: p1.Continue})
	equal(t, "page 2", values(p2), []string{"ns/c=1", "ns/d=1"})
	equal(t, "its revision", p2.Revision, p1.Revision)
	// resourceVersion=0 beside a token is ignored.
	p3 := list(t, i, "ns/", store.ListOptions{Limit: 2, Continue: p2.Continue, ResourceVersion: "0"})
	equal(t, "page 3", keys(p3), []string{"ns/e"})
	if p3.Continue != "" || p3.RemainingItemCount != nil {
		t.Errorf("the last page goes on: %q, %v", p3.Continue, p3.RemainingItemCount)
	}
	full := list(t, i, "ns/", store.ListOptions{Limit: 5})
	if full.Continue != "" {
		t.Error("a page that holds everything goes on")
	}
}

func testListPagesSelected(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	for n := range 20 {
		create(t, i, ConfigMap("ns", fmt.Sprintf("c%02d", n), []string{"web", "db"}[n%2]))
	}
	o := store.ListOptions{Limit: 3, Predicate: byLabel(t, "app=web")}
	var got []string
	for {
		l := list(t, i, "", o)
		if l.RemainingItemCount != nil {
			t.Error("a selected list cannot know what remains")
		}
		got = append(got, keys(l)...)
		if o.Continue = l.Continue; o.Continue == "" {
			break
		}
		if len(l.Entries) != 3 {
			t.Errorf("a page of %d that goes on", len(l.Entries))
		}
	}
	equal(t, "all pages", len(got), 10)
}

// testListPagesCompacted loses the history between two pages.
func testListPagesCompacted(t *testing.T, open Opener) {
	f := open(t, Options{History: store.History{Least: 1, Bytes: 1}})
	i := f.Kind(ConfigMaps)
	for _, k := range []string{"a", "b", "c", "d"} {
		create(t, i, ConfigMap("ns", k, "1"))
	}
	p1 := list(t, i, "ns/", store.ListOptions{Limit: 2})
	set(t, i, "ns/c", "2")
	set(t, i, "ns/c", "3")
	last := set(t, i, "ns/d", "4")
	if _, err := f.Backend.Compact(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	_, err := i.List(t.Context(), "ns/", store.ListOptions{Limit: 2, Continue: p1.Continue})
	reason(t, err, metav1.StatusReasonExpired)
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		t.Fatalf("got %v", err)
	}
	equal(t, "code", s.Status().Code, http.StatusGone)
	if !strings.HasPrefix(s.Status().Message, "The provided continue parameter is too old to display a consistent list result. You can start a new list") {
		t.Errorf("got message %q", s.Status().Message)
	}
	token := s.Status().ListMeta.Continue
	if token == "" {
		t.Fatal("no token to go on with inconsistently")
	}
	p2 := list(t, i, "ns/", store.ListOptions{Limit: 2, Continue: token})
	equal(t, "the rest, as it is now", values(p2), []string{"ns/c=3", "ns/d=4"})

	_, err = i.List(t.Context(), "ns/", store.ListOptions{ResourceVersion: RV(p1.Revision), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	reason(t, err, metav1.StatusReasonExpired)
	if err.Error() != "The resourceVersion for the provided list is too old." {
		t.Errorf("got %q", err)
	}
}

func testContinueInvalid(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	create(t, i, ConfigMap("ns", "a", "1"))
	token := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	type m map[string]any
	for name, tok := range map[string]string{
		"not base64":    "@@@",
		"not JSON":      base64.RawURLEncoding.EncodeToString([]byte("{")),
		"other version": token(m{"v": "v2", "rv": 1, "start": "a"}),
		"no revision":   token(m{"v": "meta.k8s.io/v1", "start": "a"}),
		"no start":      token(m{"v": "meta.k8s.io/v1", "rv": 1}),
		"way out":       token(m{"v": "meta.k8s.io/v1", "rv": 1, "start": "../../secrets/ns/a"}),
	} {
		if _, err := i.List(t.Context(), "ns/", store.ListOptions{Continue: tok}); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: got %v, want a bad request", name, err)
		}
	}
	p := list(t, i, "", store.ListOptions{})
	_, err := i.List(t.Context(), "", store.ListOptions{Continue: token(m{"v": "meta.k8s.io/v1", "rv": p.Revision, "start": "a"}), ResourceVersion: "5"})
	reason(t, err, metav1.StatusReasonBadRequest)
}
