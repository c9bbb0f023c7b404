// Package storm makes random requests, valid ones and ones that are broken in
// every way, for tests that see whether an API server stays well under them: a
// random source goes in, requests come out.
package storm

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
)

// Request is one request, without its server's address.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         string
}

// String is the request in short.
func (r *Request) String() string {
	body := r.Body
	if len(body) > 300 {
		body = fmt.Sprintf("%s... (%d bytes)", body[:300], len(body))
	}
	return fmt.Sprintf("%s %s %v\n%s", r.Method, r.Path, r.Header, body)
}

// Maker makes requests. It is used by one goroutine.
type Maker struct {
	r *rand.Rand
	// sound says that of this request at most one part is broken: most broken
	// ones would be refused by the first of their parts.
	sound bool
}

// NewMaker returns one whose requests follow from the seed.
func NewMaker(seed uint64) *Maker { return &Maker{r: rand.New(rand.NewPCG(seed, 1))} }

func (m *Maker) pick(of ...string) string { return of[m.r.IntN(len(of))] }

func (m *Maker) chance(percent int) bool { return m.r.IntN(100) < percent }

// junk is text that nobody expects.
func (m *Maker) junk() string {
	if m.chance(60) {
		return m.pick("", "%", "%00", "..", "../..", "a b", "\u202e", "-1", "1e999", "null", "{}", "[]", "true", "0", "*", "~", "'", "\"", "\\",
			"${x}", "a=b,c!=d", "in (", "a in (b", "99999999999999999999", "NaN", "&&", "metadata.name=", strings.Repeat("a", 300))
	}
	b := make([]byte, m.r.IntN(20))
	for i := range b {
		b[i] = byte(m.r.UintN(256))
	}
	return string(b)
}

var resources = []string{
	"api/v1/configmaps", "api/v1/pods", "api/v1/services", "api/v1/secrets", "api/v1/events", "api/v1/namespaces", "api/v1/nodes",
	"api/v1/endpoints", "api/v1/replicationcontrollers", "api/v1/persistentvolumes", "api/v1/resourcequotas", "api/v1/limitranges",
	"apis/apps/v1/deployments", "apis/apps/v1/replicasets", "apis/apps/v1/statefulsets", "apis/apps/v1/daemonsets", "apis/batch/v1/jobs",
	"apis/batch/v1/cronjobs", "apis/networking.k8s.io/v1/ingresses", "apis/networking.k8s.io/v1/networkpolicies",
	"apis/rbac.authorization.k8s.io/v1/roles", "apis/rbac.authorization.k8s.io/v1/clusterroles", "apis/policy/v1/poddisruptionbudgets",
	"apis/autoscaling/v1/horizontalpodautoscalers", "apis/autoscaling/v2/horizontalpodautoscalers", "apis/coordination.k8s.io/v1/leases",
	"apis/discovery.k8s.io/v1/endpointslices", "apis/storage.k8s.io/v1/storageclasses", "apis/scheduling.k8s.io/v1/priorityclasses",
	"apis/apiextensions.k8s.io/v1/customresourcedefinitions", "apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
	"apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
	"apis/certificates.k8s.io/v1/certificatesigningrequests", "apis/resource.k8s.io/v1/resourceclaims",
	"apis/authorization.k8s.io/v1/subjectaccessreviews", "apis/authentication.k8s.io/v1/tokenreviews",
	"apis/events.k8s.io/v1/events", "apis/nowhere.example.com/v1/things",
}

// Next makes a request.
func (m *Maker) Next() *Request {
	m.sound = m.chance(40)
	r := &Request{Method: m.pick("GET", "GET", "POST", "PUT", "PATCH", "PATCH", "DELETE"), Header: http.Header{}}
	if m.chance(3) {
		r.Method = m.pick("HEAD", "OPTIONS", "TRACE", "BREW")
	}
	base := m.pick(resources...)
	cut := strings.LastIndexByte(base, '/')
	prefix, resource := base[:cut], base[cut+1:]
	parts := []string{prefix}
	switch {
	case m.sound && cluster[resource]:
	case m.sound:
		parts = append(parts, "namespaces", "default")
	case m.chance(75):
		parts = append(parts, "namespaces", m.pick("default", "default", "kube-system", "absent", m.junk()))
	}
	parts = append(parts, resource)
	if m.chance(70) && r.Method != http.MethodPost || m.chance(5) {
		if parts = append(parts, m.pick("a", "b", "c", "d", "e")); !m.sound && m.chance(20) {
			parts[len(parts)-1] = m.junk()
		}
		if m.chance(20) {
			parts = append(parts, m.pick("status", "scale", "binding", "eviction", "log", "exec", "finalize", "token", "resize", "approval", "ephemeralcontainers", m.junk()))
		}
	}
	for i := range parts {
		if i > 0 {
			parts[i] = url.PathEscape(parts[i])
		}
	}
	r.Path = "/" + strings.Join(parts, "/") + m.query()
	if m.chance(3) {
		r.Path = m.pick("/openapi/v3", "/openapi/v2", "/apis", "/api", "/version", "/metrics", "/readyz?verbose", "/healthz/"+url.PathEscape(m.junk()), "/"+url.PathEscape(m.junk()), "/apis/apps/v1", "/debug/pprof")
	}
	m.headers(r)
	if r.Method != http.MethodGet && r.Method != http.MethodHead || m.chance(2) {
		r.Body = m.body(r, prefix, resource)
	}
	return r
}

func (m *Maker) query() string {
	q := url.Values{}
	if m.sound && m.chance(10) {
		q.Set("dryRun", "All")
	}
	for !m.sound && m.chance(45) || m.sound && m.chance(3) {
		name := m.pick("limit", "continue", "labelSelector", "fieldSelector", "resourceVersion", "resourceVersionMatch", "dryRun", "fieldManager",
			"fieldValidation", "force", "pretty", "timeout", "gracePeriodSeconds", "propagationPolicy", "orphanDependents", "includeObject",
			"sendInitialEvents", "allowWatchBookmarks", "command", "container", m.junk())
		value := m.pick("1", "0", "true", "false", "All", "Strict", "Warn", "Ignore", "me", "a=b", "app in (x,y),!z", "metadata.name=a", "status.phase!=Running",
			"Exact", "NotOlderThan", "Foreground", "Orphan", "5s", "500", "Object", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTAsInN0YXJ0IjoiYSJ9", m.junk())
		q.Add(name, value)
	}
	if m.chance(5) {
		q.Set("watch", "1")
		q.Set("timeoutSeconds", "1")
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func (m *Maker) headers(r *Request) {
	set := func(name string, values ...string) {
		if v := m.pick(values...); v != "" && !strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' }) {
			r.Header.Set(name, v)
		}
	}
	if m.sound {
		r.Header.Set("Accept", m.pick("application/json", "application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/yaml"))
		r.Header.Set("Content-Type", m.pick("application/json", "application/yaml"))
		if r.Method == http.MethodPatch {
			r.Header.Set("Content-Type", m.pick("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"))
			if strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply") {
				join := "?"
				if strings.Contains(r.Path, "?") {
					join = "&"
				}
				r.Path += join + m.pick("fieldManager=m", "fieldManager=n&force=true", "fieldManager=o&force=true&fieldValidation=Ignore")
			}
		}
		return
	}
	if m.chance(70) {
		set("Accept", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "*/*",
			"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
			"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json;q=0.1", "application/cbor", "text/html", m.junk())
	}
	switch r.Method {
	case http.MethodPatch:
		set("Content-Type", "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
			"application/apply-patch+yaml", "application/json", m.junk())
	default:
		set("Content-Type", "application/json", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "", m.junk())
	}
	if m.chance(4) {
		set("Impersonate-User", "jane", "system:anonymous", m.junk())
	}
	if r.Header.Get("Impersonate-User") != "" && m.chance(50) || m.chance(1) {
		set("Impersonate-Group", "system:masters", m.junk())
	}
}

// Kinds of the resources, where they are not the singular with a capital.
var kinds = map[string]string{
	"configmaps": "ConfigMap", "pods": "Pod", "services": "Service", "secrets": "Secret", "events": "Event", "namespaces": "Namespace", "nodes": "Node",
	"deployments": "Deployment", "replicasets": "ReplicaSet", "jobs": "Job", "cronjobs": "CronJob", "leases": "Lease", "endpoints": "Endpoints",
	"customresourcedefinitions": "CustomResourceDefinition", "roles": "Role", "clusterroles": "ClusterRole", "flowschemas": "FlowSchema",
	"replicationcontrollers": "ReplicationController", "persistentvolumes": "PersistentVolume", "resourcequotas": "ResourceQuota", "limitranges": "LimitRange",
	"statefulsets": "StatefulSet", "daemonsets": "DaemonSet", "ingresses": "Ingress", "networkpolicies": "NetworkPolicy", "poddisruptionbudgets": "PodDisruptionBudget",
	"horizontalpodautoscalers": "HorizontalPodAutoscaler", "endpointslices": "EndpointSlice", "storageclasses": "StorageClass", "priorityclasses": "PriorityClass",
	"validatingadmissionpolicies": "ValidatingAdmissionPolicy", "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
	"certificatesigningrequests": "CertificateSigningRequest", "resourceclaims": "ResourceClaim", "subjectaccessreviews": "SubjectAccessReview", "tokenreviews": "TokenReview",
}

// cluster are the resources without a namespace.
var cluster = map[string]bool{
	"namespaces": true, "nodes": true, "persistentvolumes": true, "clusterroles": true, "storageclasses": true, "priorityclasses": true,
	"customresourcedefinitions": true, "flowschemas": true, "validatingadmissionpolicies": true, "validatingwebhookconfigurations": true,
	"certificatesigningrequests": true, "subjectaccessreviews": true, "tokenreviews": true,
}

func (m *Maker) body(r *Request, prefix, resource string) string {
	_, version, _ := strings.Cut(prefix, "/") // with its group
	kind := kinds[resource]
	if kind == "" {
		kind = "Thing"
	}
	if group, v, ok := strings.Cut(version, "/"); ok && m.chance(3) {
		version = m.pick("v1", group+"/v9", v, m.junk())
	}
	object := fmt.Sprintf(`{"apiVersion":%s,"kind":%q,"metadata":{"name":%q,"labels":{"a":%q},%s},%s}`,
		quoted(version), kind, m.name(r), m.pick("b", "x", "x", "x", "not a label!"), m.meta(), m.content(resource))
	switch {
	case m.chance(12) && !m.sound:
		return m.broken(object)
	case r.Method == http.MethodDelete:
		return m.pick("", "", `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`, `{"preconditions":{"uid":"x"}}`, `{"propagationPolicy":"Sideways"}`, object)
	case r.Method != http.MethodPatch:
		return object
	}
	switch r.Header.Get("Content-Type") {
	case "application/json-patch+json":
		return m.pick(`[{"op":"add","path":"/data/x","value":"y"}]`, `[{"op":"remove","path":"/metadata/labels/a"}]`, `[{"op":"test","path":"/kind","value":1}]`,
			`[{"op":"copy","from":"/metadata","path":"/metadata/labels"}]`, `[{"op":"add","path":"/spec/containers/-","value":null}]`,
			`[{"op":"replace","path":"","value":[]}]`, `[{"op":"move","from":"/a/b","path":"/a"}]`, `[{"op":"add","path":"/data/~","value":1}]`, `{}`)
	case "application/apply-patch+yaml":
		return object
	}
	return m.pick(`{"metadata":{"labels":{"n":"1"}}}`, `{"metadata":null}`, `{"spec":{"replicas":-1}}`, `{"data":{"a":null,"b":"c"}}`,
		`{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"c"}]}}}}`, `{"$patch":"replace"}`, `{"metadata":{"finalizers":["a/b"],"$setElementOrder/finalizers":["x"]}}`,
		`{"$retainKeys":["a"],"spec":{"$retainKeys":5}}`, `{"metadata":{"ownerReferences":[{"uid":""}]}}`, `{"metadata":{"managedFields":[{}]}}`, `[]`, `null`)
}

// name is what the body calls the object: what the path does, if it is sound.
func (m *Maker) name(r *Request) string {
	if path, _, _ := strings.Cut(r.Path, "?"); m.sound && r.Method != http.MethodPost {
		for part := range strings.SplitSeq(path, "/") {
			if len(part) == 1 {
				return part
			}
		}
	}
	return m.pick("a", "b", "c", "d", "e")
}

// quoted is text as JSON has it.
func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// meta is more of an object's metadata.
func (m *Maker) meta() string {
	if m.chance(80) {
		return `"annotations":{"x":"y"}`
	}
	j := quoted(m.junk())
	return m.pick(`"annotations":{"x":`+j+`}`, `"annotations":{`+j+`:"x"}`, `"resourceVersion":`+j, `"uid":`+j, `"finalizers":["a/b",`+j+`]`,
		`"generateName":`+j, `"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"a","uid":`+j+`}]`, `"creationTimestamp":`+j,
		`"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{`+j+`:{}}}]`,
		`"managedFields":[{"manager":`+j+`,"operation":"Apply","apiVersion":`+j+`,"fieldsType":"FieldsV1","fieldsV1":{"f:data":{"k:{\\"a\\":1}":{}}}}]`,
		`"generation":-1`, `"deletionTimestamp":"2020-01-01T00:00:00Z"`, `"namespace":`+j, `"selfLink":`+j)
}

const podSpec = `{"containers":[{"name":"c","image":"i"}]}`

// content is what an object of the resource has besides its metadata; now and
// then that of another.
func (m *Maker) content(resource string) string {
	if m.chance(10) {
		resource = m.pick("pods", "services", "deployments", "customresourcedefinitions", "configmaps")
	}
	template := `"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":` + podSpec + `}`
	switch resource {
	case "configmaps":
		return m.pick(`"data":{"k":"v"}`, `"data":{"k":`+quoted(m.junk())+`}`, `"data":{`+quoted(m.junk())+`:"v"}`, `"data":{"k":1}`, `"data":{"..":"v"}`, `"immutable":true`, `"binaryData":{"a":"%%"}`)
	case "pods":
		return `"spec":` + m.pick(podSpec, podSpec, `{}`, `{"containers":[]}`, `{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"-1"}}}]}`,
			`{"containers":[{"name":"c","image":"i","ports":[{"containerPort":99999}]}],"restartPolicy":"Perhaps"}`, `{"containers":{"name":"c"}}`)
	case "services":
		return m.pick(`"spec":{"ports":[{"port":80}]}`, `"spec":{"clusterIP":"None"}`, `"spec":{"type":"ExternalName","externalName":"x.y"}`, `"spec":{"ports":[{"port":-1}]}`)
	case "deployments", "replicasets", "statefulsets", "daemonsets":
		return `"spec":{` + m.pick(template, `"replicas":3,`+template, `"replicas":"3"`, `"selector":{}`) + `}`
	case "customresourcedefinitions":
		return m.pick(`"spec":{"group":"g.io","names":{"plural":"as","kind":"A"},"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-validations":[{"rule":"self.a.b(("}]}}}]}`,
			`"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"type":"array"}}}]}`, `"spec":null`)
	case "secrets":
		return m.pick(`"stringData":{"a":"b"}`, `"data":{"a":"!"}`, `"type":"kubernetes.io/tls"`)
	}
	return m.pick(`"spec":{}`, `"rules":[{"verbs":["get"],"resources":["pods"],"apiGroups":[""]}]`, `"rules":null`, `"spec":{"a":{"b":[1,2,{"c":null}]}}`, `"status":{"x":1}`, `"data":"x"`)
}

// broken damages a document.
func (m *Maker) broken(doc string) string {
	switch m.r.IntN(9) {
	case 0:
		return doc[:m.r.IntN(len(doc))]
	case 1:
		b := []byte(doc)
		for range 1 + m.r.IntN(5) {
			b[m.r.IntN(len(b))] = byte(m.r.UintN(256))
		}
		return string(b)
	case 2:
		return strings.Repeat(m.pick("[", `{"a":`, "- "), 1+m.r.IntN(20000))
	case 3: // aliases that multiply
		var b strings.Builder
		b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
		for i := 1; i < 12; i++ {
			fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 8), i-1)
		}
		return b.String()
	case 4:
		return "k8s\x00" + m.junk() + doc
	case 5:
		return strings.Replace(doc, `"name"`, `"name":"twice","name"`, 1)
	case 6:
		return strings.Replace(doc, `"metadata":{`, `"metadata":{"deletionTimestamp":"never","generation":"x","resourceVersion":"-5","uid":7,`, 1)
	case 7:
		return strings.Replace(doc, `"labels"`, `"annotations":{"x":"`+strings.Repeat("y", 300<<10)+`"},"labels"`, 1)
	}
	return m.junk()
}
