package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

// population is what resident fills a cluster with.
type population struct {
	api                                         kubernetes.Interface
	namespaces, deployments, pods, crons, nodes int
}

// resident fills a control plane with finished work, as it stands in a large
// cluster where nothing happens, and says what processes take to hold it:
//
//	go run ./test/bench resident -kubeconfig FILE            fills it
//	go run ./test/bench resident -etcd http://HOST:PORT      makes a tenth the whole
//	go run ./test/bench resident -procs 12,34 -idle 2m       measures
//
// The second is for an etcd that is served alone, on a stopped server's data:
// fill a tenth (-deployments 1000 -cronjobs 100 -nodes 100) and multiply it.
// Fill it while no controllers run, restart it with them, wait until they have
// looked at everything, and measure. Leave the node life cycle and its
// evictions out (--controllers): nobody renews the nodes' leases.
func resident(args []string) {
	fs := flag.NewFlagSet("resident", flag.ExitOnError)
	kubeconfig := fs.String("kubeconfig", "", "the cluster to fill")
	endpoint := fs.String("etcd", "", "etcd, served alone, in which to make a tenth of the population the whole")
	procs := fs.String("procs", "", "processes to measure, by their ids")
	idle := fs.Duration("idle", 2*time.Minute, "how long to measure their CPU time")
	var p population
	fs.IntVar(&p.namespaces, "namespaces", 100, "namespaces")
	fs.IntVar(&p.deployments, "deployments", 10000, "Deployments, over all namespaces")
	fs.IntVar(&p.pods, "pods", 10, "pods of each Deployment")
	fs.IntVar(&p.crons, "cronjobs", 1000, "CronJobs, over all namespaces")
	fs.IntVar(&p.nodes, "nodes", 1000, "nodes")
	check(fs.Parse(args))
	if *kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
		check(err)
		cfg.QPS, cfg.ContentType = -1, "application/vnd.kubernetes.protobuf"
		p.api, err = kubernetes.NewForConfig(cfg)
		check(err)
		begin := time.Now()
		p.fill(context.Background())
		fmt.Printf("resident.fill %.1f s\n", time.Since(begin).Seconds())
	}
	if *endpoint != "" {
		tenfold(context.Background(), *endpoint)
	}
	if *procs != "" {
		var pids []int
		for _, s := range strings.Split(*procs, ",") {
			pid, err := strconv.Atoi(s)
			check(err)
			pids = append(pids, pid)
		}
		before := make([]time.Duration, len(pids))
		for i, pid := range pids {
			before[i] = cpu([]int{pid})
		}
		time.Sleep(*idle)
		total, used := 0, 0.0
		for i, pid := range pids {
			kb, s := pss(pid), (cpu([]int{pid}) - before[i]).Seconds()
			total, used = total+kb, used+s
			fmt.Printf("resident.%s %.0f MB, %.2f CPU s in %v\n", comm(pid), float64(kb)/1024, s, *idle)
		}
		fmt.Printf("resident.all %.0f MB, %.2f CPU s in %v\n", float64(total)/1024, used, *idle)
	}
}

// each runs do for the numbers below n, many at once.
func each(n int, do func(i int) error) {
	const clients = 48
	next := make(chan int)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil && !apierrors.IsAlreadyExists(err) {
					log.Fatal(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func (p *population) namespace(i int) string { return fmt.Sprintf("ns-%03d", i%p.namespaces) }
func node(i int) string                      { return fmt.Sprintf("node-%04d", i) }

func (p *population) fill(ctx context.Context) {
	each(p.namespaces, func(i int) error {
		ns := p.namespace(i)
		_, err := p.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err == nil {
			_, err = p.api.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		}
		return err
	})
	each(p.nodes, func(i int) error { return p.node(ctx, i) })
	each(p.crons, func(i int) error {
		_, err := p.api.BatchV1().CronJobs(p.namespace(i)).Create(ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cron-%04d", i)},
			Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
				Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "registry.example/job:1"}}}}}}}}, metav1.CreateOptions{})
		return err
	})
	each(p.deployments, func(i int) error { return p.deployment(ctx, i) })
}

func (p *population) node(ctx context.Context, i int) error {
	capacity := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("250")}
	n, err := p.api.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node(i), Labels: map[string]string{"kubernetes.io/hostname": node(i), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
		Spec:       corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.%d.%d.0/24", 128+i/250, i%250), PodCIDRs: []string{fmt.Sprintf("10.%d.%d.0/24", 128+i/250, i%250)}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	n.Status.Capacity, n.Status.Allocatable = capacity, capacity
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	n.Spec.Taints = nil
	if n, err = p.api.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return err
	}
	n.Spec.Taints = nil
	_, err = p.api.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
	return err
}

// deployment makes a Deployment that is rolled out, with its ReplicaSet and its
// pods, which run.
func (p *population) deployment(ctx context.Context, i int) error {
	ns, name, count := p.namespace(i), fmt.Sprintf("app-%05d", i), int32(p.pods)
	const hash = "5d9f7c8b64"
	labels := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "bench"}
	hashed := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "bench", appsv1.DefaultDeploymentUniqueLabelKey: hash}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Image: "registry.example/app:1.2.3", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		Env: []corev1.EnvVar{{Name: "LEVEL", Value: "info"}, {Name: "ADDRESS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")},
			Limits:   corev1.ResourceList{"memory": resource.MustParse("256Mi")}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
	}}}
	d, err := p.api.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	template := *d.Spec.Template.DeepCopy()
	template.Labels = hashed
	rs, err := p.api.AppsV1().ReplicaSets(ns).Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + hash, Labels: hashed,
		Annotations:     map[string]string{"deployment.kubernetes.io/revision": "1", "deployment.kubernetes.io/desired-replicas": strconv.Itoa(p.pods), "deployment.kubernetes.io/max-replicas": strconv.Itoa(p.pods + 3)},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		Spec: appsv1.ReplicaSetSpec{Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: hashed}, Template: template}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for j := range p.pods {
		at := (i*p.pods + j) % p.nodes
		pod, err := p.api.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: rs.Name + "-", Labels: hashed,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}, Spec: withNode(spec, node(at))}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		running(pod, fmt.Sprintf("10.%d.%d.%d", 128+at/250, at%250, 2+(i*p.pods+j)/p.nodes%250))
		if _, err = p.api.CoreV1().Pods(ns).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func withNode(spec corev1.PodSpec, name string) corev1.PodSpec {
	spec.NodeName = name
	return spec
}

// running gives a pod the status that its kubelet would.
func running(p *corev1.Pod, ip string) {
	now := metav1.Now()
	p.Status.Phase, p.Status.StartTime, p.Status.HostIP, p.Status.PodIP = corev1.PodRunning, &now, "192.0.2.1", ip
	p.Status.HostIPs, p.Status.PodIPs = []corev1.HostIP{{IP: "192.0.2.1"}}, []corev1.PodIP{{IP: ip}}
	p.Status.Conditions = nil
	for _, c := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "app", Ready: true, Started: ptr.To(true), Image: p.Spec.Containers[0].Image, ContainerID: "containerd://" + strings.Repeat("c", 64),
		ImageID: "registry.example/app@sha256:" + strings.Repeat("d", 64), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
	}}
}
