package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/client"
)

// Keys of a volume's context by which drivers are told of the pod (API
// documentation of CSIDriver).
const (
	keyPodName   = "csi.storage.k8s.io/pod.name"
	keyNamespace = "csi.storage.k8s.io/pod.namespace"
	keyUID       = "csi.storage.k8s.io/pod.uid"
	keyAccount   = "csi.storage.k8s.io/serviceAccount.name"
	keyEphemeral = "csi.storage.k8s.io/ephemeral"
	keyTokens    = "csi.storage.k8s.io/serviceAccount.tokens"
)

// Volume is one volume of one pod: a persistent one, or an inline one.
type Volume struct {
	Pod    *corev1.Pod
	Name   string // the pod's
	PV     *corev1.PersistentVolume
	Claim  *corev1.PersistentVolumeClaim
	Inline *corev1.CSIVolumeSource
	// ReadOnly is asked for by the pod's volume.
	ReadOnly bool
}

func (v *Volume) id() volumeID {
	if v.Inline != nil {
		return volumeID{v.Inline.Driver, "csi-" + hash(string(v.Pod.UID)+v.Name)}
	}
	return volumeID{v.PV.Spec.CSI.Driver, v.PV.Spec.CSI.VolumeHandle}
}

// spec is the name under which the volume is kept on the node.
func (v *Volume) spec() string {
	if v.Inline != nil {
		return v.Name
	}
	return v.PV.Name
}

func (v *Volume) block() bool {
	return v.PV != nil && v.PV.Spec.VolumeMode != nil && *v.PV.Spec.VolumeMode == corev1.PersistentVolumeBlock
}

func (v *Volume) fsType() string {
	switch {
	case v.PV != nil:
		return v.PV.Spec.CSI.FSType
	case v.Inline.FSType != nil:
		return *v.Inline.FSType
	}
	return ""
}

func (v *Volume) lifecycle() storagev1.VolumeLifecycleMode {
	if v.Inline != nil {
		return storagev1.VolumeLifecycleEphemeral
	}
	return storagev1.VolumeLifecyclePersistent
}

// attributes is the volume's own context.
func (v *Volume) attributes() map[string]string {
	out := map[string]string{}
	if v.Inline != nil {
		maps.Copy(out, v.Inline.VolumeAttributes)
	} else {
		maps.Copy(out, v.PV.Spec.CSI.VolumeAttributes)
	}
	return out
}

// checkLifecycle refuses what the driver's object does not allow; a driver
// without one has persistent volumes only.
func checkLifecycle(v *Volume, object *storagev1.CSIDriver) error {
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	if object != nil && len(object.Spec.VolumeLifecycleModes) > 0 {
		modes = object.Spec.VolumeLifecycleModes
	}
	if slices.Contains(modes, v.lifecycle()) {
		return nil
	}
	return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", v.lifecycle(), v.id().driver, modes)
}

// attachable says that volumes of the driver are attached to nodes.
func attachable(v *Volume, object *storagev1.CSIDriver) bool {
	return v.Inline == nil && (object == nil || object.Spec.AttachRequired == nil || *object.Spec.AttachRequired)
}

// accessMode turns the volume's first mode into the driver's.
func accessMode(v *Volume, can abilities) csiapi.VolumeCapability_AccessMode_Mode {
	mode := corev1.ReadWriteOnce
	if v.PV != nil && len(v.PV.Spec.AccessModes) > 0 {
		mode = v.PV.Spec.AccessModes[0]
	}
	precise := can[csiapi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
	switch {
	case mode == corev1.ReadWriteMany:
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case mode == corev1.ReadOnlyMany:
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case mode == corev1.ReadWriteOncePod && precise:
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case mode == corev1.ReadWriteOnce && precise:
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// mountOptions are the volume's, those of the annotation of old included.
func mountOptions(v *Volume) []string {
	if v.PV == nil {
		return nil
	}
	out := slices.Clone(v.PV.Spec.MountOptions)
	for _, o := range strings.Split(v.PV.Annotations[corev1.MountOptionAnnotation], ",") {
		if o != "" && !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out
}

// capability is how the volume is to be used. group, if not nil, is given to
// a driver that can mount a volume as a group's.
func capability(v *Volume, can abilities, group *int64) *csiapi.VolumeCapability {
	c := &csiapi.VolumeCapability{AccessMode: &csiapi.VolumeCapability_AccessMode{Mode: accessMode(v, can)}}
	if v.block() {
		c.AccessType = &csiapi.VolumeCapability_Block{Block: &csiapi.VolumeCapability_BlockVolume{}}
		return c
	}
	m := &csiapi.VolumeCapability_MountVolume{FsType: v.fsType(), MountFlags: mountOptions(v)}
	if group != nil && can[csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		m.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	c.AccessType = &csiapi.VolumeCapability_Mount{Mount: m}
	return c
}

// givesGroup says that the kubelet is to give the volume's files to the pod's
// group (API documentation of fsGroupPolicy).
func givesGroup(v *Volume, object *storagev1.CSIDriver) bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if object != nil && object.Spec.FSGroupPolicy != nil {
		policy = *object.Spec.FSGroupPolicy
	}
	switch {
	case Group(v.Pod) == nil, v.ReadOnly, policy == storagev1.NoneFSGroupPolicy:
		return false
	case policy == storagev1.FileFSGroupPolicy:
		return true
	case v.fsType() == "":
		return false
	}
	return v.Inline != nil || slices.Contains(v.PV.Spec.AccessModes, corev1.ReadWriteOnce)
}

// Group is the group that a pod's volumes are to belong to, nil for none.
func Group(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// publishContext is what a driver is told when it publishes a volume: the
// volume's own context, the pod, and tokens of its account, which may go into
// secrets instead (KEP-5538).
func (m *Manager) publishContext(ctx context.Context, v *Volume, object *storagev1.CSIDriver, secrets map[string]string) (attributes, withTokens map[string]string, err error) {
	out := v.attributes()
	if object == nil {
		return out, secrets, nil
	}
	if object.Spec.PodInfoOnMount != nil && *object.Spec.PodInfoOnMount {
		maps.Copy(out, map[string]string{
			keyPodName: v.Pod.Name, keyNamespace: v.Pod.Namespace, keyUID: string(v.Pod.UID), keyAccount: v.Pod.Spec.ServiceAccountName,
			keyEphemeral: strconv.FormatBool(v.Inline != nil),
		})
	}
	if len(object.Spec.TokenRequests) == 0 {
		return out, secrets, nil
	}
	type token struct {
		Token   string `json:"token"`
		Expires string `json:"expirationTimestamp"`
	}
	tokens := map[string]token{}
	for _, r := range object.Spec.TokenRequests {
		t, expires, err := m.cfg.Token(ctx, v.Pod, r.Audience, r.ExpirationSeconds)
		if err != nil {
			return nil, nil, fmt.Errorf("token for audience %q: %w", r.Audience, err)
		}
		tokens[r.Audience] = token{t, expires.UTC().Format(time.RFC3339)}
	}
	b, err := json.Marshal(tokens)
	if err != nil {
		return nil, nil, err
	}
	if in := object.Spec.ServiceAccountTokenInSecrets; in != nil && *in {
		secrets = maps.Clone(secrets)
		if secrets == nil {
			secrets = map[string]string{}
		}
		secrets[keyTokens] = string(b)
	} else {
		out[keyTokens] = string(b)
	}
	return out, secrets, nil
}

// secret reads what a reference names; nil names nothing.
func (m *Manager) secret(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil || ref.Name == "" {
		return nil, nil
	}
	s, err := client.Secrets.In(m.cfg.Client, ref.Namespace).Get(ctx, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("failed to find the secret %s in the namespace %s with error: %w", ref.Name, ref.Namespace, err)
	}
	out := map[string]string{}
	for k, b := range s.Data {
		out[k] = string(b)
	}
	return out, nil
}

// publishSecret is the reference to the secret for publishing.
func (v *Volume) publishSecret() *corev1.SecretReference {
	switch {
	case v.PV != nil:
		return v.PV.Spec.CSI.NodePublishSecretRef
	case v.Inline.NodePublishSecretRef != nil:
		return &corev1.SecretReference{Namespace: v.Pod.Namespace, Name: v.Inline.NodePublishSecretRef.Name}
	}
	return nil
}
