package check

import (
	"bytes"
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// writePodSpec writes a pod's spec. What concerns the host's namespaces stands
// in the security context there, as it does in upstream's internal type.
func writePodSpec(b *bytes.Buffer, spec *corev1.PodSpec) error {
	v := reflect.ValueOf(spec).Elem()
	b.WriteByte('{')
	for n, i := range order(v.Type()) {
		name := v.Type().Field(i).Name
		switch name {
		case "DeprecatedServiceAccount", "HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers":
			continue
		}
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + name + `":`)
		write := func() error { return writeShown(b, v.Field(i)) }
		if name == "SecurityContext" {
			write = func() error { return writeSecurityContext(b, spec) }
		}
		if err := write(); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func writeSecurityContext(b *bytes.Buffer, spec *corev1.PodSpec) error {
	if spec.SecurityContext == nil {
		b.WriteString("null")
		return nil
	}
	host, err := json.Marshal(struct {
		HostNetwork, HostPID, HostIPC    bool
		ShareProcessNamespace, HostUsers *bool
	}{spec.HostNetwork, spec.HostPID, spec.HostIPC, spec.ShareProcessNamespace, spec.HostUsers})
	if err != nil {
		return err
	}
	b.Write(host[:len(host)-1])
	some := true
	if err := writeFields(b, reflect.ValueOf(spec.SecurityContext).Elem(), &some); err != nil {
		return err
	}
	b.WriteByte('}')
	return nil
}
