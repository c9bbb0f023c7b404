package deployment

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Unix(1e9, 0)

// dep makes a Deployment of image "new" with a surge of 25 %.
func dep(replicas int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "web", UID: "d", Generation: 1}}
	quarter := intstr.FromString("25%")
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, ProgressDeadlineSeconds: ptr.To[int32](600),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter}},
	}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Image: "new"}}
	return d
}

// rs makes a set of d; all its pods are available unless avail says else.
func rs(d *appsv1.Deployment, image string, age int, size int32, avail ...int32) *appsv1.ReplicaSet {
	t := d.DeepCopy()
	t.Spec.Template.Spec.Containers[0].Image = image
	s := makeSet(t, int64(100-age))
	s.UID, s.CreationTimestamp = types.UID(image), metav1.NewTime(now.Add(-time.Duration(age)*time.Hour))
	s.Spec.Replicas = &size
	surge, _ := bounds(d)
	s.Annotations[desiredAnnotation], s.Annotations[maxAnnotation] = fmt.Sprint(*d.Spec.Replicas), fmt.Sprint(*d.Spec.Replicas+surge)
	n := size
	if len(avail) > 0 {
		n = avail[0]
	}
	s.Status = appsv1.ReplicaSetStatus{Replicas: size, ReadyReplicas: n, AvailableReplicas: n}
	return s
}

func noPods([]*appsv1.ReplicaSet) bool { return false }

// sizes writes a plan's changes as "image:from>to".
func sizes(plan *Plan) string {
	var out []string
	if plan.Create != nil {
		out = append(out, fmt.Sprintf("create:%d", *plan.Create.Spec.Replicas))
	}
	for _, u := range plan.Update {
		if u.From != u.To {
			out = append(out, fmt.Sprintf("%s:%d>%d", u.Set.Spec.Template.Spec.Containers[0].Image, u.From, u.To))
		}
	}
	return strings.Join(out, " ")
}

func TestSteps(t *testing.T) {
	resized := func(d *appsv1.Deployment, n int32) *appsv1.Deployment { d.Spec.Replicas = &n; return d }
	for _, tc := range []struct {
		name string
		d    *appsv1.Deployment
		sets func(d *appsv1.Deployment) []*appsv1.ReplicaSet
		want string
	}{
		{"first", dep(4), func(*appsv1.Deployment) []*appsv1.ReplicaSet { return nil }, "create:4"},
		{"a new template starts within the surge", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet { return []*appsv1.ReplicaSet{rs(d, "old", 1, 4)} }, "create:1 old:4>3"},
		{"half way", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet {
			return []*appsv1.ReplicaSet{rs(d, "old", 2, 3), rs(d, "new", 1, 2, 1)}
		}, "old:3>2"},
		{"the last one", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet {
			return []*appsv1.ReplicaSet{rs(d, "old", 2, 1), rs(d, "new", 1, 4)}
		}, "old:1>0"},
		{"pods that are not available go first", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet {
			return []*appsv1.ReplicaSet{rs(d, "old", 3, 3), rs(d, "broken", 2, 2, 0)}
		}, "create:0 broken:2>0"},
		{"nothing to do", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet { return []*appsv1.ReplicaSet{rs(d, "new", 1, 4)} }, ""},
		{"scaled by hand", dep(4), func(d *appsv1.Deployment) []*appsv1.ReplicaSet { return []*appsv1.ReplicaSet{rs(d, "new", 1, 6)} }, "new:6>4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Make(tc.d, tc.sets(tc.d), noPods, now)
			if got := sizes(&plan); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	// Scaling half way through a rollout keeps the proportions: 4+2 of 5+1
	// becomes 8+5 of 10+3, and back.
	d := dep(5)
	sets := []*appsv1.ReplicaSet{rs(d, "old", 2, 5), rs(d, "new", 1, 2)}
	plan := Make(resized(d, 10), sets, noPods, now)
	if got := sizes(&plan); got != "old:5>9 new:2>4" {
		t.Errorf("up: %s", got)
	}
	for _, u := range plan.Update {
		if u.Set.Annotations[desiredAnnotation] != "10" || u.Set.Annotations[maxAnnotation] != "13" {
			t.Errorf("annotations %v", u.Set.Annotations)
		}
	}
	d = dep(10)
	sets = []*appsv1.ReplicaSet{rs(d, "old", 2, 9), rs(d, "new", 1, 4)}
	plan = Make(resized(d, 0), sets, noPods, now)
	if got := sizes(&plan); got != "old:9>0 new:4>0" {
		t.Errorf("to nothing: %s", got)
	}
	// Paused: the size changes, the template does not.
	d = dep(4)
	sets = []*appsv1.ReplicaSet{rs(d, "old", 2, 4)}
	d.Spec.Paused = true
	plan = Make(resized(d, 6), sets, noPods, now)
	if got := sizes(&plan); got != "old:4>6" || plan.Create != nil {
		t.Errorf("paused: %s", got)
	}
	if c := cond(&plan.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonPaused || c.Status != corev1.ConditionUnknown {
		t.Errorf("paused: %+v", c)
	}
}

func cond(st *appsv1.DeploymentStatus, ty appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == ty {
			return &st.Conditions[i]
		}
	}
	return nil
}

func TestConditions(t *testing.T) {
	since := func(reason string, ago time.Duration) []appsv1.DeploymentCondition {
		return []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason,
			LastUpdateTime: metav1.NewTime(now.Add(-ago)), LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
	for _, tc := range []struct {
		name       string
		was        []appsv1.DeploymentCondition
		avail      int32
		wasUpdated int32
		want       string
		available  string
		again      time.Duration
	}{
		{"complete", since(reasonSetUpdated, time.Second), 4, 4, `True NewReplicaSetAvailable ReplicaSet "%s" has successfully progressed.`, reasonMinimum, 0},
		{"further", since(reasonSetUpdated, 9*time.Minute), 3, 1, `True ReplicaSetUpdated ReplicaSet "%s" is progressing.`, reasonMinimum, 601 * time.Second},
		{"waiting", since(reasonSetUpdated, 9*time.Minute), 2, 4, "True ReplicaSetUpdated ", reasonMinimumNotReached, 61 * time.Second},
		{"late", since(reasonSetUpdated, 11*time.Minute), 2, 4, `False ProgressDeadlineExceeded ReplicaSet "%s" has timed out progressing.`, reasonMinimumNotReached, 0},
		{"a pod failed after the end", since(reasonSetAvailable, time.Hour), 3, 4, "True NewReplicaSetAvailable ", reasonMinimum, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := dep(4)
			d.Status = appsv1.DeploymentStatus{Conditions: tc.was, Replicas: 4, UpdatedReplicas: tc.wasUpdated, ReadyReplicas: tc.avail, AvailableReplicas: tc.avail}
			s := rs(d, "new", 1, 4, tc.avail)
			plan := Make(d, []*appsv1.ReplicaSet{s}, noPods, now)
			c := cond(&plan.Status, appsv1.DeploymentProgressing)
			want := tc.want
			if strings.Contains(want, "%s") {
				want = fmt.Sprintf(want, s.Name)
			}
			if got := fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if a := cond(&plan.Status, appsv1.DeploymentAvailable); a.Reason != tc.available {
				t.Errorf("available: %+v", a)
			}
			if plan.Again != tc.again {
				t.Errorf("again in %v, want %v", plan.Again, tc.again)
			}
		})
	}
	d := dep(4)
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](math.MaxInt32)
	s := rs(d, "new", 1, 4, 0)
	s.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	plan := Make(d, []*appsv1.ReplicaSet{s}, noPods, now)
	if f := cond(&plan.Status, appsv1.DeploymentReplicaFailure); f == nil || f.Reason != "FailedCreate" || f.Message != "quota" {
		t.Errorf("%+v", f)
	}
	if cond(&plan.Status, appsv1.DeploymentProgressing) != nil || plan.Again != 0 {
		t.Error("no deadline, yet there is a condition of progress")
	}
}

func TestHistory(t *testing.T) {
	d := dep(1)
	d.Spec.RevisionHistoryLimit = ptr.To[int32](1)
	d.Annotations = map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "y"}
	busy := rs(d, "busy", 4, 0)
	busy.Generation = 2 // its controller has not seen its last size yet
	plan := Make(d, []*appsv1.ReplicaSet{busy, rs(d, "older", 3, 0), rs(d, "old", 2, 0), rs(d, "new", 5, 1)}, noPods, now)
	var gone []string
	for _, s := range plan.Delete {
		gone = append(gone, string(s.UID))
	}
	// Beyond the limit are the two oldest revisions; one may still have pods.
	if fmt.Sprint(gone) != "[older]" {
		t.Errorf("deleted %v", gone)
	}
	if len(plan.Update) != 1 {
		t.Fatalf("updates %+v", plan.Update)
	}
	a := plan.Update[0].Set.Annotations
	if a[revisionAnnotation] != "99" || a[historyAnnotation] != "95" || a["note"] != "x" || a[corev1.LastAppliedConfigAnnotation] != "" || plan.Revision != "99" {
		t.Errorf("annotations %v, revision %s", a, plan.Revision)
	}
}

func TestTemplateHash(t *testing.T) {
	d := dep(1)
	a := TemplateHash(&d.Spec.Template, nil)
	if b := TemplateHash(d.DeepCopy().Spec.Template.DeepCopy(), nil); a != b {
		t.Errorf("%s and %s of the same template", a, b)
	}
	// Fixed, so that a new version of the program does not make new sets.
	if want := "55c9469c4"; a != want {
		t.Errorf("hash %s, want %s", a, want)
	}
	if b := TemplateHash(&d.Spec.Template, ptr.To[int32](1)); a == b {
		t.Error("a collision gives the same hash")
	}
	d.Spec.Template.Spec.Containers[0].Image = "other"
	if b := TemplateHash(&d.Spec.Template, nil); a == b {
		t.Error("another template, the same hash")
	}
}
