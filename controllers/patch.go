package controllers

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Patch is a patch's bytes with their type.
type Patch struct {
	Type types.PatchType
	Data []byte
}

// StatusPatch returns the strategic merge patch that turns old's status into
// pod's, for identities that may patch but not update. It applies to this
// very pod only, not to another of its name.
func StatusPatch(old, pod *corev1.Pod) (Patch, error) {
	type half struct {
		Metadata map[string]any   `json:"metadata,omitempty"`
		Status   corev1.PodStatus `json:"status"`
	}
	a, err := json.Marshal(half{Status: old.Status})
	if err != nil {
		return Patch{}, err
	}
	b, err := json.Marshal(half{Status: pod.Status, Metadata: map[string]any{"uid": pod.UID}})
	if err != nil {
		return Patch{}, err
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(a, b, &corev1.Pod{})
	if err != nil {
		return Patch{}, fmt.Errorf("patch of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return Patch{types.StrategicMergePatchType, data}, nil
}
