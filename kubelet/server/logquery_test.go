package server

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseLogQuery(t *testing.T) {
	for _, tc := range []struct {
		params, fails string // fails is part of the error
	}{
		{"query=kubelet", ""},
		{"query=kubelet&query=cox.service&boot=-1&pattern=a.*b&tailLines=3", ""},
		{"query=/pods/a.log&tailLines=0", ""},
		{"query=kubelet&sinceTime=2026-01-02T03:04:05Z&untilTime=2026-01-02T04:04:05%2B01:00", ""},
		{"query", "query: Required"},
		{"query=", "query: Required"},
		{"tailLines=3", "query: Required"},
		{"query=kubelet&query=/a.log", "services or one file"},
		{"query=/b.log&query=/a.log", "services or one file"},
		{"query=/", "services or one file"},
		{"query=a%20b", "name of a service"},
		{"query=a&tailLines=-1", "tailLines: Invalid"},
		{"query=a&tailLines=100001", "tailLines: Invalid"},
		{"query=a&boot=1", "boot: Invalid"},
		{"query=a&pattern=(", "pattern: Invalid"},
		{"query=a&sinceTime=now", "sinceTime: Invalid"},
		{"query=a&sinceTime=2026-01-02T03:04:06Z&untilTime=2026-01-02T03:04:05Z", "untilTime: Invalid"},
		{"query=/a.log&boot=0", "query: Forbidden"},
	} {
		v, err := url.ParseQuery(tc.params)
		if err != nil {
			t.Fatal(err)
		}
		q, errs := parseLogQuery(v)
		got := ""
		if len(errs) > 0 {
			got = errs.ToAggregate().Error()
		}
		if q == nil || (got == "") != (tc.fails == "") || !strings.Contains(got, tc.fails) {
			t.Errorf("%s: %q", tc.params, got)
		}
	}
	if q, errs := parseLogQuery(url.Values{"other": {"x"}}); q != nil || errs != nil {
		t.Error("no query", q, errs)
	}
}

func TestLogQuery(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("logs/a.log", "one\ntwo\nthree\ntoo", 0o600)
	write("logs/deep/deep.log", "deep\n", 0o600)
	write("secret", "secret", 0o600)
	if err := os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "logs", "out.log")); err != nil {
		t.Fatal(err)
	}
	// A journal that knows one service, and says what it was asked.
	journal := write("journal", `#!/bin/sh
case "$*" in
*--lines=1*--unit=known) echo yes;;
*--unit=known*) echo "$@";;
esac
`, 0o700)
	for _, tc := range []struct {
		off        bool
		path       string
		code       int
		body, lack string
	}{
		{path: "/logs/?query", code: 400, body: "query: Required value"},
		{off: true, path: "/logs/?query", code: 200, body: "a.log"},
		{path: "/logs/", code: 200, body: "a.log"},
		{path: "/logs/a.log?query=a", code: 406, body: "path not allowed in query mode"},
		{path: "/logs/?query=/a.log", code: 200, body: "one\ntwo\nthree\ntoo"},
		{path: "/logs/?query=a&tailLines=2", code: 200, body: "three\ntoo", lack: "two"},
		{path: "/logs/?query=/a.log&pattern=^t.o$", code: 200, body: "two\ntoo", lack: "three"},
		{path: "/logs/?query=/a.log&pattern=t&tailLines=2", code: 200, body: "three\ntoo", lack: "two"},
		{path: "/logs/?query=/a.log&tailLines=0", code: 200, lack: "o"},
		{path: "/logs/?query=deep", code: 200, body: "deep"},
		{path: "/logs/?query=/none", code: 404},
		{path: "/logs/?query=/deep", code: 400},
		{path: "/logs/?query=/out.log", code: 400, lack: "secret"},
		{path: "/logs/?query=../secret/", code: 404, lack: "secret\n"},
		{path: "/logs/?query=out", code: 200, body: "failed to get the logs of out", lack: "secret"},
		{path: "/logs/?query=deep&boot=0", code: 200, body: "neither times nor boots"},
		{path: "/logs/?query=none&query=deep", code: 200, body: "deep"},
		{path: "/logs/?query=known&boot=-1&pattern=x&tailLines=7&sinceTime=" + url.QueryEscape("2026-01-02T04:04:05+01:00"), code: 200,
			body: "--utc --no-pager --output=short-precise --unit=known --since=2026-01-02 03:04:05 UTC --lines=7 --boot=-1 --grep=x\n"},
	} {
		s := &Server{cfg: Config{SystemLogs: filepath.Join(dir, "logs"), Journal: journal, LogQuery: !tc.off}}
		w := httptest.NewRecorder()
		s.systemLogs(w, httptest.NewRequest(http.MethodGet, tc.path, nil))
		if body := w.Body.String(); w.Code != tc.code || !strings.Contains(body, tc.body) || tc.lack != "" && strings.Contains(body, tc.lack) {
			t.Errorf("%s: %d %q", tc.path, w.Code, body)
		}
	}
}

// Times go to the journal in its own zone-less form, said to be UTC.
func TestJournalArgs(t *testing.T) {
	q := &logQuery{until: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)), tail: -1}
	if got := strings.Join(q.journalArgs("a"), " "); got != "--utc --no-pager --output=short-precise --unit=a --until=2026-01-02 02:04:05 UTC" {
		t.Error(got)
	}
}
