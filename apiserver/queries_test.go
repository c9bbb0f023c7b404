package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// What the parameters of reads and deletes do, alone and together, was compared
// with Kubernetes 1.36, answer by answer; the tables below are the rows that tell
// one rule from another. @OLD is the revision before a was changed and c
// deleted, @CUR the present one, @NEW one that does not come, @PAGE the token of
// the first page of two at @OLD.
type queried struct {
	w    *world
	subs *strings.Replacer
}

func newQueried(t *testing.T) *queried {
	w := newWorld(t)
	send := func(method, path, body string) string {
		t.Helper()
		h := []string{"Content-Type", asJSON}
		if method == "PATCH" {
			h[1] = "application/merge-patch+json"
		}
		resp, text := w.http(method, path, body, h...)
		if resp.StatusCode >= 300 {
			t.Fatal(method, path, resp.StatusCode, text)
		}
		return text
	}
	type list struct {
		Metadata struct{ ResourceVersion, Continue string }
	}
	read := func(query string) (l list) {
		if err := json.Unmarshal([]byte(send("GET", cmPath+query, "")), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, name := range []string{"a", "b", "c"} {
		send("POST", cmPath, fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"n":%q}},"data":{"v":"0"}}`, name, name))
	}
	old := read("").Metadata.ResourceVersion
	page := read("?limit=2").Metadata.Continue
	send("PATCH", cmPath+"/a", `{"data":{"v":"1"}}`)
	send("DELETE", cmPath+"/c", "")
	cur := read("").Metadata.ResourceVersion
	return &queried{w, strings.NewReplacer("@OLD", old, "@CUR", cur, "@NEW", cur+"000", "@PAGE", url.QueryEscape(page))}
}

// ask sends a request, and returns an answer's code with the names and values
// in it, or the message of a refusal.
func (q *queried) ask(method, query, body string) (int, string) {
	var h []string
	if body != "" {
		h = []string{"Content-Type", asJSON}
	}
	path := cmPath + q.subs.Replace(query)
	if strings.HasPrefix(query, "/api/") {
		path = q.subs.Replace(query)
	}
	resp, text := q.w.http(method, path, q.subs.Replace(body), h...)
	var says []string
	d := json.NewDecoder(strings.NewReader(text))
	for d.More() { // a watch is several values
		var v struct {
			Type, Kind, Message, Status string
			Metadata                    struct {
				Name               string
				Continue           string
				RemainingItemCount *int64
				Annotations        map[string]string
			}
			Data   map[string]string
			Items  []struct{ Metadata struct{ Name string } }
			Object struct {
				Message  string
				Data     map[string]string
				Metadata struct {
					Name        string
					Annotations map[string]string
				}
			}
		}
		if err := d.Decode(&v); err != nil {
			return resp.StatusCode, text
		}
		switch {
		case v.Type == "BOOKMARK":
			says = append(says, v.Type+v.Object.Metadata.Annotations["k8s.io/initial-events-end"])
		case v.Type != "":
			says = append(says, v.Type+" "+v.Object.Metadata.Name+v.Object.Data["v"]+v.Object.Message)
		case v.Kind == "Status":
			says = append(says, v.Status+v.Message)
		case v.Kind == "ConfigMap":
			says = append(says, v.Metadata.Name+v.Data["v"])
		default:
			for _, i := range v.Items {
				says = append(says, i.Metadata.Name)
			}
			if v.Metadata.Continue != "" {
				says = append(says, "…")
			}
			if n := v.Metadata.RemainingItemCount; n != nil {
				says = append(says, fmt.Sprint(*n))
			}
		}
	}
	return resp.StatusCode, strings.Join(says, " ")
}

const (
	noNumber  = `resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax`
	noRange   = `value out of range`
	unpaired  = `resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided`
	unmatched = `resourceVersionMatch: Unsupported value: "Near": supported values: "Exact", "NotOlderThan", ""`
	noToken   = `invalid continue token: continue key is not valid: `
	tooNew    = `FailureTimeout: Too large resource version: @NEW, current: `
)

func TestReadParameters(t *testing.T) {
	q := newQueried(t)
	for _, tt := range []struct {
		method, query, body string
		code                int
		want                string
	}{
		{"GET", "?resourceVersion=x", "", 400, "Failureinvalid resource version: " + noNumber},
		{"GET", "?resourceVersion=99999999999999999999", "", 400, noRange},
		{"GET", "?resourceVersion=x&continue=%21", "", 400, noToken},
		{"GET", "?resourceVersion=@CUR&continue=%21", "", 400, noToken},
		{"GET", "?resourceVersion=@CUR&continue=@PAGE", "", 400, "specifying resource version is not allowed when using continue"},
		{"GET", "?resourceVersionMatch=Exact", "", 422, unpaired},
		{"GET", "?resourceVersionMatch=Exact&fieldSelector=x%3D1", "", 422, unpaired},
		{"GET", "?resourceVersion=@CUR&resourceVersionMatch=Near&fieldSelector=x%3D1", "", 422, unmatched},
		{"GET", "?resourceVersion=0&resourceVersionMatch=Exact", "", 422, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`},
		{"GET", "?continue=@PAGE&resourceVersionMatch=Exact", "", 422, unpaired},
		{"GET", "?sendInitialEvents=true", "", 422, "sendInitialEvents is forbidden for list"},
		{"GET", "?resourceVersion=@NEW", "", 504, tooNew},
		{"GET", "?resourceVersion=@OLD", "", 200, "a b"},
		{"GET", "?resourceVersion=@OLD&resourceVersionMatch=Exact", "", 200, "a b c"},
		{"GET", "?resourceVersion=@OLD&limit=1", "", 200, "a … 2"},
		{"GET", "?resourceVersion=@OLD&resourceVersionMatch=NotOlderThan&limit=1", "", 200, "a … 1"},
		{"GET", "?resourceVersion=0&limit=1", "", 200, "a b"},
		{"GET", "?limit=1", "", 200, "a … 1"},
		{"GET", "?limit=1&labelSelector=n", "", 200, "a …"},
		{"GET", "?limit=-1", "", 200, "a b"},
		{"GET", "?continue=@PAGE", "", 200, "c"},
		{"GET", "?continue=@PAGE&limit=1", "", 200, "c"},
		{"GET", "?continue=@PAGE&limit=1&resourceVersion=0", "", 200, "c"},
		{"GET", "/a?resourceVersion=x", "", 500, "Failure" + noNumber},
		{"GET", "/a?resourceVersion=@OLD", "", 200, "a1"},
		{"GET", "/a?resourceVersion=@NEW", "", 504, tooNew},
		{"GET", "/a?resourceVersion=@OLD&resourceVersionMatch=Near", "", 200, "a1"},
		{"DELETE", "?dryRun=All&resourceVersion=x", "", 400, "Failureinvalid resource version: " + noNumber},
		{"DELETE", "?dryRun=All&resourceVersionMatch=Exact&propagationPolicy=Odd", "", 422, unpaired},
		{"DELETE", "?dryRun=All&resourceVersion=@OLD&labelSelector=n%3Da", "", 409, `the ResourceVersion in the precondition (@OLD) does not match`},
		{"DELETE", "?dryRun=All", "", 200, "a b"},
		{"DELETE", "/a?dryRun=All&resourceVersion=1", "", 409, `FailureOperation cannot be fulfilled on ConfigMap "a": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record`},
		{"DELETE", "/a?dryRun=All&uid=x", "", 409, `FailureOperation cannot be fulfilled on ConfigMap "a": the UID in the precondition (x) does not match the UID in record`},
		{"DELETE", "/a?dryRun=All&uid=x", `{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}`, 200, "Success"},
		{"DELETE", "/a?dryRun=All", `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}`, 409, "the UID in the precondition (x)"},
		{"DELETE", "/a?dryRun=Odd", "", 422, "Unsupported value"},
		{"DELETE", "/a?gracePeriodSeconds=x", "", 400, "Failurestrconv.ParseInt"},
		// A body takes the place of all of these parameters.
		{"DELETE", "/a?dryRun=Odd&gracePeriodSeconds=x", `{"dryRun":["All"]}`, 200, "Success"},
		{"DELETE", "/a?dryRun=All", `{"gracePeriodSeconds":0}`, 200, "Success"},
		{"DELETE", "/a?dryRun=All", "", 404, "not found"},
	} {
		code, says := q.ask(tt.method, tt.query, tt.body)
		want := q.subs.Replace(tt.want)
		if code != tt.code || !strings.Contains(says, want) || code == 200 && says != want {
			t.Errorf("%s %s %s\n got %d %s\nwant %d %s", tt.method, tt.query, tt.body, code, says, tt.code, want)
		}
	}
}

func TestWatchParameters(t *testing.T) {
	q := newQueried(t)
	var all sync.WaitGroup // each row takes a second
	const begun, marked = "ADDED a1 ADDED b0", "ADDED a1 ADDED b0 BOOKMARKtrue"
	for _, tt := range []struct {
		query string
		code  int
		want  string
	}{
		{"", 200, begun},
		{"&resourceVersion=0", 200, begun},
		{"&allowWatchBookmarks=true", 200, marked},
		{"&allowWatchBookmarks=true&resourceVersion=0", 200, marked},
		{"&allowWatchBookmarks=true&resourceVersion=0&fieldSelector=metadata.name%3Db", 200, "ADDED b0 BOOKMARKtrue"},
		{"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", 200, marked},
		{"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=@OLD&allowWatchBookmarks=true", 200, marked},
		{"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=@CUR", 200, begun},
		{"&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", 200, ""},
		{"&resourceVersion=@CUR", 200, ""},
		{"&resourceVersion=@OLD", 200, "MODIFIED a1 DELETED c0"},
		{"&resourceVersion=@OLD&limit=1", 200, "MODIFIED a1 DELETED c0"},
		{"&resourceVersion=@OLD&labelSelector=n%3Dc", 200, "DELETED c0"},
		{"&resourceVersion=x", 500, "Failure" + noNumber},
		{"&continue=x", 422, "resourceVersionMatch is forbidden when continue is provided"},
		{"&sendInitialEvents=true", 422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"&resourceVersionMatch=NotOlderThan", 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"},
		{"&sendInitialEvents=true&resourceVersionMatch=Exact", 422, `supported values: "NotOlderThan"`},
	} {
		all.Go(func() {
			code, says := q.ask("GET", "?watch=true&timeoutSeconds=1"+tt.query, "")
			if code != tt.code || !strings.Contains(says, tt.want) || code == 200 && says != tt.want {
				t.Errorf("%s\n got %d %s\nwant %d %s", tt.query, code, says, tt.code, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		query string
		code  int
		want  string
	}{
		{"?watch=true&timeoutSeconds=10&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=@NEW", 200, "ERROR Timeout: Too large resource version: @NEW, current: "},
		{"?watch=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=@NEW", 200, "ERROR Timeout: Too large resource version: @NEW, current: "},
		{"?watch=true&timeoutSeconds=-1&resourceVersion=@CUR", 200, ""},
		{"/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1", 200, "ADDED a1"},
		{"/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1&fieldSelector=metadata.name%3Da", 200, "ADDED a1"},
		{"/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1&fieldSelector=metadata.name%3Db", 400, "fieldSelector metadata.name doesn't match requested name"},
	} {
		all.Go(func() {
			code, says := q.ask("GET", tt.query, "")
			if want := q.subs.Replace(tt.want); code != tt.code || !strings.HasPrefix(strings.TrimPrefix(says, "Failure"), want) {
				t.Errorf("%s\n got %d %s\nwant %d %s", tt.query, code, says, tt.code, want)
			}
		})
	}
	all.Wait()
}
