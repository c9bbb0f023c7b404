package plugins

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/callout"
)

// imagePolicyConfig is the file's imagePolicy; times are in seconds, the pause
// in milliseconds.
type imagePolicyConfig struct {
	KubeConfigFile string        `json:"kubeConfigFile"`
	AllowTTL       time.Duration `json:"allowTTL"`
	DenyTTL        time.Duration `json:"denyTTL"`
	RetryBackoff   time.Duration `json:"retryBackoff"`
	DefaultAllow   bool          `json:"defaultAllow"`
}

// imagePolicy asks a server of the user's whether a pod's images may run.
func imagePolicy(c *Config, _ deps) (*plugin, error) {
	const name = "ImagePolicyWebhook"
	var file struct {
		ImagePolicy imagePolicyConfig `json:"imagePolicy"`
	}
	found, err := c.config(name, nil, &file)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, badConfig(name, errors.New("no config specified"))
	}
	conf := &file.ImagePolicy
	for _, v := range []struct {
		value              *time.Duration
		unit, min, max, or time.Duration
	}{
		{&conf.RetryBackoff, time.Millisecond, time.Millisecond, 5 * time.Minute, 500 * time.Millisecond},
		{&conf.AllowTTL, time.Second, time.Second, 30 * time.Minute, 5 * time.Minute},
		{&conf.DenyTTL, time.Second, time.Second, 30 * time.Minute, 30 * time.Second},
	} {
		if err := inRange(v.value, v.unit, v.min, v.max, v.or); err != nil {
			return nil, badConfig(name, err)
		}
	}
	target, err := callout.Open(conf.KubeConfigFile)
	if err != nil {
		return nil, badConfig(name, err)
	}
	p := &imageReviews{conf: *conf, target: target, now: c.Now, known: map[string]imageVerdict{}}
	return &plugin{ops: ops(admission.Create, admission.Update), validate: p.validate}, nil
}

// inRange gives a duration its unit: 0 is the default, and what is below it is
// no duration.
func inRange(d *time.Duration, unit, least, most, otherwise time.Duration) error {
	if *d == 0 {
		*d = otherwise
		return nil
	}
	if *d > 0 {
		*d *= unit
	} else if unit == time.Second {
		*d *= unit
	}
	if *d < least || *d > most {
		return fmt.Errorf("valid value is between %v and %v, got %v", least, most, *d)
	}
	return nil
}

type imageReviews struct {
	conf   imagePolicyConfig
	target *callout.Target
	now    func() time.Time

	mu    sync.Mutex
	known map[string]imageVerdict
}

type imageVerdict struct {
	status imagepolicyv1alpha1.ImageReviewStatus
	until  time.Time
}

const (
	imageAuditPrefix = "imagepolicywebhook.image-policy.k8s.io/"
	imageMaxKnown    = 1024
)

func (p *imageReviews) validate(ctx context.Context, a *admission.Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Resource.GroupResource() != podsResource {
		return nil
	}
	var images []imagepolicyv1alpha1.ImageReviewContainerSpec
	add := func(image string) {
		images = append(images, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	switch {
	case a.Subresource == "ephemeralcontainers":
		for i := range pod.Spec.EphemeralContainers {
			add(pod.Spec.EphemeralContainers[i].Image)
		}
	case a.Subresource != "":
		return nil
	default:
		for i := range pod.Spec.Containers {
			add(pod.Spec.Containers[i].Image)
		}
		for i := range pod.Spec.InitContainers {
			add(pod.Spec.InitContainers[i].Image)
		}
	}
	review := &imagepolicyv1alpha1.ImageReview{
		TypeMeta: metav1.TypeMeta{APIVersion: imagepolicyv1alpha1.SchemeGroupVersion.String(), Kind: "ImageReview"},
		Spec:     imagepolicyv1alpha1.ImageReviewSpec{Containers: images, Namespace: a.Namespace, Annotations: imageAnnotations(pod.Annotations)},
	}
	status, err := p.ask(ctx, &review.Spec, review)
	if err != nil {
		if p.conf.DefaultAllow {
			a.Annotate(imageAuditPrefix+"failed-open", "true")
			return nil
		}
		return forbidden(a, err)
	}
	for k, v := range status.AuditAnnotations {
		a.Annotate(imageAuditPrefix+k, v)
	}
	if status.Allowed {
		return nil
	}
	why := "image policy webhook backend denied one or more images"
	if status.Reason != "" {
		why += ": " + status.Reason
	}
	return forbid(a, why)
}

// ask returns the server's verdict, or that of a short while ago on the same
// question.
func (p *imageReviews) ask(ctx context.Context, spec *imagepolicyv1alpha1.ImageReviewSpec, review *imagepolicyv1alpha1.ImageReview) (*imagepolicyv1alpha1.ImageReviewStatus, error) {
	key, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	now := p.now()
	p.mu.Lock()
	v, ok := p.known[string(key)]
	p.mu.Unlock()
	if ok && now.Before(v.until) {
		return &v.status, nil
	}
	var answer imagepolicyv1alpha1.ImageReview
	if err := p.target.Ask(ctx, review, &answer, callout.Retry{Steps: 5, First: p.conf.RetryBackoff, Factor: 1.5}); err != nil {
		var said *callout.Error
		if errors.As(err, &said) {
			return nil, apierrors.NewInternalError(err)
		}
		return nil, err
	}
	ttl := p.conf.DenyTTL
	if answer.Status.Allowed {
		ttl = p.conf.AllowTTL
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= imageMaxKnown {
		clear(p.known)
	}
	p.known[string(key)] = imageVerdict{answer.Status, p.now().Add(ttl)}
	return &answer.Status, nil
}

// imageAnnotations are those of a pod that are meant for the server.
func imageAnnotations(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if strings.Contains(k, ".image-policy.k8s.io/") {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
