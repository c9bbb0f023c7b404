// Package storagemigration writes stored objects anew, so that they are kept in
// today's storage version and encryption (KEP-4192): StorageVersionMigrations
// come in, empty applies to each object of their resource go out.
package storagemigration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

type migration = storagemigrationv1beta1.StorageVersionMigration

// patience is how long a resource may be missing before its migration fails: it
// may just have been defined.
const patience = time.Minute

// Ended says that a migration has succeeded or failed.
func Ended(m *migration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1beta1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1beta1.MigrationFailed))
}

// Find returns the resource of a migration among those served, nil if there is
// none.
func Find(all []controllers.Resource, gr metav1.GroupResource) *controllers.Resource {
	i := slices.IndexFunc(all, func(r controllers.Resource) bool { return r.Group == gr.Group && r.Resource == gr.Resource })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// Unable says why a resource cannot be migrated, "" if it can.
func Unable(r *controllers.Resource) string {
	var missing []string
	for _, verb := range []client.Verb{client.Update, client.Patch, client.List} {
		if !r.Can(verb) {
			missing = append(missing, string(verb))
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("resource %q does not support discovery operations: [%s]", r.GroupVersionResource.String(), strings.Join(missing, " "))
}

// MayAppear says that a resource which is not served may still come, and for
// how long.
func MayAppear(m *migration, now time.Time) time.Duration {
	running := meta.FindStatusCondition(m.Status.Conditions, string(storagemigrationv1beta1.MigrationRunning))
	if running == nil {
		return patience
	}
	return running.LastTransitionTime.Add(patience).Sub(now)
}

// Running is the status of a migration that has begun; resourceVersion may be
// empty if it is not known up to which it goes.
func Running(m *migration, resourceVersion string, now time.Time) *migration {
	out := m.DeepCopy()
	if out.Status.ResourceVersion == "" {
		out.Status.ResourceVersion = resourceVersion
	}
	meta.SetStatusCondition(&out.Status.Conditions, metav1.Condition{
		Type: string(storagemigrationv1beta1.MigrationRunning), Status: metav1.ConditionTrue,
		Reason: "MigrationRunning", Message: "The migration is running", LastTransitionTime: metav1.NewTime(now),
	})
	return out
}

// Over is the status of a migration that has ended; failure is "" where it has
// succeeded.
func Over(m *migration, failure string, now time.Time) *migration {
	out := m.DeepCopy()
	end := storagemigrationv1beta1.MigrationSucceeded
	if failure != "" {
		end = storagemigrationv1beta1.MigrationFailed
	}
	for _, c := range []metav1.Condition{
		{Type: string(storagemigrationv1beta1.MigrationRunning), Status: metav1.ConditionFalse, Reason: "MigrationCompleted", Message: "Migration completed"},
		{Type: string(end), Status: metav1.ConditionTrue, Reason: "StorageVersionMigration" + string(end), Message: failure},
	} {
		c.LastTransitionTime = metav1.NewTime(now)
		meta.SetStatusCondition(&out.Status.Conditions, c)
	}
	return out
}

// Later says that an object was written after the migration had begun, and so
// is stored as it should be.
func Later(resourceVersion, begun string) bool {
	have, err := strconv.ParseUint(resourceVersion, 10, 64)
	limit, bad := strconv.ParseUint(begun, 10, 64)
	return err == nil && bad == nil && have > limit
}

// Touch is an apply that changes nothing of an object, and fails if it is not
// this version of it any more: nothing but the stored bytes may change.
func Touch(gvk schema.GroupVersionKind, obj metav1.Object) ([]byte, error) {
	metadata := map[string]string{"name": obj.GetName(), "uid": string(obj.GetUID()), "resourceVersion": obj.GetResourceVersion()}
	if obj.GetNamespace() != "" {
		metadata["namespace"] = obj.GetNamespace()
	}
	return json.Marshal(map[string]any{"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind, "metadata": metadata})
}

// storageMigrating is the condition of a definition whose custom resources are
// being migrated.
const storageMigrating extv1.CustomResourceDefinitionConditionType = "StorageMigrating"

// Definition is the status of a definition whose custom resources are being
// migrated, or have been: only then its former storage versions are no longer
// stored. It returns nil if there is nothing to write.
func Definition(crd *extv1.CustomResourceDefinition, name string, over bool, now time.Time) *extv1.CustomResourceDefinition {
	c := extv1.CustomResourceDefinitionCondition{
		Type: storageMigrating, Status: extv1.ConditionTrue, Reason: "MigrationRunning", Message: "Migration " + name + " is running",
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: crd.Generation,
	}
	if over {
		c.Status, c.Reason = extv1.ConditionFalse, "MigrationSucceeded"
		c.Message = "The migration has succeeded and the stored versions have been updated"
	}
	out := crd.DeepCopy()
	i := slices.IndexFunc(out.Status.Conditions, func(o extv1.CustomResourceDefinitionCondition) bool { return o.Type == c.Type })
	if i < 0 {
		out.Status.Conditions = append(out.Status.Conditions, c)
	} else if old := out.Status.Conditions[i]; old.Status == c.Status && old.Message == c.Message && old.ObservedGeneration == c.ObservedGeneration {
		return nil
	} else {
		out.Status.Conditions[i] = c
	}
	if over {
		for _, v := range out.Spec.Versions {
			if v.Storage {
				out.Status.StoredVersions = []string{v.Name}
			}
		}
	}
	return out
}
