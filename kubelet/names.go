package kubelet

import (
	"encoding/json"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubelet/pkg/types"
)

// Labels and annotations by which the kubelet finds its sandboxes and
// containers again; upstream's kubelet uses the same.
const (
	labelPod       = types.KubernetesPodNameLabel
	labelNamespace = types.KubernetesPodNamespaceLabel
	labelUID       = types.KubernetesPodUIDLabel
	labelContainer = types.KubernetesContainerNameLabel

	annotationRestarts           = "io.kubernetes.container.restartCount"
	annotationTerminationPath    = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy  = "io.kubernetes.container.terminationMessagePolicy"
	annotationPodDeletionGrace   = "io.kubernetes.pod.deletionGracePeriod"
	annotationPodTerminationTime = "io.kubernetes.pod.terminationGracePeriod"
	// annotationSpecHash is our own: upstream's hash counts fields in
	// another way.
	annotationSpecHash = "coxswain.io/container-hash"

	// annotationResources notes what resources a container was launched with.
	annotationResources = "coxswain.io/container-resources"

	annotationConfigSource = "kubernetes.io/config.source"
	annotationConfigHash   = "kubernetes.io/config.hash"
	annotationConfigSeen   = "kubernetes.io/config.seen"
	annotationConfigMirror = corev1.MirrorPodAnnotationKey
)

// Waiting reasons of containers.
const (
	containerCreating          = "ContainerCreating"
	podInitializing            = "PodInitializing"
	crashLoopBackOff           = "CrashLoopBackOff"
	errImagePull               = "ErrImagePull"
	imagePullBackOff           = "ImagePullBackOff"
	errImageNeverPull          = "ErrImageNeverPull"
	invalidImageName           = "InvalidImageName"
	imageInspectError          = "ImageInspectError"
	createContainerConfigError = "CreateContainerConfigError"
	createContainerError       = "CreateContainerError"
	preStartHookError          = "PreStartHookError"
	runContainerError          = "RunContainerError"
	postStartHookError         = "PostStartHookError"
)

// resizeRestart is why a container is killed whose new resources it can only
// get by a restart.
const resizeRestart = "Resize"

// specHash identifies what of a container cannot change without a restart.
func specHash(c *corev1.Container) string {
	b, _ := json.Marshal([2]string{c.Name, c.Image})
	h := fnv.New64a()
	h.Write(b)
	return strconv.FormatUint(h.Sum64(), 16)
}

// fieldPath names a container in the involvedObject of an event.
func fieldPath(kind containerKind, name string) string {
	switch kind {
	case initContainer:
		return "spec.initContainers{" + name + "}"
	case ephemeralContainer:
		return "spec.ephemeralContainers{" + name + "}"
	}
	return "spec.containers{" + name + "}"
}

// findContainer returns the container of a name and its kind.
func findContainer(spec *corev1.PodSpec, name string) (*corev1.Container, containerKind) {
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return &spec.Containers[i], appContainer
		}
	}
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == name {
			return &spec.InitContainers[i], initContainer
		}
	}
	for i := range spec.EphemeralContainers {
		if spec.EphemeralContainers[i].Name == name {
			return ephemeral(&spec.EphemeralContainers[i]), ephemeralContainer
		}
	}
	return nil, appContainer
}

// findStatus returns a container's status of any kind, or nil.
func findStatus(st *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, l := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range l {
			if l[i].Name == name {
				return &l[i]
			}
		}
	}
	return nil
}
