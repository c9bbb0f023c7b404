package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// declaredPort is a port of a container, and where it stands.
type declaredPort struct {
	*corev1.ContainerPort
	path *field.Path
}

// ports tells of ports that are declared twice: a strategic merge mixes them
// up, and only one of those that ask for the same port of the host gets it.
func (w *warner) ports(s *corev1.PodSpec, p *field.Path) {
	var seen []declaredPort
	each := func(list []corev1.Container, p *field.Path) {
		for i := range list {
			for j := range list[i].Ports {
				now := declaredPort{&list[i].Ports[j], p.Index(i).Child("ports").Index(j)}
				if now.HostIP != "" && now.HostPort == 0 {
					w.warn(now.path, "hostIP set without hostPort: %+v", *now.ContainerPort)
				}
				if now.ContainerPort.ContainerPort == 0 {
					continue
				}
				for _, before := range seen {
					if how := portsCollide(now.ContainerPort, before.ContainerPort); how != "" {
						w.warn(now.path, "%s port definition with %s", how, before.path)
					}
				}
				seen = append(seen, now)
			}
		}
	}
	each(s.InitContainers, p.Child("initContainers"))
	each(s.Containers, p.Child("containers"))
}

// portsCollide says how two ports get into each other's way, or "".
func portsCollide(a, b *corev1.ContainerPort) string {
	switch {
	case a.ContainerPort != b.ContainerPort || a.Protocol != b.Protocol:
		return ""
	case a.HostPort == b.HostPort && a.HostIP == b.HostIP:
		return "duplicate"
	case a.HostPort == 0 || b.HostPort == 0:
		return "overlapping"
	case a.HostPort == b.HostPort && (a.HostIP == "" || b.HostIP == ""):
		return "dangerously ambiguous"
	}
	return ""
}

// file is a path in a volume, and the source that it comes from, where the
// volume has several.
type file struct{ path, source string }

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

// overlaps tells of files of a volume that hide each other.
func (w *warner) overlaps(v *corev1.Volume) {
	kind, files := volumeFiles(&v.VolumeSource)
	for i, now := range files {
		for _, before := range files[:i] {
			if now.path == before.path || strings.HasPrefix(now.path, before.path+"/") || strings.HasPrefix(before.path, now.path+"/") {
				w.out = append(w.out, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", v.Name, kind, now, before))
			}
		}
	}
}

// volumeFiles lists the files that a volume names, and says what it is.
func volumeFiles(s *corev1.VolumeSource) (kind string, files []file) {
	add := func(path, source string) { files = append(files, file{strings.TrimRight(path, "/"), source}) }
	items := func(list []corev1.KeyToPath, source string) {
		for _, it := range list {
			add(it.Path, source)
		}
	}
	downward := func(list []corev1.DownwardAPIVolumeFile, source string) {
		for i := range list {
			add(list[i].Path, source)
		}
	}
	switch {
	case s.ConfigMap != nil:
		kind = fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name)
		items(s.ConfigMap.Items, "")
	case s.Secret != nil:
		kind = fmt.Sprintf("Secret %q", s.Secret.SecretName)
		items(s.Secret.Items, "")
	case s.DownwardAPI != nil:
		kind = "DownwardAPI"
		downward(s.DownwardAPI.Items, "")
	case s.Projected != nil:
		kind = "Projected"
		for i := range s.Projected.Sources {
			switch src := &s.Projected.Sources[i]; {
			case src.ConfigMap != nil:
				items(src.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", src.ConfigMap.Name))
			case src.Secret != nil:
				items(src.Secret.Items, fmt.Sprintf("Secret %q", src.Secret.Name))
			case src.DownwardAPI != nil:
				downward(src.DownwardAPI.Items, "DownwardAPI")
			case src.ServiceAccountToken != nil:
				add(src.ServiceAccountToken.Path, "ServiceAccountToken")
			case src.ClusterTrustBundle != nil:
				add(src.ClusterTrustBundle.Path, "ClusterTrustBundle")
			}
		}
	}
	return kind, files
}
