// Package histories_test plays random histories against the real controllers
// and API server, in time that costs nothing, and judges every change that
// they commit: what a controller promises holds whatever goes wrong around
// it, and in the end, when all is calm again, the cluster is as it should be.
//
// Every history has a seed, which a failure names. COX_HISTORIES=1000 plays
// more of them, COX_SEED=7 a certain one.
package histories_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/test/world"
)

// template is a pod template of an app; its image tells the version.
func template(app, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

// seconds is a random time up to so many seconds.
func seconds(rnd *rand.Rand, most float64) time.Duration {
	return time.Duration(rnd.Float64() * most * float64(time.Second))
}

// service is the fate of pods that run for ever; some images are special:
// "bad" never becomes ready, "slow" takes minutes, "flappy" comes and goes.
func service(p *corev1.Pod, rnd *rand.Rand) world.Fate {
	f := world.Fate{Bind: seconds(rnd, 0.5), Start: seconds(rnd, 4), Stop: seconds(rnd, 5)}
	switch p.Spec.Containers[0].Image {
	case "bad":
		f.Never = true
	case "slow":
		f.Start = seconds(rnd, 300)
	}
	return f
}

// availability counts the pods of an app in the model.
func availability(w *world.World) (active, available int) {
	for _, p := range world.InJudge[*corev1.Pod](w, "pods") {
		if pods.Active(p) {
			active++
			if pods.Ready(p) {
				available++
			}
		}
	}
	return active, available
}

// TestDeploymentBounds rolls a Deployment from template to template, while its
// size changes and its controllers live short lives. There are never more pods
// than maxSurge allows, nor is one deleted that maxUnavailable needs.
func TestDeploymentBounds(t *testing.T) {
	world.Histories(t, 15, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		replicas := 1 + rnd.IntN(8)
		surge, unavailable := rnd.IntN(3), rnd.IntN(3)
		if surge+unavailable == 0 {
			surge = 1
		}
		// While the size changes, the greatest and the smallest of its bounds hold.
		var bounds sync.Mutex
		most, least := replicas+surge, max(replicas-unavailable, 0)
		began := false
		w.Judge(func(c world.Change) {
			if c.Resource != "pods" {
				return
			}
			active, available := availability(w)
			bounds.Lock()
			defer bounds.Unlock()
			if active > most {
				w.Failf("%d pods, more than %d", active, most)
			}
			began = began || available >= least
			if began && available < least {
				w.Failf("%d available, fewer than %d", available, least)
			}
		})
		w.Kubelets(4, service)
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "web"}, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("web", "v0"),
			RevisionHistoryLimit: ptr.To(int32(rnd.IntN(3))),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxSurge: ptr.To(intstr.FromInt(surge)), MaxUnavailable: ptr.To(intstr.FromInt(unavailable))}},
		}}
		_, err := client.Deployments.In(w.Root, world.Namespace).Create(w.T.Context(), d)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(20*time.Second, "deployment-controller", "replicaset-controller")
		images := []string{"v1", "v2", "v3", "slow", "bad"}
		time.Sleep(time.Minute)
		for range 6 {
			image, resized := images[rnd.IntN(len(images))], replicas
			if rnd.IntN(3) == 0 {
				resized = 1 + rnd.IntN(8)
			}
			bounds.Lock()
			replicas, most, least = resized, max(most, resized+surge), min(least, max(resized-unavailable, 0))
			bounds.Unlock()
			_, err := client.Deployments.In(w.Root, world.Namespace).Mutate(w.T.Context(), "web", "", func(d *appsv1.Deployment) (bool, error) {
				d.Spec.Template.Spec.Containers[0].Image, d.Spec.Replicas = image, ptr.To(int32(resized))
				return true, nil
			})
			w.Must(err)
			time.Sleep(seconds(rnd, 60))
		}
		_, err = client.Deployments.In(w.Root, world.Namespace).Mutate(w.T.Context(), "web", "", func(d *appsv1.Deployment) (bool, error) {
			d.Spec.Template.Spec.Containers[0].Image = "last"
			return true, nil
		})
		w.Must(err)
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		settled(w, "web", "last", replicas)
	})
}

// settled checks that a Deployment has arrived.
func settled(w *world.World, name, image string, replicas int) {
	w.T.Helper()
	n := 0
	for _, p := range world.Objects[*corev1.Pod](w, "pods") {
		if !pods.Ready(p) || p.Spec.Containers[0].Image != image {
			w.T.Errorf("seed %d: at the end pod %s runs %s, ready=%v", w.Seed, p.Name, p.Spec.Containers[0].Image, pods.Ready(p))
		}
		n++
	}
	d, err := client.Deployments.In(w.Root, world.Namespace).Get(w.T.Context(), name)
	w.Must(err)
	s := d.Status
	if want := int32(replicas); n != replicas || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.ObservedGeneration != d.Generation {
		w.T.Errorf("seed %d: at the end %d pods, want %d: %s", w.Seed, n, replicas, fmt.Sprintf("%+v", s))
	}
}
