package deployment

import (
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/coxswain/cox/client"
)

// The annotations by which kubectl and other implementations of this
// controller know a Deployment's history.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// notCopied are the annotations of a Deployment that its sets do not get.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	maxAnnotation:                      true,
	appsv1.DeprecatedRollbackTo:        true,
}

// TemplateHash names a pod template: the value of the label
// pod-template-hash. It is made from the JSON form, from which fields that
// are not set are absent, so that it stays the same when the API gets new
// fields. collisions tells apart templates that would share a hash.
func TemplateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(t); err != nil {
		panic(err) // plain data of the API's own type
	}
	if collisions != nil {
		var b [8]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		h.Write(b[:])
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// sameTemplate compares templates but for the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	if !maps.Equal(withoutHash(a.Labels), withoutHash(b.Labels)) {
		return false
	}
	x, y := *a, *b
	x.Labels, y.Labels = nil, nil
	return apiequality.Semantic.DeepEqual(&x, &y)
}

func withoutHash(l map[string]string) map[string]string {
	if _, ok := l[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return l
	}
	l = maps.Clone(l)
	delete(l, appsv1.DefaultDeploymentUniqueLabelKey)
	return l
}

// newSetOf returns the set that runs the Deployment's present template: the
// oldest, should there be several.
func newSetOf(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	var found *appsv1.ReplicaSet
	for _, s := range sets {
		if (found == nil || older(s, found) < 0) && sameTemplate(&s.Spec.Template, &d.Spec.Template) {
			found = s
		}
	}
	return found
}

func older(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func revisionOf(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than the newest of the old sets'.
func nextRevision(old []*appsv1.ReplicaSet) int64 {
	var n int64
	for _, s := range old {
		n = max(n, revisionOf(s))
	}
	return n + 1
}

// annotate returns the annotations that the new set should have: the
// Deployment's, and the revision, with what it was before in its history.
func annotate(d *appsv1.Deployment, have map[string]string, revision int64) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied[k] {
			out[k] = v
		}
	}
	was, had := out[revisionAnnotation]
	wasN, err := strconv.ParseInt(was, 10, 64)
	if had && err == nil && wasN >= revision {
		return out
	}
	out[revisionAnnotation] = strconv.FormatInt(revision, 10)
	if had && was != "" {
		history := strings.Split(out[historyAnnotation], ",")
		if out[historyAnnotation] == "" {
			history = nil
		}
		if !slices.Contains(history, was) {
			history = append(history, was)
		}
		out[historyAnnotation] = strings.Join(history, ",")
	}
	return out
}

// makeSet makes the set for the Deployment's template. Its size and its
// annotations of size are the plan's business.
func makeSet(d *appsv1.Deployment, revision int64) *appsv1.ReplicaSet {
	hash := TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	with := func(l map[string]string) map[string]string {
		out := make(map[string]string, len(l)+1)
		maps.Copy(out, l)
		out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		return out
	}
	s := &appsv1.ReplicaSet{}
	s.Namespace, s.Name = d.Namespace, d.Name+"-"+hash
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, client.Deployments.GVK())}
	s.Spec.Template = *d.Spec.Template.DeepCopy()
	s.Spec.Template.Labels = with(d.Spec.Template.Labels)
	s.Labels = with(d.Spec.Template.Labels)
	s.Spec.Selector = d.Spec.Selector.DeepCopy()
	s.Spec.Selector.MatchLabels = with(d.Spec.Selector.MatchLabels)
	s.Spec.MinReadySeconds = d.Spec.MinReadySeconds
	s.Annotations = annotate(d, nil, revision)
	return s
}
