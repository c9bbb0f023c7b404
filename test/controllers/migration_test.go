package controllers_test

import (
	"bytes"
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
)

// What was stored in another form is stored in today's after a migration, and
// nothing else of it has changed; what cannot be migrated is said to have
// failed.
func TestStorageMigration(t *testing.T) {
	w := newWorld(t, func(c *manager.Config) { c.MigrateStorage = true })
	ns := w.namespace("old")
	cm, err := client.ConfigMaps.In(w.root, ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "v"}})
	w.must(err)
	key := "/registry/configmaps/" + ns + "/c"
	stored := func() (value []byte, revision int64) {
		t.Helper()
		got, err := w.etcd.Get(t.Context(), key)
		w.must(err)
		if len(got.Kvs) != 1 {
			t.Fatalf("%d values of %s", len(got.Kvs), key)
		}
		return got.Kvs[0].Value, got.Kvs[0].ModRevision
	}
	if value, _ := stored(); !bytes.HasPrefix(value, []byte("k8s\x00")) {
		t.Fatalf("stored as %q", value)
	}
	// As a server that stores JSON has written it.
	old := cm.DeepCopy()
	old.TypeMeta, old.ResourceVersion = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ""
	text, err := json.Marshal(old)
	w.must(err)
	_, err = w.etcd.Put(t.Context(), key, string(text))
	w.must(err)
	_, before := stored()

	migrate := func(name, group, resource string) {
		t.Helper()
		_, err := client.StorageVersionMigrations.In(w.root, "").Create(t.Context(), &storagemigrationv1beta1.StorageVersionMigration{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagemigrationv1beta1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: group, Resource: resource}},
		})
		w.must(err)
	}
	is := func(condition string) func(*storagemigrationv1beta1.StorageVersionMigration) bool {
		return func(m *storagemigrationv1beta1.StorageVersionMigration) bool {
			return m != nil && meta.IsStatusConditionTrue(m.Status.Conditions, condition)
		}
	}
	migrate("maps", "", "configmaps")
	object(w, client.StorageVersionMigrations, "", "maps", "done", is("Succeeded"))
	value, after := stored()
	if !bytes.HasPrefix(value, []byte("k8s\x00")) || after <= before {
		t.Errorf("at %d after %d stored as %q", after, before, value)
	}
	now, err := client.ConfigMaps.In(w.root, ns).Get(t.Context(), "c")
	w.must(err)
	if now.UID != cm.UID || now.Data["k"] != "v" || len(now.ManagedFields) != len(cm.ManagedFields) {
		t.Errorf("migrated to %+v", now)
	}
	// What is stored as it should be is not written.
	migrate("again", "", "configmaps")
	object(w, client.StorageVersionMigrations, "", "again", "done", is("Succeeded"))
	if _, at := stored(); at != after {
		t.Errorf("written again at %d", at)
	}
	migrate("none", "example.com", "nothings")
	object(w, client.StorageVersionMigrations, "", "none", "begun", is("Running"))
}
