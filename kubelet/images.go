package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/coxswain/cox/client"
	registries "github.com/coxswain/cox/kubelet/credentials"
	"github.com/coxswain/cox/kubelet/pulled"
)

// startError is why a container did not start: the reason that its status
// shows.
type startError struct {
	reason
	// Pull is the image, a container's own or one of a volume, whose back-off
	// applies; "" is none.
	Pull string
	// Quiet says that the cause has been told in an event of its own.
	Quiet bool
}

func (e *startError) Error() string { return e.Message }

// normalImage gives an image name its default domain and tag.
func normalImage(image string) (string, error) {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return "", &startError{reason: reason{invalidImageName, fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", image, image, err)}}
	}
	return ref.String(), nil
}

// pullNeeded says whether an image is pulled under its policy.
func pullNeeded(c *corev1.Container, present bool) bool {
	switch c.ImagePullPolicy {
	case corev1.PullAlways:
		return true
	case corev1.PullNever:
		return false
	}
	return !present
}

// ensureImage makes a container's image present and returns it. Errors are of
// type *startError.
func (k *Kubelet) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, kind containerKind, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, error) {
	say := func(typ, reason, format string, args ...any) {
		k.containerEvent(pod, kind, c.Name, typ, reason, format, args...)
	}
	name, err := normalImage(c.Image)
	if err != nil {
		say(corev1.EventTypeWarning, "InspectFailed", "%s", err.Error())
		return nil, err
	}
	spec := &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: c.Image}
	img, err := k.imageStatus(ctx, spec)
	if err != nil {
		say(corev1.EventTypeWarning, "InspectFailed", "Failed to inspect image %q: %v", c.Image, err)
		return nil, &startError{reason: reason{imageInspectError, fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)}}
	}
	// What others pulled with their credentials is not there for this pod.
	usable := img != nil && (c.ImagePullPolicy == corev1.PullAlways || !k.pulled.MustPull(c.Image, img.Id, func() []pulled.Credential {
		return owners(k.pullCredentials(ctx, pod, name, func(string) {}))
	}))
	needed := pullNeeded(c, usable)
	k.counts.images.WithLabelValues(strconv.FormatBool(img != nil), strings.ToLower(string(c.ImagePullPolicy)), strconv.FormatBool(needed)).Inc()
	if !needed {
		if !usable {
			msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			say(corev1.EventTypeWarning, errImageNeverPull, "%s", msg)
			return nil, &startError{reason: reason{errImageNeverPull, msg}}
		}
		say(corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return img, nil
	}
	say(corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	begun := k.cfg.Clock.Now()
	quiet := k.tellProgress(ctx, c.Image, name, say)
	with, err := k.pullNoted(ctx, pod, c.Image, spec, sandbox)
	quiet()
	if err != nil {
		if ctx.Err() == nil {
			say(corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, err)
		}
		return nil, &startError{reason: reason{errImagePull, err.Error()}, Pull: c.Image}
	}
	if img, err = k.imageStatus(ctx, spec); err != nil || img == nil {
		k.pulled.Pulled(c.Image, "", with)
		return nil, &startError{reason: reason{imageInspectError, fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)}}
	}
	k.pulled.Pulled(c.Image, img.Id, with)
	took := k.cfg.Clock.Since(begun).Truncate(time.Millisecond)
	k.counts.pulled(img.Size, took)
	say(corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", c.Image, took, took, img.Size)
	k.imagesChanged()
	return img, nil
}

func (k *Kubelet) imageStatus(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	res, err := k.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return nil, err
	}
	return res.Image, nil
}

// newPulls makes what bounds pulls, what remembers them, and the plugins that
// know credentials.
func (k *Kubelet) newPulls() error {
	most := k.cfg.Containers.ParallelPulls
	if k.cfg.Containers.SerialPulls {
		most = 1
	}
	if most > 0 {
		k.pulls = make(chan struct{}, most)
	}
	var err error
	k.pulled, err = pulled.New(pulled.Config{
		Dir: filepath.Join(k.cfg.RootDir, "image_manager"), Policy: k.cfg.ImageAccess.Policy, Allowlist: k.cfg.ImageAccess.Allowlist,
		Log: k.log, Clock: k.cfg.Clock,
	})
	if err != nil || k.cfg.Credentials.ConfigFile == "" {
		return err
	}
	k.providers, err = registries.New(registries.Config{
		File: k.cfg.Credentials.ConfigFile, BinDir: k.cfg.Credentials.BinDir, Account: k.accountToken, Log: k.log, Clock: k.cfg.Clock,
	})
	return err
}

// accountToken returns a pod's service account, and a token of it for an
// audience.
func (k *Kubelet) accountToken(ctx context.Context, pod *corev1.Pod, audience string) (*corev1.ServiceAccount, string, error) {
	sa, err := client.ServiceAccounts.In(k.cfg.Client, pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName)
	if err != nil {
		return nil, "", err
	}
	token, err := k.tokens.get(ctx, pod, &corev1.ServiceAccountTokenProjection{Audience: audience})
	return sa, token.value, err
}

// pullNoted pulls an image that a pod calls asked. Where it succeeds, it
// remains to be noted which image came of it.
func (k *Kubelet) pullNoted(ctx context.Context, pod *corev1.Pod, asked string, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig) (pulled.Credential, error) {
	if err := k.pulled.Begin(asked); err != nil {
		return pulled.Credential{}, err
	}
	with, err := k.pull(ctx, pod, spec, sandbox)
	if err != nil {
		k.pulled.Failed(asked)
	}
	return with, err
}

// pull tries the pod's credentials for the image in order, or none where there
// are none, and returns whose served.
func (k *Kubelet) pull(ctx context.Context, pod *corev1.Pod, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig) (pulled.Credential, error) {
	found := k.pullCredentials(ctx, pod, spec.Image, func(secret string) {
		k.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", secret)
	})
	if len(found) == 0 {
		found = []pullCredential{{}}
	}
	if k.pulls != nil {
		select {
		case k.pulls <- struct{}{}:
			defer func() { <-k.pulls }()
		case <-ctx.Done():
			return pulled.Credential{}, ctx.Err()
		}
	}
	var err error
	for _, c := range found {
		if _, err = k.cfg.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: c.auth, SandboxConfig: sandbox}); err == nil {
			return c.owner, nil
		}
	}
	return pulled.Credential{}, err
}

// pullCredential is one with which an image may be pulled, and whose it is.
type pullCredential struct {
	auth  *runtimeapi.AuthConfig
	owner pulled.Credential
}

func owners(list []pullCredential) []pulled.Credential {
	out := make([]pulled.Credential, len(list))
	for i, c := range list {
		out[i] = c.owner
	}
	return out
}

// pullCredentials lists what there is for an image: that of the pod's pull
// secrets, then what plugins know. missing is told of secrets that cannot be
// read.
func (k *Kubelet) pullCredentials(ctx context.Context, pod *corev1.Pod, image string, missing func(secret string)) []pullCredential {
	objs := podObjects{ctx, k.configMaps, k.secrets}
	var out []pullCredential
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := objs.Secret(pod.Namespace, r.Name)
		if err != nil {
			missing(r.Name)
			continue
		}
		found, err := credentials(s, image)
		if err != nil {
			k.log.Warn("an image pull secret cannot be read", "namespace", pod.Namespace, "secret", r.Name, "error", err)
		}
		for _, a := range found {
			out = append(out, pullCredential{a, pulled.Credential{Secret: &kubeletv1beta1.ImagePullSecret{
				UID: string(s.UID), Namespace: s.Namespace, Name: s.Name,
				CredentialHash: pulled.Hash(a.Username, a.Password, a.IdentityToken, a.RegistryToken),
			}}})
		}
	}
	if k.providers == nil {
		return out
	}
	for _, a := range k.providers.For(ctx, pod, image) {
		c := pullCredential{auth: &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password}}
		if sa := a.Account; sa != nil {
			c.owner.Account = &kubeletv1beta1.ImagePullServiceAccount{UID: string(sa.UID), Namespace: sa.Namespace, Name: sa.Name}
		}
		out = append(out, c)
	}
	return out
}

// settlePulls brings the records of pulls up to what there is after a start.
func (k *Kubelet) settlePulls() {
	find := func(ctx context.Context, image string) (string, error) {
		name, err := normalImage(image)
		if err != nil {
			return "", nil // it names none, and so none was pulled
		}
		img, err := k.imageStatus(ctx, &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: image})
		return img.GetId(), err
	}
	images := func(ctx context.Context) ([]string, error) {
		res, err := k.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
		var ids []string
		for _, i := range res.GetImages() {
			ids = append(ids, i.Id)
		}
		return ids, err
	}
	if err := k.pulled.Settle(k.ctx, find, images); err != nil && k.ctx.Err() == nil {
		k.log.Warn("cannot settle which images were pulled with whose credentials", "error", err)
	}
}

// dockerConfig is a .dockerconfigjson; a .dockercfg is the map inside.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials returns what a pull secret holds for an image, the most
// specific registry path first.
func credentials(s *corev1.Secret, image string) ([]*runtimeapi.AuthConfig, error) {
	var cfg dockerConfig
	var err error
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		err = json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &cfg)
	case corev1.SecretTypeDockercfg:
		err = json.Unmarshal(s.Data[corev1.DockerConfigKey], &cfg.Auths)
	default:
		return nil, fmt.Errorf("secret type %q holds no registry credentials", s.Type)
	}
	if err != nil {
		// The error of the decoder would quote the secret.
		return nil, fmt.Errorf("the registry credentials are not valid JSON")
	}
	type match struct {
		length int
		auth   *runtimeapi.AuthConfig
	}
	var found []match
	for registry, a := range cfg.Auths {
		n, ok := registryMatches(registry, image)
		if !ok {
			continue
		}
		// Without the server's address: the runtime takes that for a URL, which
		// "host:port" is not, and asks only the image's own registry anyway.
		auth := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" && auth.Username == "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				continue
			}
			auth.Username, auth.Password, _ = strings.Cut(string(raw), ":")
		}
		i := 0
		for i < len(found) && found[i].length >= n {
			i++
		}
		found = append(found[:i], append([]match{{n, auth}}, found[i:]...)...)
	}
	out := make([]*runtimeapi.AuthConfig, len(found))
	for i, m := range found {
		out[i] = m.auth
	}
	return out, nil
}

// registryMatches holds a registry of a pull secret ("https://host/path",
// "*.host:port") against an image, and returns how specific it is.
func registryMatches(registry, image string) (int, bool) {
	if !strings.Contains(registry, "://") {
		registry = "https://" + registry
	}
	u, err := url.Parse(registry)
	if err != nil || u.Host == "" {
		return 0, false
	}
	host, rest, _ := strings.Cut(image, "/")
	want := u.Host
	if want == "index.docker.io" || want == "registry-1.docker.io" {
		want = "docker.io"
	}
	wl, hl := strings.Split(want, "."), strings.Split(host, ".")
	if len(wl) != len(hl) {
		return 0, false
	}
	for i := range wl {
		if ok, err := path.Match(wl[i], hl[i]); err != nil || !ok {
			return 0, false
		}
	}
	p := strings.Trim(strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1"), "/")
	if p == "v1" || p == "v2" {
		p = ""
	}
	if p != "" && rest != p && !strings.HasPrefix(rest, p+"/") && !strings.HasPrefix(rest, p+":") {
		return 0, false
	}
	return len(u.Host) + len(p), true
}
