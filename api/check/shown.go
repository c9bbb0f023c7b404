package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Shown wraps an API value for the text of an error. Clients see structs there
// by the names of their Go fields, nothing left out, because upstream's server
// prints its internal types, which have no JSON tags; metav1's types are its
// internal ones too and keep theirs.
//
// Single values and those without structs in them are returned as they are.
func Shown(v any) any {
	if _, omitted := v.(field.OmitValueType); omitted {
		return v
	}
	for t := reflect.TypeOf(v); t != nil; t = t.Elem() {
		switch t.Kind() {
		case reflect.Struct, reflect.Interface:
			if reflect.ValueOf(v).Kind() == reflect.Pointer && reflect.ValueOf(v).IsNil() {
				return v
			}
			return shown{v}
		case reflect.Pointer, reflect.Slice, reflect.Map:
			continue
		}
		break
	}
	return v
}

type shown struct{ v any }

// MarshalJSON implements json.Marshaler.
func (s shown) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := writeShown(&b, reflect.ValueOf(s.v))
	return b.Bytes(), err
}

func writeShown(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() {
		b.WriteString("null")
		return nil
	}
	if _, ok := v.Interface().(json.Marshaler); ok {
		return writePlain(b, v)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		if v.CanInterface() && v.Kind() == reflect.Pointer && marshals(v.Elem()) {
			return writePlain(b, v)
		}
		return writeShown(b, v.Elem())
	case reflect.Struct:
		if !strings.HasPrefix(v.Type().PkgPath(), "k8s.io/api/") {
			return writePlain(b, v)
		}
		if spec, ok := v.Interface().(corev1.PodSpec); ok {
			return writePodSpec(b, &spec)
		}
		b.WriteByte('{')
		if err := writeFields(b, v, new(bool)); err != nil {
			return err
		}
		b.WriteByte('}')
		return nil
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return writePlain(b, v)
		}
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeShown(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case reflect.Map:
		return writeMap(b, v)
	}
	return writePlain(b, v)
}

// marshals says that the pointer to v knows its JSON.
func marshals(v reflect.Value) bool {
	return v.CanAddr() && v.Addr().Type().Implements(reflect.TypeFor[json.Marshaler]())
}

func writeFields(b *bytes.Buffer, v reflect.Value, some *bool) error {
	for _, i := range order(v.Type()) {
		f := v.Type().Field(i)
		if f.Anonymous && strings.HasPrefix(f.Type.PkgPath(), "k8s.io/api/") {
			if err := writeFields(b, v.Field(i), some); err != nil {
				return err
			}
			continue
		}
		if f.Anonymous { // metadata, whose fields stand among the others
			data, err := json.Marshal(v.Field(i).Interface())
			if err != nil {
				return err
			}
			if data = bytes.TrimSuffix(bytes.TrimPrefix(data, []byte("{")), []byte("}")); len(data) > 0 {
				if *some {
					b.WriteByte(',')
				}
				*some = true
				b.Write(data)
			}
			continue
		}
		if *some {
			b.WriteByte(',')
		}
		*some = true
		fmt.Fprintf(b, "%q:", f.Name)
		if err := writeShown(b, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

// order is that of a struct's fields in upstream's internal type, where it is
// not the published one's.
func order(t reflect.Type) []int {
	var names []string
	switch t {
	case reflect.TypeFor[corev1.PersistentVolumeSource]():
		names = []string{
			"GCEPersistentDisk", "AWSElasticBlockStore", "HostPath", "Glusterfs", "NFS", "RBD", "Quobyte", "ISCSI", "FlexVolume", "Cinder",
			"CephFS", "FC", "Flocker", "AzureFile", "VsphereVolume", "AzureDisk", "PhotonPersistentDisk", "PortworxVolume", "ScaleIO", "Local",
			"StorageOS", "CSI",
		}
	case reflect.TypeFor[corev1.VolumeSource]():
		names = []string{
			"HostPath", "EmptyDir", "GCEPersistentDisk", "AWSElasticBlockStore", "GitRepo", "Secret", "NFS", "ISCSI", "Glusterfs",
			"PersistentVolumeClaim", "RBD", "Quobyte",
		}
	case reflect.TypeFor[corev1.PodSecurityContext]():
		names = []string{
			"SELinuxOptions", "WindowsOptions", "RunAsUser", "RunAsGroup", "RunAsNonRoot", "SupplementalGroups", "SupplementalGroupsPolicy",
			"FSGroup", "FSGroupChangePolicy",
		}
	case reflect.TypeFor[corev1.PodSpec]():
		names = []string{
			"Volumes", "InitContainers", "Containers", "EphemeralContainers", "RestartPolicy", "TerminationGracePeriodSeconds",
			"ActiveDeadlineSeconds", "DNSPolicy", "NodeSelector", "ServiceAccountName", "AutomountServiceAccountToken", "NodeName",
			"SecurityContext", "ImagePullSecrets", "Hostname", "Subdomain", "SetHostnameAsFQDN", "Affinity", "SchedulerName", "Tolerations",
			"HostAliases", "PriorityClassName", "Priority", "PreemptionPolicy", "DNSConfig", "ReadinessGates", "RuntimeClassName", "Overhead",
			"EnableServiceLinks", "TopologySpreadConstraints",
		}
	}
	out := make([]int, 0, t.NumField())
	for _, name := range names {
		if f, ok := t.FieldByName(name); ok {
			out = append(out, f.Index[0])
		}
	}
	for i := range t.NumField() {
		if !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}

func writeMap(b *bytes.Buffer, v reflect.Value) error {
	if v.IsNil() {
		b.WriteString("null")
		return nil
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := writePlain(b, k); err != nil {
			return err
		}
		b.WriteByte(':')
		e := reflect.New(v.Type().Elem()).Elem() // addressable, for its methods
		e.Set(v.MapIndex(k))
		if err := writeShown(b, e); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func writePlain(b *bytes.Buffer, v reflect.Value) error {
	value := v.Interface()
	if v.CanAddr() {
		value = v.Addr().Interface()
	}
	data, err := json.Marshal(value)
	b.Write(data)
	return err
}
