package plugins

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz/node"
	"github.com/coxswain/cox/client"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenLifetime     = 3607 // seconds; see tokens.kubeletLifetime
	// accountWait is how long a pod waits for the default account of a
	// namespace that has just been made.
	accountWait = time.Second
)

// serviceAccount gives every pod an account, the account's pull secrets and
// its token.
func serviceAccount(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), admit: d.accountAdmit, validate: d.accountValidate}
}

func isMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func newPod(a *admission.Attributes) (*corev1.Pod, bool) {
	if !is(a, podsResource, "") {
		return nil, false
	}
	pod, ok := a.Object.(*corev1.Pod)
	return pod, ok
}

func (d deps) accountAdmit(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok || a.Operation != admission.Create {
		return nil
	}
	if isMirror(pod) {
		return d.accountValidate(ctx, a) // before anybody else has an opinion
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := d.account(ctx, a)
	if err != nil {
		return err
	}
	if wantsToken(sa, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	return nil
}

// account finds the pod's account; it waits for the default one of a new
// namespace.
func (d deps) account(ctx context.Context, a *admission.Attributes) (*corev1.ServiceAccount, error) {
	name := a.Object.(*corev1.Pod).Spec.ServiceAccountName
	in := client.ServiceAccounts.In(d.door, a.Namespace)
	sa, err := get(ctx, in, name)
	if apierrors.IsNotFound(err) && name == "default" {
		sa, err = waitForAccount(ctx, in, name)
	}
	if err == nil {
		return sa, nil
	}
	if apierrors.IsNotFound(err) {
		err = fmt.Errorf("serviceaccount %q not found", name)
	}
	return nil, forbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.Namespace, name, err))
}

func waitForAccount(ctx context.Context, in client.Resource[*corev1.ServiceAccount], name string) (*corev1.ServiceAccount, error) {
	wctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	w, err := in.Watch(wctx, client.Options{FieldSelector: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for {
		select {
		case ev, ok := <-w.ResultChan():
			if sa, isAccount := ev.Object.(*corev1.ServiceAccount); ok && isAccount && sa.Name == name {
				return sa, nil
			}
			if !ok {
				return nil, apierrors.NewNotFound(client.ServiceAccounts.GroupResource(), name)
			}
		case <-wctx.Done():
			return nil, apierrors.NewNotFound(client.ServiceAccounts.GroupResource(), name)
		}
	}
}

func wantsToken(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case sa.AutomountServiceAccountToken != nil:
		return *sa.AutomountServiceAccountToken
	}
	return true
}

// tokenVolumeSuffix looks random, as upstream's is, but is the same for all pods
// of one origin, whose containers are then equal and held in memory once.
func tokenVolumeSuffix(pod *corev1.Pod) string {
	origin := pod.GenerateName
	if origin == "" {
		origin = pod.Name
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(pod.Namespace + "/" + origin))
	return rand.SafeEncodeString(fmt.Sprintf("%05d", h.Sum64()%100000))
}

func mountToken(pod *corev1.Pod) {
	volume, exists := "", false
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolumePrefix) {
			volume, exists = pod.Spec.Volumes[i].Name, true
			break
		}
	}
	if !exists {
		volume = tokenVolumePrefix + tokenVolumeSuffix(pod)
	}
	mounted := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: tokenVolume()})
	}
}

func tokenVolume() corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(int32(0o644)),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenLifetime))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}
}

func (d deps) accountValidate(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	debugged := !ok && is(a, podsResource, "ephemeralcontainers")
	if debugged {
		pod, ok = a.Object.(*corev1.Pod)
	}
	if !ok || a.Operation == admission.Update && !debugged {
		return nil
	}
	if isMirror(pod) && !debugged {
		return mirrorHasNoAccount(a, pod)
	}
	sa, err := d.account(ctx, a)
	if err != nil {
		return err
	}
	if sa.Annotations["kubernetes.io/enforce-mountable-secrets"] != "true" {
		return nil
	}
	if debugged {
		return debuggersOwnSecrets(sa, pod)
	}
	return onlyOwnSecrets(a, sa, pod)
}

// debuggersOwnSecrets is onlyOwnSecrets for the containers that a pod is
// debugged with.
func debuggersOwnSecrets(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	own := func(name string) bool {
		return slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == name })
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		for _, env := range c.Env {
			if v := env.ValueFrom; v != nil && v.SecretKeyRef != nil && !own(v.SecretKeyRef.Name) {
				return unreasoned(fmt.Sprintf("ephemeral container %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", c.Name, env.Name, v.SecretKeyRef.Name, sa.Name))
			}
		}
		for _, from := range c.EnvFrom {
			if s := from.SecretRef; s != nil && !own(s.Name) {
				return unreasoned(fmt.Sprintf("ephemeral container %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", c.Name, s.Name, sa.Name))
			}
		}
	}
	return nil
}

// mirrorHasNoAccount: a mirror shows a pod that runs whatever the API says, so
// it must not draw rights from it.
func mirrorHasNoAccount(a *admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbid(a, "a mirror pod may not reference service accounts")
	}
	if node.RefersToSecret(pod, func(string) bool { return true }) {
		return forbid(a, "a mirror pod may not reference secrets")
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if v.Projected.Sources[j].ServiceAccountToken != nil {
				return forbid(a, "a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

func onlyOwnSecrets(a *admission.Attributes, sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	own := func(name string) bool {
		return slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == name })
	}
	for i := range pod.Spec.Volumes {
		if s := pod.Spec.Volumes[i].Secret; s != nil && !own(s.SecretName) {
			return forbid(a, fmt.Sprintf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", s.SecretName, sa.Name))
		}
	}
	for kind, list := range map[string][]corev1.Container{"init container": pod.Spec.InitContainers, "container": pod.Spec.Containers} {
		for i := range list {
			for _, env := range list[i].Env {
				if v := env.ValueFrom; v != nil && v.SecretKeyRef != nil && !own(v.SecretKeyRef.Name) {
					return forbid(a, fmt.Sprintf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, list[i].Name, env.Name, v.SecretKeyRef.Name, sa.Name))
				}
			}
			for _, from := range list[i].EnvFrom {
				if s := from.SecretRef; s != nil && !own(s.Name) {
					return forbid(a, fmt.Sprintf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, list[i].Name, s.Name, sa.Name))
				}
			}
		}
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(sa.ImagePullSecrets, s) {
			return forbid(a, fmt.Sprintf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, sa.Name))
		}
	}
	return nil
}
