package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
)

// Stored is how upstream 1.36 keeps a kind in etcd.
type Stored struct {
	Prefix  string // below /registry/
	Version string // apiVersion
	JSON    bool
}

// UpstreamLayout is where and how upstream 1.36 keeps the built-in kinds, as
// one reads it out of the etcd of such a cluster.
var UpstreamLayout = map[schema.GroupKind]Stored{
	{Kind: "ConfigMap"}:             {Prefix: "configmaps", Version: "v1"},
	{Kind: "Endpoints"}:             {Prefix: "services/endpoints", Version: "v1"},
	{Kind: "Event"}:                 {Prefix: "events", Version: "v1"},
	{Kind: "LimitRange"}:            {Prefix: "limitranges", Version: "v1"},
	{Kind: "Namespace"}:             {Prefix: "namespaces", Version: "v1"},
	{Kind: "Node"}:                  {Prefix: "minions", Version: "v1"},
	{Kind: "PersistentVolume"}:      {Prefix: "persistentvolumes", Version: "v1"},
	{Kind: "PersistentVolumeClaim"}: {Prefix: "persistentvolumeclaims", Version: "v1"},
	{Kind: "Pod"}:                   {Prefix: "pods", Version: "v1"},
	{Kind: "PodTemplate"}:           {Prefix: "podtemplates", Version: "v1"},
	{Kind: "RangeAllocation"}:       {Prefix: "ranges", Version: "v1"},
	{Kind: "ReplicationController"}: {Prefix: "controllers", Version: "v1"},
	{Kind: "ResourceQuota"}:         {Prefix: "resourcequotas", Version: "v1"},
	{Kind: "Secret"}:                {Prefix: "secrets", Version: "v1"},
	{Kind: "Service"}:               {Prefix: "services/specs", Version: "v1"},
	{Kind: "ServiceAccount"}:        {Prefix: "serviceaccounts", Version: "v1"},

	{Group: "apps", Kind: "ControllerRevision"}: {Prefix: "controllerrevisions", Version: "apps/v1"},
	{Group: "apps", Kind: "DaemonSet"}:          {Prefix: "daemonsets", Version: "apps/v1"},
	{Group: "apps", Kind: "Deployment"}:         {Prefix: "deployments", Version: "apps/v1"},
	{Group: "apps", Kind: "ReplicaSet"}:         {Prefix: "replicasets", Version: "apps/v1"},
	{Group: "apps", Kind: "StatefulSet"}:        {Prefix: "statefulsets", Version: "apps/v1"},

	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}: {Prefix: "horizontalpodautoscalers", Version: "autoscaling/v2"},
	{Group: "batch", Kind: "CronJob"}:                       {Prefix: "cronjobs", Version: "batch/v1"},
	{Group: "batch", Kind: "Job"}:                           {Prefix: "jobs", Version: "batch/v1"},

	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}: {Prefix: "certificatesigningrequests", Version: "certificates.k8s.io/v1"},
	{Group: "coordination.k8s.io", Kind: "Lease"}:                     {Prefix: "leases", Version: "coordination.k8s.io/v1"},
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:                {Prefix: "endpointslices", Version: "discovery.k8s.io/v1"},

	{Group: "networking.k8s.io", Kind: "Ingress"}:       {Prefix: "ingress", Version: "networking.k8s.io/v1"},
	{Group: "networking.k8s.io", Kind: "IngressClass"}:  {Prefix: "ingressclasses", Version: "networking.k8s.io/v1"},
	{Group: "networking.k8s.io", Kind: "IPAddress"}:     {Prefix: "ipaddresses", Version: "networking.k8s.io/v1"},
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}: {Prefix: "networkpolicies", Version: "networking.k8s.io/v1"},
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}:   {Prefix: "servicecidrs", Version: "networking.k8s.io/v1"},

	{Group: "node.k8s.io", Kind: "RuntimeClass"}:        {Prefix: "runtimeclasses", Version: "node.k8s.io/v1"},
	{Group: "policy", Kind: "PodDisruptionBudget"}:      {Prefix: "poddisruptionbudgets", Version: "policy/v1"},
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}: {Prefix: "priorityclasses", Version: "scheduling.k8s.io/v1"},

	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:        {Prefix: "clusterroles", Version: "rbac.authorization.k8s.io/v1"},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}: {Prefix: "clusterrolebindings", Version: "rbac.authorization.k8s.io/v1"},
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:               {Prefix: "roles", Version: "rbac.authorization.k8s.io/v1"},
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:        {Prefix: "rolebindings", Version: "rbac.authorization.k8s.io/v1"},

	{Group: "storage.k8s.io", Kind: "CSIDriver"}:             {Prefix: "csidrivers", Version: "storage.k8s.io/v1"},
	{Group: "storage.k8s.io", Kind: "CSINode"}:               {Prefix: "csinodes", Version: "storage.k8s.io/v1"},
	{Group: "storage.k8s.io", Kind: "CSIStorageCapacity"}:    {Prefix: "csistoragecapacities", Version: "storage.k8s.io/v1"},
	{Group: "storage.k8s.io", Kind: "StorageClass"}:          {Prefix: "storageclasses", Version: "storage.k8s.io/v1"},
	{Group: "storage.k8s.io", Kind: "VolumeAttachment"}:      {Prefix: "volumeattachments", Version: "storage.k8s.io/v1"},
	{Group: "storage.k8s.io", Kind: "VolumeAttributesClass"}: {Prefix: "volumeattributesclasses", Version: "storage.k8s.io/v1"},

	{Group: "resource.k8s.io", Kind: "DeviceClass"}:           {Prefix: "deviceclasses", Version: "resource.k8s.io/v1"},
	{Group: "resource.k8s.io", Kind: "ResourceClaim"}:         {Prefix: "resourceclaims", Version: "resource.k8s.io/v1"},
	{Group: "resource.k8s.io", Kind: "ResourceClaimTemplate"}: {Prefix: "resourceclaimtemplates", Version: "resource.k8s.io/v1"},
	{Group: "resource.k8s.io", Kind: "ResourceSlice"}:         {Prefix: "resourceslices", Version: "resource.k8s.io/v1"},

	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:     {Prefix: "mutatingwebhookconfigurations", Version: "admissionregistration.k8s.io/v1"},
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}:   {Prefix: "validatingwebhookconfigurations", Version: "admissionregistration.k8s.io/v1"},
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}:        {Prefix: "validatingadmissionpolicies", Version: "admissionregistration.k8s.io/v1"},
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: {Prefix: "validatingadmissionpolicybindings", Version: "admissionregistration.k8s.io/v1"},
	// 1.36 keeps these two in their beta version still.
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}:        {Prefix: "mutatingadmissionpolicies", Version: "admissionregistration.k8s.io/v1beta1"},
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"}: {Prefix: "mutatingadmissionpolicybindings", Version: "admissionregistration.k8s.io/v1beta1"},

	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"}:                 {Prefix: "flowschemas", Version: "flowcontrol.apiserver.k8s.io/v1"},
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"}: {Prefix: "prioritylevelconfigurations", Version: "flowcontrol.apiserver.k8s.io/v1"},

	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: {Prefix: "apiextensions.k8s.io/customresourcedefinitions", Version: "apiextensions.k8s.io/v1beta1", JSON: true},
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             {Prefix: "apiregistration.k8s.io/apiservices", Version: "apiregistration.k8s.io/v1", JSON: true},
}

// Layout stores one object of every kind of a table and reads the raw key and
// value from etcd: the place, the encoding, the version, and that no
// resourceVersion is in it. Kinds that want does not know are reported.
func Layout(t *testing.T, etcd store.Backend, table *api.Table, want map[schema.GroupKind]Stored) {
	s, err := store.New(store.Config{Backend: etcd, Table: table})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	for _, k := range table.Kinds {
		if k.Prefix == "" {
			continue
		}
		n++
		t.Run(k.Hub.Kind, func(t *testing.T) {
			w, ok := want[k.Hub.GroupKind()]
			if !ok {
				t.Fatalf("no layout is known for %v at %q", k.Hub, k.Prefix)
			}
			obj, ok := k.New().(api.Object)
			if !ok {
				t.Fatalf("%T has no object metadata", k.New())
			}
			obj.SetName("x")
			key := "x"
			if k.Namespaced {
				obj.SetNamespace("ns")
				key = "ns/x"
			}
			e, err := s.Kind(k).Create(t.Context(), key, obj)
			if err != nil {
				t.Fatal(err)
			}
			checkStored(t, etcd, w, "/registry/"+w.Prefix+"/"+key, k)
			got, err := s.Direct(k).Get(t.Context(), key, "")
			if err != nil {
				t.Fatal(err)
			}
			if got.Revision != e.Revision || got.Object.(api.Object).GetName() != "x" {
				t.Errorf("read back %v at %d", got.Object, got.Revision)
			}
		})
	}
	all, err := etcd.Get(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "keys", all.Count, int64(n))
}

func checkStored(t *testing.T, etcd store.Backend, w Stored, key string, k *api.Kind) {
	t.Helper()
	resp, err := etcd.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 {
		t.Fatalf("nothing lies under %s", key)
	}
	kv := resp.Kvs[0]
	if (kv.Lease != 0) != (k.TTL > 0) {
		t.Errorf("lease %d with a TTL of %d", kv.Lease, k.TTL)
	}
	var meta runtime.TypeMeta
	if w.JSON {
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(kv.Value, &u.Object); err != nil {
			t.Fatalf("not JSON: %v: %q", err, kv.Value)
		}
		meta = runtime.TypeMeta{APIVersion: u.GetAPIVersion(), Kind: u.GetKind()}
		if u.GetResourceVersion() != "" {
			t.Error("a resourceVersion is stored")
		}
	} else {
		body, ok := bytes.CutPrefix(kv.Value, []byte("k8s\x00"))
		if !ok {
			t.Fatalf("no protobuf envelope: %q", kv.Value)
		}
		var u runtime.Unknown
		if err := u.Unmarshal(body); err != nil {
			t.Fatal(err)
		}
		meta = u.TypeMeta
		obj := k.New()
		if err := obj.(interface{ Unmarshal([]byte) error }).Unmarshal(u.Raw); err != nil {
			t.Fatal(err)
		}
		if obj.(api.Object).GetResourceVersion() != "" {
			t.Error("a resourceVersion is stored")
		}
	}
	equal(t, "stored as", fmt.Sprint(meta.APIVersion, " ", meta.Kind), fmt.Sprint(w.Version, " ", k.Hub.Kind))
}

// RV is a revision as a resourceVersion.
func RV(n int64) string { return strconv.FormatInt(n, 10) }
