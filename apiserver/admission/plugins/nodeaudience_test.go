package plugins

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// A node gets tokens of those audiences only that its pods hand tokens to.
// Upstream's server answered each of these questions with the same words.
func TestAudiencesOfNodes(t *testing.T) {
	const node = "system:node:n1"
	b := newBench()
	b.allowed = []authz.Attributes{{User: client.User{Name: node}, Verb: "request-serviceaccounts-token-audience", Resource: "registry", Name: "default"}}
	driver := func(name string, audiences ...string) {
		d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range audiences {
			d.Spec.TokenRequests = append(d.Spec.TokenRequests, storagev1.TokenRequest{Audience: a})
		}
		doortest.Put(&b.door, client.CSIDrivers, d)
	}
	driver("csi.a", "a", "a2")
	driver("csi.none")
	driver("csi.empty", "")
	driver("pd.csi.storage.gke.io", "moved")
	volume := func(name string, src corev1.PersistentVolumeSource) {
		doortest.Put(&b.door, client.PersistentVolumes, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: src}})
	}
	volume("va", corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.a"}})
	volume("vgone", corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.gone"}})
	volume("vhost", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}})
	volume("vmoved", corev1.PersistentVolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{}})
	for claim, vol := range map[string]string{"ca": "va", "cgone": "vgone", "chost": "vhost", "cmoved": "vmoved", "cpending": "", "clost": "vlost", "p-e": "va"} {
		doortest.Put(&b.door, client.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: claim}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: vol}})
	}
	projected := func(audience string) corev1.Volume {
		return corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience}}}}}}
	}
	inline := func(driver string) corev1.Volume {
		return corev1.Volume{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver}}}
	}
	claim := func(name string) corev1.Volume {
		return corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	own := corev1.Volume{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	vols := func(v ...corev1.Volume) []corev1.Volume { return v }
	not := func(a string) string {
		return `audience "` + a + `" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`
	}
	const many = "node may only request 0 or 1 audiences"
	for name, tc := range map[string]struct {
		volumes []corev1.Volume
		asked   []string
		err     string
	}{
		"no volume, none":          {nil, nil, not("")},
		"no volume, empty":         {nil, []string{""}, not("")},
		"no volume":                {nil, []string{"x"}, not("x")},
		"two":                      {vols(projected("x")), []string{"x", "x"}, many},
		"projected":                {vols(projected("vault")), []string{"vault"}, ""},
		"projected another":        {vols(projected("vault")), []string{"x"}, not("x")},
		"projected, none":          {vols(projected("")), nil, ""},
		"the server's by its name": {vols(projected("")), []string{"https://kubernetes.default.svc"}, not("https://kubernetes.default.svc")},
		"inline driver":            {vols(inline("csi.a")), []string{"a2"}, ""},
		"inline driver, another":   {vols(inline("csi.a")), []string{"x"}, not("x")},
		"driver without tokens":    {vols(inline("csi.none")), []string{"x"}, not("x")},
		"driver of the server's":   {vols(inline("csi.empty")), nil, ""},
		"absent driver":            {vols(inline("csi.gone")), []string{"x"}, `error validating audience "x": csidriver.storage.k8s.io "csi.gone" not found`},
		"claim":                    {vols(claim("ca")), []string{"a"}, ""},
		"claim, another":           {vols(claim("ca")), []string{"x"}, not("x")},
		"claim of no driver":       {vols(claim("chost")), []string{"x"}, not("x")},
		"claim of a moved kind":    {vols(claim("cmoved")), []string{"moved"}, ""},
		"claim's absent driver":    {vols(claim("cgone")), []string{"x"}, `error validating audience "x": csidriver.storage.k8s.io "csi.gone" not found`},
		"absent claim":             {vols(claim("cabsent")), []string{"x"}, `error validating audience "x": persistentvolumeclaim "cabsent" not found`},
		"absent volume":            {vols(claim("clost")), []string{"x"}, `error validating audience "x": persistentvolume "vlost" not found`},
		"claim without volume":     {vols(claim("cpending")), []string{"x"}, `error validating audience "x": persistentvolume "" not found`},
		"ephemeral":                {vols(own), []string{"a"}, ""},
		"found beside errors":      {vols(claim("cabsent"), claim("ca")), []string{"a"}, ""},
		"several errors":           {vols(claim("cabsent"), inline("csi.gone")), []string{"registry"}, `error validating audience "registry": [persistentvolumeclaim "cabsent" not found, csidriver.storage.k8s.io "csi.gone" not found]`},
		"allowed":                  {nil, []string{"registry"}, ""},
	} {
		pod := doortest.Put(&b.door, client.Pods, newTestPod(func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.Volumes = "n1", tc.volumes }))
		a := &admission.Attributes{
			Operation: admission.Create, Resource: client.ServiceAccounts.GroupVersionResource, Subresource: "token", Namespace: "ns", Name: "default",
			User: client.User{Name: node, Groups: []string{"system:nodes"}},
			Object: &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				Audiences:      tc.asked,
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID},
			}},
		}
		check(t, name, b.run(a, "NodeRestriction"), tc.err)
	}
}

// withToken gives a pod the volume that accounts' tokens come in.
func withToken(p *corev1.Pod) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}},
	}}})
	return p
}
