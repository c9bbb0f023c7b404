package kubelet

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
)

// tokenCache holds the service-account tokens of the node's pods until 80 %
// of their time is over (KEP-1205), never longer than 24 hours. It is safe for
// concurrent use.
type tokenCache struct {
	c     client.Interface
	clock clock.PassiveClock
	mu    sync.Mutex
	by    map[tokenKey]token
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type token struct {
	value   string
	refresh time.Time
	expires time.Time
}

func newTokenCache(c client.Interface, clk clock.PassiveClock) *tokenCache {
	return &tokenCache{c: c, clock: clk, by: map[tokenKey]token{}}
}

func (t *tokenCache) get(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (token, error) {
	seconds := int64(3600)
	if p.ExpirationSeconds != nil {
		seconds = *p.ExpirationSeconds
	}
	key := tokenKey{pod.UID, p.Audience, seconds}
	t.mu.Lock()
	have, ok := t.by[key]
	t.mu.Unlock()
	now := t.clock.Now()
	if ok && now.Before(have.refresh) {
		return have, nil
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		req.Spec.Audiences = []string{p.Audience}
	}
	out, err := client.ServiceAccounts.In(t.c, pod.Namespace).CreateSub(ctx, account, "token", req)
	if err != nil {
		return token{}, err
	}
	tr, ok := out.(*authenticationv1.TokenRequest)
	if !ok || tr.Status.Token == "" {
		return token{}, fmt.Errorf("the API server answered a TokenRequest with %T", out)
	}
	life := tr.Status.ExpirationTimestamp.Sub(now)
	if tr.Spec.ExpirationSeconds != nil {
		life = min(life, time.Duration(*tr.Spec.ExpirationSeconds)*time.Second)
	}
	have = token{tr.Status.Token, now.Add(min(life*8/10, 24*time.Hour)), tr.Status.ExpirationTimestamp.Time}
	t.mu.Lock()
	t.by[key] = have
	t.mu.Unlock()
	return have, nil
}

func (t *tokenCache) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.by {
		if key.pod == uid {
			delete(t.by, key)
		}
	}
}

// volumeSource answers for one pod's volumes.
type volumeSource struct {
	k    *Kubelet
	pod  *corev1.Pod
	objs podObjects
	env  *envSources
}

// volumeSource makes the source of a pod's volumes.
func (k *Kubelet) volumeSource(ctx context.Context, w *worker, pod *corev1.Pod) *volumeSource {
	var ips []string
	w.mu.Lock()
	if sb := w.state.sandbox(); sb != nil {
		ips = sandboxIPs(sb)
	}
	w.mu.Unlock()
	if pod.Spec.HostNetwork {
		ips = k.facts.IPs
	}
	return &volumeSource{k: k, pod: pod, objs: podObjects{ctx, k.configMaps, k.secrets}, env: k.envSources(ctx, pod, ips)}
}

func (s *volumeSource) ConfigMap(name string, opt bool) (*corev1.ConfigMap, error) {
	cm, err := s.objs.ConfigMap(s.pod.Namespace, name)
	if err != nil {
		return nil, optionalError(err, &opt)
	}
	return cm, nil
}

func (s *volumeSource) Secret(name string, opt bool) (*corev1.Secret, error) {
	sec, err := s.objs.Secret(s.pod.Namespace, name)
	if err != nil {
		return nil, optionalError(err, &opt)
	}
	return sec, nil
}

func (s *volumeSource) Token(ctx context.Context, p *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	t, err := s.k.tokens.get(ctx, s.pod, p)
	return t.value, t.refresh, err
}

func (s *volumeSource) TrustAnchors(ctx context.Context, p *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	return s.k.bundles.Anchors(ctx, p)
}

func (s *volumeSource) Certificate(ctx context.Context, p *corev1.PodCertificateProjection) (key, chain []byte, refresh time.Time, err error) {
	c, err := s.k.certificates.Get(ctx, s.pod, p)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	return c.Key, c.Chain, c.Refresh, nil
}

func (s *volumeSource) Field(path string) (string, error) { return podField(s.env, path) }

func (s *volumeSource) ResourceField(ref *corev1.ResourceFieldSelector) (string, error) {
	return resourceField(s.pod, nil, ref, s.env.Allocatable)
}

// minorVersion turns "v1.36.2" into "1.36".
func minorVersion(v string) string {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) < 2 {
		return v
	}
	return parts[0] + "." + parts[1]
}
