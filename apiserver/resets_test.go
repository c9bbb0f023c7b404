package apiserver_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What a write cannot set it does not own either; which parts these are differs
// from kind to kind.
func TestFieldsThatAWriteCannotSet(t *testing.T) {
	w := builtinWorld(t)
	const (
		deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"o"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
		pod        = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"o"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
		attachment = `{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","metadata":{"name":"o"},"spec":{"attacher":"a.b","nodeName":"n","source":{"persistentVolumeName":"v"}}}`
		level      = `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"PriorityLevelConfiguration","metadata":{"name":"o"},"spec":{"type":"Limited","limited":{"limitResponse":{"type":"Reject"}}}}`
		quota      = `{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"o"},"spec":{"hard":{"pods":"1"}}}`
	)
	for _, tc := range []struct {
		path, sub, obj string
		want           string // of the metadata, what the patch owns
	}{
		{"/apis/apps/v1/namespaces/default/deployments", "", deployment, "annotations labels ownerReferences"},
		{"/apis/apps/v1/namespaces/default/deployments", "/status", deployment, "annotations ownerReferences"},
		{"/api/v1/namespaces/default/pods", "/status", pod, "annotations labels"},
		{"/apis/storage.k8s.io/v1/volumeattachments", "", attachment, "annotations labels ownerReferences"},
		{"/apis/storage.k8s.io/v1/volumeattachments", "/status", attachment, ""},
		{"/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "/status", level, ""},
		{"/api/v1/namespaces/default/resourcequotas", "/status", quota, "annotations labels ownerReferences"},
	} {
		if resp, body := w.http("POST", tc.path, tc.obj); resp.StatusCode != 201 && resp.StatusCode != 409 {
			t.Fatal(tc.path, resp.StatusCode, body)
		}
		const patch = `{"metadata":{"labels":{"l":"1"},"annotations":{"a":"1"},"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"y"}]},"spec":{"paused":true}}`
		resp, body := w.http("PATCH", tc.path+"/o"+tc.sub+"?dryRun=All&fieldManager=tester", patch, "Content-Type", string(types.MergePatchType))
		if resp.StatusCode != 200 {
			t.Errorf("%s%s: %d %s", tc.path, tc.sub, resp.StatusCode, body)
			continue
		}
		got, rest := ownedMetadata(t, body, "tester")
		if got != tc.want {
			t.Errorf("%s%s: owns %q of the metadata, want %q: %s", tc.path, tc.sub, got, tc.want, body)
		}
		if slices.Contains(rest, "f:spec") && tc.sub != "" {
			t.Errorf("%s%s: owns some of the spec", tc.path, tc.sub)
		}
	}
}

// ownedMetadata names the fields of the metadata, and the other parts of the
// object, that a manager has in the object of an answer.
func ownedMetadata(t *testing.T, body, manager string) (metadata string, rest []string) {
	t.Helper()
	var obj metav1.PartialObjectMetadata
	if err := json.Unmarshal([]byte(body), &obj); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range obj.ManagedFields {
		var set map[string]map[string]any
		if e.Manager != manager {
			continue
		}
		if err := json.Unmarshal(e.FieldsV1.Raw, &set); err != nil {
			t.Fatal(err)
		}
		for part, in := range set {
			if part != "f:metadata" {
				rest = append(rest, part)
				continue
			}
			for name := range in {
				names = append(names, strings.TrimPrefix(name, "f:"))
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, " "), rest
}

// A Service can be made through its status, as far as it needs no address.
func TestServiceMadeByItsStatus(t *testing.T) {
	w := builtinWorld(t)
	const path = "/api/v1/namespaces/default/services/"
	for _, tc := range []struct {
		name, method, obj string
		code              int
		says              string
	}{
		{"external", "PUT", `{"metadata":{"name":"external"},"spec":{"type":"ExternalName","externalName":"a.b"}}`, 201, `"externalName":"a.b"`},
		{"external2", "PATCH", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"external2"},"spec":{"type":"ExternalName","externalName":"a.b"}}`, 201, `"externalName":"a.b"`},
		{"address", "PUT", `{"metadata":{"name":"address"},"spec":{"ports":[{"port":80}]}}`, 422, `spec.clusterIPs: Required value`},
		{"broken", "PUT", `{"metadata":{"name":"broken"},"spec":{"type":"ExternalName"}}`, 422, `spec.externalName: Required value`},
	} {
		h := []string{"Content-Type", "application/json"}
		if tc.method == "PATCH" {
			h[1] = string(types.ApplyYAMLPatchType)
		}
		resp, body := w.http(tc.method, path+tc.name+"/status?fieldManager=m", tc.obj, h...)
		if resp.StatusCode != tc.code || !strings.Contains(body, tc.says) {
			t.Errorf("%s: %d %s, want %d with %s", tc.name, resp.StatusCode, body, tc.code, tc.says)
		}
	}
	if resp, body := w.http("PUT", "/apis/apps/v1/namespaces/default/deployments/none/status", `{"metadata":{"name":"none"}}`); resp.StatusCode != 404 {
		t.Errorf("the status of an absent deployment: %d %s", resp.StatusCode, body)
	}
}
