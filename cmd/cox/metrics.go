package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/computed"
	"github.com/coxswain/cox/apiserver/connect"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/metricsapi"
)

// metrics measures nodes and pods for metrics.k8s.io. It reads as the API
// server, as whom kubelets know it too.
func (cp *controlPlane) metrics() *metricsapi.Source {
	return metricsapi.New(metricsapi.Config{
		Door: cp.root, Log: cp.log.With("component", "metrics"),
		Kubelets: &http.Client{Transport: &http.Transport{
			TLSClientConfig: cp.bundle.KubeletClient.ClientTLS(cp.bundle.CA), ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		}},
		Address: func(n *corev1.Node) (string, error) { return connect.KubeletAddress(n, nil) },
	})
}

func nodeMetrics(src *metricsapi.Source) computed.Source {
	return func(ctx context.Context, q computed.Query) (map[string]runtime.Object, error) {
		all, err := src.Nodes(ctx, q.Key, q.Labels)
		return objects(all), err
	}
}

func podMetrics(src *metricsapi.Source) computed.Source {
	return func(ctx context.Context, q computed.Query) (map[string]runtime.Object, error) {
		namespace, name, _ := strings.Cut(q.Key, "/")
		if q.Key == "" {
			namespace = strings.TrimSuffix(q.Prefix, "/")
		}
		all, err := src.Pods(ctx, namespace, name, q.Labels)
		return objects(all), err
	}
}

func objects[T runtime.Object](in map[string]T) map[string]runtime.Object {
	out := make(map[string]runtime.Object, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// metricsReader lets those who may view, edit or administer a namespace see
// what its pods use: the role has metrics-server's name and rules, so that an
// installed one finds its own.
func (cp *controlPlane) metricsReader(ctx context.Context) error {
	labels := map[string]string{}
	for _, to := range []string{"admin", "edit", "view"} {
		labels["rbac.authorization.k8s.io/aggregate-to-"+to] = "true"
	}
	_, err := client.ClusterRoles.In(cp.root, "").Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: labels},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role of those who see metrics: %w", err)
	}
	return nil
}
