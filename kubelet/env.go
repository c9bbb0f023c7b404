package kubelet

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// objects gives the ConfigMaps and Secrets that a pod refers to. Errors are
// those of the API (apierrors.IsNotFound).
type objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, error)
	Secret(namespace, name string) (*corev1.Secret, error)
}

// envSources is what a container's environment is made of.
type envSources struct {
	Pod         *corev1.Pod
	PodIPs      []string
	HostIPs     []string
	NodeName    string
	Allocatable corev1.ResourceList
	Objects     objects
	// Services are those of the pod's namespace, and the API's own.
	Services []*corev1.Service
	// ReadFile reads a key of an env file in an emptyDir volume.
	ReadFile func(sel *corev1.FileKeySelector) (string, bool, error)
}

type envVar struct{ Name, Value string }

// makeEnv computes a container's environment (API documentation of EnvVar and
// EnvFromSource): Service variables first, then envFrom, then env, each
// hiding what came before. The error is a sentence for the pod's status.
func makeEnv(c *corev1.Container, src *envSources) ([]envVar, error) {
	values := serviceEnv(src)
	for _, from := range c.EnvFrom {
		data, err := envFrom(src, &from)
		if err != nil {
			return nil, err
		}
		for k, v := range data {
			values[from.Prefix+k] = v
		}
	}
	own := map[string]string{}
	lookup := func(name string) (string, bool) {
		if v, ok := own[name]; ok {
			return v, true
		}
		v, ok := values[name]
		return v, ok
	}
	for i := range c.Env {
		e := &c.Env[i]
		v, ok, err := envValue(c, e, src, lookup)
		if err != nil {
			return nil, err
		}
		if ok {
			own[e.Name] = v
		}
	}
	maps.Copy(values, own)
	out := make([]envVar, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		out = append(out, envVar{k, values[k]})
	}
	return out, nil
}

func envFrom(src *envSources, from *corev1.EnvFromSource) (map[string]string, error) {
	out := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := src.Objects.ConfigMap(src.Pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return nil, optionalError(err, from.ConfigMapRef.Optional)
		}
		maps.Copy(out, cm.Data)
	case from.SecretRef != nil:
		s, err := src.Objects.Secret(src.Pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return nil, optionalError(err, from.SecretRef.Optional)
		}
		for k, v := range s.Data {
			out[k] = string(v)
		}
	}
	return out, nil
}

// envValue computes one variable; ok is false for one that is left out.
func envValue(c *corev1.Container, e *corev1.EnvVar, src *envSources, lookup func(string) (string, bool)) (v string, ok bool, err error) {
	if e.ValueFrom == nil {
		return expand(e.Value, lookup), true, nil
	}
	f := e.ValueFrom
	switch {
	case f.FieldRef != nil:
		v, err = podField(src, f.FieldRef.FieldPath)
		return v, err == nil, err
	case f.ResourceFieldRef != nil:
		v, err = resourceField(src.Pod, c, f.ResourceFieldRef, src.Allocatable)
		return v, err == nil, err
	case f.ConfigMapKeyRef != nil:
		ref := f.ConfigMapKeyRef
		cm, err := src.Objects.ConfigMap(src.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, optionalError(err, ref.Optional)
		}
		if v, ok = cm.Data[ref.Key]; ok || optional(ref.Optional) {
			return v, ok, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, src.Pod.Namespace, ref.Name)
	case f.SecretKeyRef != nil:
		ref := f.SecretKeyRef
		s, err := src.Objects.Secret(src.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, optionalError(err, ref.Optional)
		}
		if b, ok := s.Data[ref.Key]; ok || optional(ref.Optional) {
			return string(b), ok, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, src.Pod.Namespace, ref.Name)
	case f.FileKeyRef != nil:
		v, ok, err = src.ReadFile(f.FileKeyRef)
		if err != nil || ok || optional(f.FileKeyRef.Optional) {
			return v, ok, err
		}
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", f.FileKeyRef.Key, f.FileKeyRef.Path)
	}
	return "", false, nil
}

func optional(p *bool) bool { return p != nil && *p }

// expand replaces $(NAME) by the variable's value; $$ is a literal dollar and
// an unknown name stays as it is.
func expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}

// expandAll expands a command or its arguments with a container's
// environment.
func expandAll(args []string, env []envVar) []string {
	if len(args) == 0 {
		return nil
	}
	lookup := func(name string) (string, bool) {
		i := slices.IndexFunc(env, func(e envVar) bool { return e.Name == name })
		if i < 0 {
			return "", false
		}
		return env[i].Value, true
	}
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = expand(a, lookup)
	}
	return out
}

// podField is a fieldRef of the downward API. A pod's addresses are empty
// until its sandbox is up.
func podField(src *envSources, path string) (string, error) {
	pod := src.Pod
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("invalid fieldPath with subscript: %s", path)
	}
	first := func(l []string) string {
		if len(l) == 0 {
			return ""
		}
		return l[0]
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return src.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(src.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(src.HostIPs, ","), nil
	case "status.podIP":
		return first(src.PodIPs), nil
	case "status.podIPs":
		return strings.Join(src.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscript splits metadata.labels['key'].
func subscript(path string) (name, key string, ok bool) {
	i := strings.Index(path, "['")
	if i < 0 || !strings.HasSuffix(path, "']") {
		return "", "", false
	}
	return path[:i], path[i+2 : len(path)-2], true
}

// formatMap renders labels or annotations as the downward API does.
func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, fmt.Sprintf("%s=%q", k, v))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// resourceField is a resourceFieldRef of the downward API: a limit that is
// not set shows the node's allocatable amount.
func resourceField(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		found, _ := findContainer(&pod.Spec, ref.ContainerName)
		if found == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
		c = found
	}
	if c == nil {
		return "", fmt.Errorf("resource %s needs a container name", ref.Resource)
	}
	what, name, _ := strings.Cut(ref.Resource, ".")
	var q resource.Quantity
	switch what {
	case "limits":
		q = limitFor(pod, c, corev1.ResourceName(name), allocatable)
	case "requests":
		q = c.Resources.Requests[corev1.ResourceName(name)]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(ceilDiv(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceilDiv(q.Value(), divisor.Value()), 10), nil
}

// limitFor is the limit that holds for a container: its own, or else the pod's
// (KEP-2837), or else what the node has.
func limitFor(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName, allocatable corev1.ResourceList) resource.Quantity {
	if v := c.Resources.Limits[name]; !v.IsZero() {
		return v
	}
	if r := pod.Spec.Resources; r != nil {
		if v := r.Limits[name]; !v.IsZero() {
			return v
		}
	}
	return allocatable[name]
}

func ceilDiv(a, b int64) int64 {
	if b <= 0 {
		return a
	}
	return (a + b - 1) / b
}

// serviceEnv makes the variables of Services that existed before the pod. The
// API's own Service is there for every pod.
func serviceEnv(src *envSources) map[string]string {
	out := map[string]string{}
	all := src.Pod.Spec.EnableServiceLinks == nil || *src.Pod.Spec.EnableServiceLinks
	for _, s := range src.Services {
		master := s.Namespace == "default" && s.Name == "kubernetes"
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 ||
			!master && (!all || s.Namespace != src.Pod.Namespace) {
			continue
		}
		addServiceEnv(out, s)
	}
	return out
}

func addServiceEnv(out map[string]string, s *corev1.Service) {
	name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	out[name+"_SERVICE_HOST"] = ip
	for i, p := range s.Spec.Ports {
		port, proto := strconv.Itoa(int(p.Port)), strings.ToLower(string(p.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		url := proto + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out[name+"_SERVICE_PORT"] = port
			out[name+"_PORT"] = url
		}
		if p.Name != "" {
			out[name+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		base := name + "_PORT_" + port + "_" + strings.ToUpper(proto)
		out[base], out[base+"_PROTO"], out[base+"_PORT"], out[base+"_ADDR"] = url, proto, port, ip
	}
}
