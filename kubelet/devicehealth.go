package kubelet

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet/dra"
)

// healthChanged has the statuses of pods with devices told anew.
func (k *Kubelet) healthChanged() {
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		has := k.exclusive.Wants(w.state.Pod) || dra.HasClaims(w.state.Pod)
		w.mu.Unlock()
		if has {
			w.sync()
		}
	}
}

// deviceHealth lists the devices that a pod's containers have from device
// plugins and from claims, and how they are, by container (KEP-4680); nil for
// none.
func (k *Kubelet) deviceHealth(pod *corev1.Pod) map[string][]corev1.ResourceStatus {
	claims := dra.HasClaims(pod)
	if !claims && !k.exclusive.Wants(pod) {
		return nil
	}
	out := map[string][]corev1.ResourceStatus{}
	for _, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			c := &l[i]
			list := k.pluginHealth(pod, c)
			if claims {
				list = append(list, k.claimHealth(pod, c)...)
			}
			if len(list) > 0 {
				slices.SortFunc(list, func(a, b corev1.ResourceStatus) int { return strings.Compare(string(a.Name), string(b.Name)) })
				out[c.Name] = list
			}
		}
	}
	return out
}

// pluginHealth is about what a container has from device plugins.
func (k *Kubelet) pluginHealth(pod *corev1.Pod, c *corev1.Container) []corev1.ResourceStatus {
	var out []corev1.ResourceStatus
	for name, ids := range k.devices.Of(pod.UID, c.Name) {
		st := corev1.ResourceStatus{Name: corev1.ResourceName(name)}
		for _, id := range slices.Sorted(slices.Values(ids)) {
			st.Resources = append(st.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(id), Health: k.devices.Health(name, id)})
		}
		out = append(out, st)
	}
	return out
}

// claimHealth is about what a container has from claims: claim:NAME, or
// claim:NAME/REQUEST where it takes a part of one.
func (k *Kubelet) claimHealth(pod *corev1.Pod, c *corev1.Container) []corev1.ResourceStatus {
	var out []corev1.ResourceStatus
	for _, have := range k.claims.Of(pod, c) {
		for _, ref := range c.Resources.Claims {
			if ref.Name != have.Entry {
				continue
			}
			st := corev1.ResourceStatus{Name: corev1.ResourceName("claim:" + ref.Name)}
			if ref.Request != "" {
				st.Name += corev1.ResourceName("/" + ref.Request)
			}
			seen := map[corev1.ResourceID]bool{}
			for _, driver := range slices.Sorted(maps.Keys(have.Devices)) {
				for _, d := range have.Devices[driver] {
					// Several shares of a device are one device (KEP-5075); the API
					// would refuse the whole status for a second entry.
					id := corev1.ResourceID(driver + "/" + d.Pool + "/" + d.Name)
					if ref.Request != "" && !d.IsFor(ref.Request) || seen[id] {
						continue
					}
					seen[id] = true
					h := k.claims.Health(driver, d.Pool, d.Name)
					r := corev1.ResourceHealth{ResourceID: id, Health: h.Status}
					if h.Message != "" {
						r.Message = &h.Message
					}
					st.Resources = append(st.Resources, r)
				}
			}
			out = append(out, st)
		}
	}
	return out
}
