package volumes

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// file is one file of a volume whose content comes from the API.
type file struct {
	data []byte
	mode int32
	uid  *int64 // owner, nil for root
}

type payload struct {
	files   map[string]file // by path below the volume
	refresh time.Time
}

// collect reads what a volume shows.
func collect(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, src Source) (*payload, error) {
	p := &payload{files: map[string]file{}}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return p, p.configMap(src, s.Name, s.Items, mode(s.DefaultMode), isTrue(s.Optional))
	case v.Secret != nil:
		s := v.Secret
		return p, p.secret(src, s.SecretName, s.Items, mode(s.DefaultMode), isTrue(s.Optional))
	case v.DownwardAPI != nil:
		return p, p.downward(src, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	}
	def := mode(v.Projected.DefaultMode)
	for i := range v.Projected.Sources {
		if err := p.projected(ctx, pod, &v.Projected.Sources[i], def, src); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *payload) projected(ctx context.Context, pod *corev1.Pod, s *corev1.VolumeProjection, def int32, src Source) error {
	switch {
	case s.ConfigMap != nil:
		return p.configMap(src, s.ConfigMap.Name, s.ConfigMap.Items, def, isTrue(s.ConfigMap.Optional))
	case s.Secret != nil:
		return p.secret(src, s.Secret.Name, s.Secret.Items, def, isTrue(s.Secret.Optional))
	case s.DownwardAPI != nil:
		return p.downward(src, s.DownwardAPI.Items, def)
	case s.ServiceAccountToken != nil:
		token, refresh, err := src.Token(ctx, s.ServiceAccountToken)
		if err != nil {
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		if p.refresh.IsZero() || refresh.Before(p.refresh) {
			p.refresh = refresh
		}
		return p.add(s.ServiceAccountToken.Path, private(pod, []byte(token), def))
	case s.ClusterTrustBundle != nil:
		anchors, err := src.TrustAnchors(ctx, s.ClusterTrustBundle)
		if err != nil {
			return err
		}
		return p.add(s.ClusterTrustBundle.Path, file{data: anchors, mode: def})
	case s.PodCertificate != nil:
		return p.certificate(ctx, pod, s.PodCertificate, def, src)
	}
	return errors.New("a projected volume has a source of a kind that this kubelet does not know")
}

// certificate adds the files of a certificate of the pod's own.
func (p *payload) certificate(ctx context.Context, pod *corev1.Pod, s *corev1.PodCertificateProjection, def int32, src Source) error {
	key, chain, refresh, err := src.Certificate(ctx, s)
	if err != nil {
		return fmt.Errorf("failed to get a certificate: %w", err)
	}
	if p.refresh.IsZero() || refresh.Before(p.refresh) {
		p.refresh = refresh
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{s.CredentialBundlePath, slices.Concat(key, chain)}, {s.KeyPath, key}, {s.CertificateChainPath, chain}} {
		if f.path == "" {
			continue
		}
		if err := p.add(f.path, private(pod, f.data, def)); err != nil {
			return err
		}
	}
	return nil
}

// private is a file for the pod's one user, or its group, alone.
func private(pod *corev1.Pod, data []byte, def int32) file {
	f := file{data: data, mode: def, uid: commonUser(pod)}
	if f.uid != nil || fsGroup(pod) != nil {
		f.mode = 0o600
	}
	return f
}

func isTrue(b *bool) bool { return b != nil && *b }

func mode(m *int32) int32 {
	if m == nil {
		return 0o644
	}
	return *m
}

// commonUser is the user that all containers run as, if there is one: the
// token then belongs to it.
func commonUser(pod *corev1.Pod) *int64 {
	var base, user *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		base = sc.RunAsUser
	}
	for n, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			u := base
			if sc := l[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				u = sc.RunAsUser
			}
			if u == nil || user != nil && *user != *u {
				return nil
			}
			_, user = n, u
		}
	}
	return user
}

// add puts a file in; a path that leaves the volume is refused although the
// API server has checked it.
func (p *payload) add(name string, f file) error {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.HasPrefix(clean, "..") {
		return fmt.Errorf("invalid path: %s", name)
	}
	p.files[clean] = f
	return nil
}

func (p *payload) configMap(src Source, name string, items []corev1.KeyToPath, def int32, optional bool) error {
	cm, err := src.ConfigMap(name, optional)
	if err != nil || cm == nil {
		return err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return p.keys(data, items, def, optional, "configmap references non-existent config key")
}

func (p *payload) secret(src Source, name string, items []corev1.KeyToPath, def int32, optional bool) error {
	s, err := src.Secret(name, optional)
	if err != nil || s == nil {
		return err
	}
	return p.keys(s.Data, items, def, optional, "references non-existent secret key")
}

// keys adds all keys under their own names, or the chosen ones under chosen
// paths.
func (p *payload) keys(data map[string][]byte, items []corev1.KeyToPath, def int32, optional bool, missing string) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := p.add(k, file{data: v, mode: def}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s: %s", missing, it.Key)
		}
		f := file{data: v, mode: def}
		if it.Mode != nil {
			f.mode = *it.Mode
		}
		if err := p.add(it.Path, f); err != nil {
			return err
		}
	}
	return nil
}

func (p *payload) downward(src Source, items []corev1.DownwardAPIVolumeFile, def int32) error {
	for i := range items {
		it := &items[i]
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = src.Field(it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			v, err = src.ResourceField(it.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		f := file{data: []byte(v), mode: def}
		if it.Mode != nil {
			f.mode = *it.Mode
		}
		if err := p.add(it.Path, f); err != nil {
			return err
		}
	}
	return nil
}
