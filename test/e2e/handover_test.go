package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// setVersion makes a Deployment, or rolls it over to another image.
func setVersion(t *testing.T, door client.Interface, ns, name, image string, replicas int32) {
	t.Helper()
	in := client.Deployments.In(door, ns)
	_, err := in.Mutate(t.Context(), name, "", func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Template.Spec.Containers[0].Image = image
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		labels := map[string]string{"app": name}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		d.Spec.Replicas, d.Spec.Selector = &replicas, &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Template.Labels = labels
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
		_, err = in.Create(t.Context(), d)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rolledOut says whether so many Deployments run nothing but their newest
// version.
func rolledOut(door client.Interface, ns string, deployments int, replicas int32) (bool, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all, _, err := client.Deployments.In(door, ns).List(ctx, client.Options{})
	if err != nil {
		return false, err.Error()
	}
	for _, d := range all {
		s := &d.Status
		if s.ObservedGeneration != d.Generation || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas || s.Replicas != replicas {
			return false, fmt.Sprintf("%s: %+v", d.Name, s)
		}
	}
	return len(all) == deployments, fmt.Sprint(len(all))
}

// eachPod shows a namespace's pods to see, every time that one of them changes,
// through a server that may go and come back.
func eachPod(ctx context.Context, door client.Interface, ns string, see func(*corev1.Pod)) {
	for ctx.Err() == nil {
		w, err := client.Pods.In(door, ns).Watch(ctx, client.Options{})
		if err != nil {
			select { // the server is away
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				see(p)
			}
		}
	}
}

// play is what a scheduler and kubelets would do to a namespace's pods: they
// become ready, and go when they are deleted. Through two servers it may be
// done twice, which changes nothing.
func play(ctx context.Context, door client.Interface, ns string) {
	eachPod(ctx, door, ns, func(p *corev1.Pod) { playPod(ctx, door, p) })
}

func playPod(ctx context.Context, door client.Interface, p *corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	in, now := client.Pods.In(door, p.Namespace), int64(0)
	if p.DeletionTimestamp != nil {
		_ = in.Delete(ctx, p.Name, client.Options{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		return
	}
	if p.Status.PodIP != "" {
		return
	}
	m := p.DeepCopy()
	m.Status.Phase, m.Status.PodIP, m.Status.PodIPs = corev1.PodRunning, "10.42.0.9", []corev1.PodIP{{IP: "10.42.0.9"}}
	m.Status.Conditions = append(m.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	_, _ = in.UpdateStatus(ctx, m)
}
