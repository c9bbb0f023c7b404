package apps

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

const workload = `
metadata: {name: web, namespace: default, resourceVersion: "7", uid: u, generation: 3}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {disk: ssd}
      containers: [{name: web, image: "nginx:1"}, {name: log, image: log}]
status: {replicas: 3, readyReplicas: 2, updatedReplicas: 1, availableReplicas: 2, desiredNumberScheduled: 5,
  currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1}
`

// kind returns the row of a resource and its object made of the workload.
func kind(t *testing.T, resource string) (*api.Kind, runtime.Object) {
	t.Helper()
	for _, k := range Kinds(podspec.Gates{}) {
		if k.Resource == resource {
			obj := k.New()
			if err := yaml.Unmarshal([]byte(workload), obj); err != nil {
				t.Fatal(err)
			}
			return k, obj
		}
	}
	t.Fatalf("no kind %s", resource)
	return nil, nil
}

// What kubectl get -o wide prints, column by column.
func TestColumns(t *testing.T) {
	const selector = "app=web,tier in (a,b)"
	for resource, want := range map[string]string{
		"deployments":  "Name=web|Ready=2/3|Up-to-date=1|Available=2|Age=<unknown>|*Containers=web,log|*Images=nginx:1,log|*Selector=" + selector,
		"replicasets":  "Name=web|Desired=3|Current=3|Ready=2|Age=<unknown>|*Containers=web,log|*Images=nginx:1,log|*Selector=" + selector,
		"statefulsets": "Name=web|Ready=2/3|Age=<unknown>|*Containers=web,log|*Images=nginx:1,log",
		"daemonsets": "Name=web|Desired=5|Current=4|Ready=3|Up-to-date=2|Available=1|Node Selector=disk=ssd|Age=<unknown>|" +
			"*Containers=web,log|*Images=nginx:1,log|*Selector=" + selector,
	} {
		k, obj := kind(t, resource)
		var got []string
		for i, cell := range k.Cells(obj) {
			wide := ""
			if k.Columns[i].Priority > 0 {
				wide = "*"
			}
			got = append(got, fmt.Sprintf("%s%s=%v", wide, k.Columns[i].Name, cell))
		}
		if line := strings.Join(got, "|"); line != want {
			t.Errorf("%s:\n%s\nwant\n%s", resource, line, want)
		}
	}
}

// The scale subresource shows and sets the replicas of whatever has them.
func TestScale(t *testing.T) {
	for _, resource := range []string{"deployments", "replicasets", "statefulsets"} {
		k, obj := kind(t, resource)
		p := k.Subresources["scale"].Project
		got, err := p.Get(obj)
		if err != nil {
			t.Fatal(err)
		}
		s := got.(*autoscalingv1.Scale)
		if s.Name != "web" || s.Namespace != "default" || s.ResourceVersion != "7" || s.UID != "u" ||
			s.Spec.Replicas != 3 || s.Status.Replicas != 3 || s.Status.Selector != "app=web,tier in (a,b)" {
			t.Errorf("%s: %+v", resource, s)
		}
		s.Spec.Replicas = 9
		if err := p.Set(obj, s); err != nil {
			t.Fatal(err)
		}
		if again, _ := p.Get(obj); again.(*autoscalingv1.Scale).Spec.Replicas != 9 {
			t.Errorf("%s was not scaled", resource)
		}
		s.Spec.Replicas = -1
		if errs := p.Validate(s); len(errs) != 1 || errs[0].Error() != "spec.replicas: Invalid value: -1: must be greater than or equal to 0" {
			t.Errorf("%s: %v", resource, errs)
		}
	}
}

// A create starts the generation, a changed spec counts it, a status does
// neither that nor change the spec.
func TestGenerationAndStatus(t *testing.T) {
	for _, resource := range []string{"deployments", "replicasets", "statefulsets", "daemonsets"} {
		k, obj := kind(t, resource)
		m := obj.(metav1.Object)
		k.Strategy.Default(obj)
		old := obj.DeepCopyObject()

		same := old.DeepCopyObject()
		k.Strategy.PrepareUpdate(same, old)
		if g := same.(metav1.Object).GetGeneration(); g != 3 {
			t.Errorf("%s: unchanged, generation %d", resource, g)
		}
		labels := old.DeepCopyObject()
		labels.(metav1.Object).SetLabels(map[string]string{"a": "b"})
		k.Strategy.PrepareUpdate(labels, old)
		if g := labels.(metav1.Object).GetGeneration(); g != 3 {
			t.Errorf("%s: new labels, generation %d", resource, g)
		}
		changed := k.New()
		changed.(metav1.Object).SetGeneration(99)
		k.Strategy.PrepareUpdate(changed, old)
		if g := changed.(metav1.Object).GetGeneration(); g != 4 {
			t.Errorf("%s: changed spec, generation %d", resource, g)
		}
		status := k.New()
		k.Subresources["status"].Object.PrepareUpdate(status, old)
		if !strings.Contains(mustYAML(t, status), "image: nginx:1") || status.(metav1.Object).GetGeneration() != 3 {
			t.Errorf("%s: the status update changed the spec", resource)
		}
		k.Strategy.PrepareCreate(obj)
		if m.GetGeneration() != 1 || strings.Contains(mustYAML(t, obj), "readyReplicas: 2") {
			t.Errorf("%s: created with generation %d and a status", resource, m.GetGeneration())
		}
	}
}

func mustYAML(t *testing.T, v any) string {
	t.Helper()
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Annotations of a Deployment count, because its replica sets carry them.
func TestDeploymentAnnotationsCount(t *testing.T) {
	k, old := kind(t, "deployments")
	obj := old.DeepCopyObject()
	obj.(metav1.Object).SetAnnotations(map[string]string{"kubernetes.io/change-cause": "new image"})
	k.Strategy.PrepareUpdate(obj, old)
	if g := obj.(metav1.Object).GetGeneration(); g != 4 {
		t.Errorf("generation %d", g)
	}
}

// A daemon set counts the changes of its template in an annotation.
func TestTemplateGeneration(t *testing.T) {
	k, obj := kind(t, "daemonsets")
	d := obj.(*appsv1.DaemonSet)
	k.Strategy.PrepareCreate(d)
	if v := d.Annotations[templateGeneration]; v != "1" {
		t.Fatalf("new: %q", v)
	}
	next := d.DeepCopy()
	next.Annotations = nil
	next.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	k.Strategy.PrepareUpdate(next, d)
	if v := next.Annotations[templateGeneration]; v != "2" {
		t.Errorf("changed template: %q", v)
	}
}

// A revision's data is an object, and a StatefulSet warns of a history without
// end.
func TestRevisions(t *testing.T) {
	k, _ := kind(t, "controllerrevisions")
	for in, want := range map[string]string{
		`{revision: -1}`:            `[revision: Invalid value: -1: must be greater than or equal to 0, data: Required value: data is mandatory]`,
		`{revision: 1, data: null}`: `data: Required value: data is mandatory`,
		`{revision: 1, data: 5}`:    `data: Required value: data must be a valid JSON object`,
		`{revision: 1, data: []}`:   `data: Required value: data must be a valid JSON object`,
		`{revision: 1, data: {}}`:   `<nil>`,
	} {
		obj := k.New()
		if err := yaml.Unmarshal([]byte(in), obj); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(k.Strategy.Validate(obj).ToAggregate()); got != want {
			t.Errorf("%s: %s\nwant %s", in, got, want)
		}
	}
	k, obj := kind(t, "statefulsets")
	obj.(*appsv1.StatefulSet).Spec.RevisionHistoryLimit = new(int32(-1))
	if got := k.Strategy.Warnings(obj, nil); len(got) != 1 || !strings.Contains(got[0], "a negative value retains all historical revisions") {
		t.Errorf("warnings %q", got)
	}
}

// Who names the strategy of a StatefulSet says all of it.
func TestStrategyDefaults(t *testing.T) {
	k, _ := kind(t, "statefulsets")
	for in, want := range map[string]string{
		`{}`:                    `{"type":"RollingUpdate","rollingUpdate":{"partition":0}}`,
		`{type: RollingUpdate}`: `{"type":"RollingUpdate"}`,
		`{rollingUpdate: {}}`:   `{"type":"RollingUpdate","rollingUpdate":{"partition":0}}`,
		`{type: RollingUpdate, rollingUpdate: {}}`: `{"type":"RollingUpdate","rollingUpdate":{"partition":0}}`,
		`{type: OnDelete}`:                         `{"type":"OnDelete"}`,
	} {
		obj := &appsv1.StatefulSet{}
		if err := yaml.Unmarshal([]byte("spec: {updateStrategy: "+in+"}"), obj); err != nil {
			t.Fatal(err)
		}
		k.Strategy.Default(obj)
		if got, err := json.Marshal(obj.Spec.UpdateStrategy); err != nil || string(got) != want {
			t.Errorf("%s: %s, want %s (%v)", in, got, want, err)
		}
	}
}
