package interop_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coxswain/cox/test/programs"
)

// controllers starts Kubernetes' controller manager and scheduler against a
// server, with cox's keys.
func (w *world) controllers(s *server) {
	w.t.Helper()
	key := func(name string) string { return w.path("data", "pki", name) }
	conf := w.kubeconfig(s, kcmToken)
	programs.Start(w.t, programs.NeedUpstream(w.t, "kube-controller-manager"), "--kubeconfig", conf, "--authentication-kubeconfig", conf, "--authorization-kubeconfig", conf,
		"--use-service-account-credentials", "--service-account-private-key-file", key("sa.key"), "--root-ca-file", key("ca.crt"),
		"--cluster-signing-cert-file", key("ca.crt"), "--cluster-signing-key-file", key("ca.key"),
		"--secure-port", programs.Port(w.t), "--bind-address", "127.0.0.1", "--cert-dir", w.path("kcm"), "--allocate-node-cidrs",
		"--cluster-cidr", pods, "--service-cluster-ip-range", services, "--kube-api-qps", "200", "--kube-api-burst", "400")
	conf = w.kubeconfig(s, schedToken)
	programs.Start(w.t, programs.NeedUpstream(w.t, "kube-scheduler"), "--kubeconfig", conf, "--authentication-kubeconfig", conf, "--authorization-kubeconfig", conf,
		"--secure-port", programs.Port(w.t), "--bind-address", "127.0.0.1", "--cert-dir", w.path("scheduler"), "--kube-api-qps", "200", "--kube-api-burst", "400")
}

// Kubernetes' controller manager and scheduler work through cox's API server as
// through their own: they roll workloads out onto simulated nodes, count quotas,
// and clear a namespace.
func TestControllersAndScheduler(t *testing.T) {
	binary := programs.NeedCox(t)
	programs.NeedUpstream(t, "kube-controller-manager")
	programs.NeedUpstream(t, "kube-scheduler")
	w := newWorld(t)
	s := w.ours()
	w.controllers(s)
	programs.Start(t, binary, "sim", "--kubeconfig", w.kubeconfig(s, adminToken), "--nodes", "3", "--start", "100ms", "--stop", "100ms", "--run", "1s")
	c, err := kubernetes.NewForConfig(s.config(adminToken))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const ns = "work"
	must(t, func() (any, error) {
		return c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	})
	eventually(t, "the namespace has its account and the cluster's CA", func(ctx context.Context) error {
		if _, err := c.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := c.CoreV1().ConfigMaps(ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	meta := metav1.ObjectMeta{Name: "app", Namespace: ns}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "app"}}
	pod := func(restart corev1.RestartPolicy) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selector.MatchLabels}, Spec: corev1.PodSpec{
			RestartPolicy: restart, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		}}
	}
	must(t, func() (any, error) {
		return c.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{"count/deployments.apps": resource.MustParse("5"), corev1.ResourcePods: resource.MustParse("100")},
		}}, metav1.CreateOptions{})
	})
	must(t, func() (any, error) {
		return c.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(6)), Selector: selector, Template: pod(""),
		}}, metav1.CreateOptions{})
	})
	must(t, func() (any, error) {
		return c.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(3)), ServiceName: "app", Selector: selector, Template: pod(""),
		}}, metav1.CreateOptions{})
	})
	must(t, func() (any, error) {
		return c.AppsV1().DaemonSets(ns).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pod("")}}, metav1.CreateOptions{})
	})
	must(t, func() (any, error) {
		return c.BatchV1().Jobs(ns).Create(ctx, &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{
			Completions: new(int32(3)), Parallelism: new(int32(2)), Template: pod(corev1.RestartPolicyNever),
		}}, metav1.CreateOptions{})
	})
	must(t, func() (any, error) {
		return c.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Selector: selector.MatchLabels, Ports: []corev1.ServicePort{{Port: 80}},
		}}, metav1.CreateOptions{})
	})
	eventually(t, "the workloads run", func(ctx context.Context) error { return working(ctx, c, ns) })

	must(t, func() (any, error) { return nil, c.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}) })
	eventually(t, "the namespace is gone", func(ctx context.Context) error {
		_, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %w", err)
	})
}

// working says what is not as it should be yet.
func working(ctx context.Context, c kubernetes.Interface, ns string) error {
	d, err := c.AppsV1().Deployments(ns).Get(ctx, "app", metav1.GetOptions{})
	if err != nil || d.Status.AvailableReplicas != 6 || d.Status.ObservedGeneration != d.Generation {
		return fmt.Errorf("deployment %+v: %w", d.Status, err)
	}
	st, err := c.AppsV1().StatefulSets(ns).Get(ctx, "app", metav1.GetOptions{})
	if err != nil || st.Status.ReadyReplicas != 3 {
		return fmt.Errorf("stateful set %+v: %w", st.Status, err)
	}
	ds, err := c.AppsV1().DaemonSets(ns).Get(ctx, "app", metav1.GetOptions{})
	if err != nil || ds.Status.NumberReady != 3 {
		return fmt.Errorf("daemon set %+v: %w", ds.Status, err)
	}
	j, err := c.BatchV1().Jobs(ns).Get(ctx, "app", metav1.GetOptions{})
	if err != nil || j.Status.Succeeded != 3 || j.Status.CompletionTime == nil {
		return fmt.Errorf("job %+v: %w", j.Status, err)
	}
	slices, err := c.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for i := range slices.Items {
		for _, e := range slices.Items[i].Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready++
			}
		}
	}
	if ready != 12 {
		return fmt.Errorf("%d endpoints", ready)
	}
	q, err := c.CoreV1().ResourceQuotas(ns).Get(ctx, "app", metav1.GetOptions{})
	if used := q.Status.Used[corev1.ResourcePods]; err != nil || used.Value() != 12 {
		return fmt.Errorf("quota %+v: %w", q.Status, err)
	}
	all, err := c.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range all.Items {
		if node := all.Items[i].Spec.NodeName; !strings.HasPrefix(node, "hollow-") {
			return fmt.Errorf("pod %s on node %q", all.Items[i].Name, node)
		}
	}
	return nil
}

func must(t *testing.T, do func() (any, error)) {
	t.Helper()
	if _, err := do(); err != nil {
		t.Fatal(err)
	}
}
