package server

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// FuzzQuery reads the parameters of logs and of streams, and finds out what a
// request has to be allowed to do, which is never nothing.
func FuzzQuery(f *testing.F) {
	f.Add("POST", "/exec/a/b/c", "command=a&command=&stdin=1&tty=true")
	f.Add("GET", "//exec/../logs/x", "tailLines=-1&sinceSeconds=99999999999999999&limitBytes=0&stream=All")
	f.Add("BREW", "/containerLogs/%2e%2e", "sinceTime=0000-00-00T00:00:00Z&follow=x")
	f.Add("GET", "/stats/summary", "tail=all&timestamps=1&stream=Stdout")
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, method, path, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		streamOptionsOf(q)
		if o, err := logOptions(q, now); err == nil && (o.Tail != nil && *o.Tail < 0 || o.Limit != nil && *o.Limit < 1) {
			t.Errorf("%q is %+v", query, o)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL.Path = method, path
		if _, subs := attributes(r); len(subs) == 0 {
			t.Errorf("%s %q takes no permission", method, path)
		}
	})
}
