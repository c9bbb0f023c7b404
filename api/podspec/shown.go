package podspec

import (
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/api/check"
)

// Shown wraps a pod's spec for the text of an error. What concerns the host's
// namespaces stands in the security context there, as it does in upstream's
// internal type.
func Shown(spec *corev1.PodSpec) any { return shownSpec{spec} }

type shownSpec struct{ spec *corev1.PodSpec }

// MarshalJSON implements json.Marshaler.
func (s shownSpec) MarshalJSON() ([]byte, error) {
	v := reflect.ValueOf(*s.spec)
	out := []byte{'{'}
	for i := range v.NumField() {
		var value any
		switch name := v.Type().Field(i).Name; name {
		case "DeprecatedServiceAccount", "HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers":
			continue
		case "SecurityContext":
			value = s.securityContext()
		default:
			value = check.Shown(v.Field(i).Interface())
		}
		data, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(out, '"'), v.Type().Field(i).Name...)
		out = append(append(out, '"', ':'), data...)
	}
	return append(out, '}'), nil
}

func (s shownSpec) securityContext() json.RawMessage {
	type host struct {
		HostNetwork, HostPID, HostIPC    bool
		ShareProcessNamespace, HostUsers *bool
	}
	sc := s.spec.SecurityContext
	if sc == nil {
		return json.RawMessage("null")
	}
	first, _ := json.Marshal(host{s.spec.HostNetwork, s.spec.HostPID, s.spec.HostIPC, s.spec.ShareProcessNamespace, s.spec.HostUsers})
	rest, err := json.Marshal(check.Shown(*sc))
	if err != nil {
		return json.RawMessage("null")
	}
	return append(append(first[:len(first)-1], ','), rest[1:]...)
}
