package apiserver_test

import (
	"strings"
	"testing"
)

// The answers are Kubernetes 1.36's to the same patches.
func TestPatchesAsUpstream(t *testing.T) {
	w := newWorld(t)
	if resp, body := w.http("POST", cmPath, `{"metadata":{"name":"p"},"data":{"a":"b"}}`, "Content-Type", asJSON); resp.StatusCode != 201 {
		t.Fatal(body)
	}
	const (
		strategic = "application/strategic-merge-patch+json"
		merging   = "application/merge-patch+json"
		ops       = "application/json-patch+json"
		nameless  = `the name of the object (p based on URL) was undeterminable: name must be provided`
		own       = `error decoding patch: `
	)
	for _, tt := range []struct {
		media, patch string
		code         int
		want         string
	}{
		{strategic, `{"kind":"Pod","apiVersion":"v9"}`, 200, `"kind":"ConfigMap","apiVersion":"v1"`},
		{strategic, `{"kind":null}`, 200, `"kind":"ConfigMap"`},
		{strategic, `{"kind":5}`, 422, `patch: Invalid value: \"map[kind:5]\": cannot convert int64 to string`},
		{strategic, `{"data":{"a":1}}`, 422, `patch: Invalid value: \"map[data:map[a:1]]\": cannot convert int64 to string`},
		{strategic, `{"metadata":{"name":null}}`, 400, nameless},
		{strategic, `{"metadata":{"namespace":null}}`, 200, `"namespace":"default"`},
		{strategic, `{"$patch":"odd"}`, 500, `"status":"Failure","message":"unknown patch type: odd in map: map[$patch:odd]","code":500`},
		{merging, `null`, 400, `Invalid JSON Patch`},
		{merging, `{"kind":"Foo"}`, 422, `no kind \"Foo\" is registered for version \"v1\" in scheme`},
		{merging, `{"apiVersion":"v9"}`, 422, `no kind \"ConfigMap\" is registered for version \"v9\" in scheme`},
		{merging, `{"apiVersion":"a/b/c"}`, 422, `unexpected GroupVersion string: a/b/c`},
		{merging, `{"kind":5}`, 422, `couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string`},
		{merging, `{"kind":""}`, 200, `"kind":"ConfigMap"`},
		{merging, `{"data":{"a":1}}`, 422, `: json: cannot unmarshal number into Go struct field ConfigMap.data of type string`},
		{merging, `{"metadata":{"generation":99999999999999999999}}`, 422, `cannot unmarshal number`},
		{merging, `{"metadata":5}`, 422, `: json: cannot unmarshal number into Go struct field ConfigMap.metadata of type v1.ObjectMeta`},
		{merging, `{"metadata":null}`, 400, nameless},
		{merging, `{"metadata":{"namespace":"other"}}`, 400, `the namespace of the provided object does not match the namespace sent on the request`},
		{ops, ``, 400, own + `unexpected end of JSON input`},
		{ops, `{}`, 400, own + `json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp`},
		{ops, `[1]`, 400, own + `json: cannot unmarshal number into Go value of type handlers.jsonPatchOp`},
		{ops, `[{"op":5}]`, 400, own + `json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string`},
		{ops, `[{"op":"remove","path":"/metadata/name"}]`, 400, nameless},
		{ops, `[{"op":"remove","path":"/kind"}]`, 200, `"kind":"ConfigMap"`},
		{ops, `[{"op":"add","path":"/kind","value":"Foo"}]`, 422, `no kind \"Foo\" is registered for version \"v1\" in scheme`},
		{ops, `[{"op":"test","path":"/data/a","value":"z"}]`, 422, `the server rejected our request due to an error in our request`},
	} {
		resp, body := w.http("PATCH", cmPath+"/p?dryRun=All", tt.patch, "Content-Type", tt.media)
		if resp.StatusCode != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s\n got %d %s\nwant %d %s", tt.media, tt.patch, resp.StatusCode, body, tt.code, tt.want)
		}
	}
}

// What field validation finds in a patch is told with what the patch made, in
// the order in which upstream has it: only what was touched is sorted.
func TestStrictPatches(t *testing.T) {
	w := newWorld(t)
	if resp, body := w.http("POST", cmPath, `{"metadata":{"name":"p"},"data":{"a":"b"}}`, "Content-Type", asJSON); resp.StatusCode != 201 {
		t.Fatal(body)
	}
	const (
		strategic = "application/strategic-merge-patch+json"
		merging   = "application/merge-patch+json"
		ops       = "application/json-patch+json"
		applying  = "application/apply-patch+yaml"
	)
	for _, tt := range []struct {
		media, patch, validation string
		code                     int
		want, warning            string
	}{
		{strategic, `{"unk":1.50,"data":{"q":"r"}}`, "Strict", 422, `Invalid value: \"map[data:map[q:r] unk:1.5]\": strict decoding error: unknown field \"unk\"`, ""},
		{strategic, `{"data":{"q":"r","q":"s"}}`, "Strict", 422, `Invalid value: \"map[data:map[q:s]]\": strict decoding error: duplicate field \"data.q\"`, ""},
		{merging, `{"unk":1}`, "Strict", 422, `\"kind\\\":\\\"ConfigMap\\\",\\\"metadata\\\":{\\\"name\\\":\\\"p\\\",\\\"namespace\\\"`, ""},
		{merging, `{"metadata":{"labels":{"a":"b"}},"unk":1}`, "Strict", 422, `\\\"metadata\\\":{\\\"creationTimestamp\\\"`, ""},
		{merging, `{"apiVersion":null}`, "Strict", 422, `strict decoding error: unknown field \"data\", unknown field \"metadata\"`, ""},
		{merging, `{"apiVersion":null}`, "Ignore", 400, `the name of the object (p based on URL) was undeterminable: name must be provided`, ""},
		{ops, `[{"op":"add","path":"/data/z","value":"s","extra":5,"value":"t"}]`, "Strict", 422, `strict decoding error: json patch unknown field \"[0].extra\", json patch duplicate field \"[0].value\"`, ""},
		{ops, `[{"op":"add","path":"/data/z","value":"s","extra":5}]`, "Warn", 200, `"z":"s"`, `299 - "json patch unknown field \"[0].extra\""`},
		{applying, `{"a":1,"a":2}`, "Strict", 400, `invalid object type: /, Kind=`, ""},
		{applying, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"p"},"data":{"y":"1","y":"2"}}`, "Strict", 400, `error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors`, ""},
		{applying, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"p"},"data":{"y":"1","y":"2"}}`, "Warn", 200, `"y":"2"`, `299 - "line 1: key \"y\" already set in map"`},
	} {
		resp, body := w.http("PATCH", cmPath+"/p?dryRun=All&fieldManager=m&fieldValidation="+tt.validation, tt.patch, "Content-Type", tt.media)
		if resp.StatusCode != tt.code || !strings.Contains(body, tt.want) || resp.Header.Get("Warning") != tt.warning {
			t.Errorf("%s %s\n got %d %s %s\nwant %d %s %s", tt.media, tt.patch, resp.StatusCode, body, resp.Header.Get("Warning"), tt.code, tt.want, tt.warning)
		}
	}
}

// An owner that is named twice is kept once, with a warning that tells whether
// the request or what came of it named it so.
func TestOwnersTwice(t *testing.T) {
	w := newWorld(t)
	if resp, body := w.http("POST", cmPath, `{"metadata":{"name":"p"}}`, "Content-Type", asJSON); resp.StatusCode != 201 {
		t.Fatal(body)
	}
	const (
		merging = "application/merge-patch+json"
		owner   = `{"apiVersion":"v1","kind":"Pod","name":"x","uid":"u"}`
		again   = `{"apiVersion":"v1","kind":"Pod","name":"x","uid":"v"}`
		other   = `{"apiVersion":"v1","kind":"Pod","name":"y","uid":"u"}`
		ends    = `; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: `
		early   = `299 - ".metadata.ownerReferences contains duplicate entries` + ends
		late    = `299 - ".metadata.ownerReferences contains duplicate entries after mutating admission happens` + ends
	)
	for _, tt := range []struct{ method, path, name, media, owners, want, warning string }{
		{"POST", cmPath, "q", asJSON, owner + "," + owner, owner, early + `u"`},
		{"POST", cmPath, "q", asJSON, strings.Join([]string{owner, again, owner, again, owner}, ","), owner + "," + again, early + `u, v, u"`},
		{"POST", cmPath, "q", asJSON, owner + "," + other, owner + "," + other, ""},
		{"PUT", cmPath + "/p", "p", asJSON, owner + "," + owner, owner, early + `u"`},
		{"PATCH", cmPath + "/p", "p", merging, owner + "," + owner, owner, late + `u"`},
	} {
		resp, body := w.http(tt.method, tt.path+"?dryRun=All", `{"metadata":{"name":"`+tt.name+`","ownerReferences":[`+tt.owners+`]}}`, "Content-Type", tt.media)
		if !strings.Contains(body, `"ownerReferences":[`+tt.want+`]`) || resp.Header.Get("Warning") != tt.warning {
			t.Errorf("%s of %s: %d %s\n%s", tt.method, tt.owners, resp.StatusCode, body, resp.Header.Get("Warning"))
		}
	}
}
