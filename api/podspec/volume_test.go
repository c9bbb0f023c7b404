package podspec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestVolumeSources has, for every type of volume, the fields that it cannot
// do without.
func TestVolumeSources(t *testing.T) {
	type src = corev1.VolumeSource
	for _, tc := range []struct {
		name   string
		source src
		want   string
	}{
		{"two", src{EmptyDir: &corev1.EmptyDirVolumeSource{}, Secret: &corev1.SecretVolumeSource{SecretName: "s"}},
			`v[0].secret: Forbidden: may not specify more than 1 volume type`},
		{"emptyDir size", src{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("-1"))}},
			`v[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity`},
		{"hostPath", src{HostPath: &corev1.HostPathVolumeSource{}}, `v[0].hostPath.path: Required value`},
		{"hostPath back", src{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b"}}, `v[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'`},
		{"hostPath type", src{HostPath: &corev1.HostPathVolumeSource{Path: "/a", Type: ptr(corev1.HostPathType("x"))}},
			`v[0].hostPath.type: Unsupported value: "x": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`},
		{"secret", src{Secret: &corev1.SecretVolumeSource{}}, `v[0].secret.secretName: Required value`},
		{"secret mode", src{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr(int32(0o1000))}},
			`v[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive`},
		{"secret item key", src{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Path: "p"}}}}, `v[0].secret.items[0].key: Required value`},
		{"secret item path", src{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "k", Path: "/p"}}}},
			`v[0].secret.items[0].path: Invalid value: "/p": must be a relative path`},
		{"secret item reserved", src{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "k", Path: "..p"}}}},
			`v[0].secret.items[0].path: Invalid value: "..p": must not start with '..'`},
		{"configMap", src{ConfigMap: &corev1.ConfigMapVolumeSource{}}, `v[0].configMap.name: Required value`},
		{"claim", src{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}, `v[0].persistentVolumeClaim.claimName: Required value`},
		{"downward none", src{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "p"}}}},
			`v[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required`},
		{"downward field", src{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "p",
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}},
			`v[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`},
		{"downward container", src{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "p",
			ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}}}}, `v[0].downwardAPI.resourceFieldRef.containerName: Required value`},
		{"projected token", src{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr(int64(5))}}}}},
			`v[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes`},
		{"projected token path", src{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}, `v[0].projected.sources[0].serviceAccountToken.path: Required value`},
		{"projected clash", src{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "k", Path: "t"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "k", Path: "t"}}}}}}},
			`v[0].projected: Invalid value: "c": conflicting duplicate paths`},
		{"csi", src{CSI: &corev1.CSIVolumeSource{}}, `v[0].csi.driver: Required value`},
		{"ephemeral", src{Ephemeral: &corev1.EphemeralVolumeSource{}}, `v[0].ephemeral.volumeClaimTemplate: Required value`},
		{"image", src{Image: &corev1.ImageVolumeSource{}}, `v[0].image.reference: Required value`},
		{"gitRepo", src{GitRepo: &corev1.GitRepoVolumeSource{}}, `v[0].gitRepo.repository: Required value`},
		{"gce", src{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{}}, `v[0].persistentDisk.pdName: Required value`},
		{"aws partition", src{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "x", Partition: 256}},
			`v[0].awsElasticBlockStore.partition: Invalid value: 256: must be between 1 and 255, inclusive`},
		{"nfs server", src{NFS: &corev1.NFSVolumeSource{Path: "/x"}}, `v[0].nfs.server: Required value`},
		{"nfs path", src{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "x"}}, `v[0].nfs.path: Invalid value: "x": must be an absolute path`},
		{"iscsi", src{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "p"}}, `v[0].iscsi.iqn: Required value`},
		{"iscsi lun", src{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "p", IQN: "iqn.2015-02.a:b", Lun: 256}},
			`v[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive`},
		{"iscsi chap", src{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "p", IQN: "iqn.2015-02.a:b", SessionCHAPAuth: true}}, `v[0].iscsi.secretRef: Required value`},
		{"glusterfs", src{Glusterfs: &corev1.GlusterfsVolumeSource{EndpointsName: "e"}}, `v[0].glusterfs.path: Required value`},
		{"rbd", src{RBD: &corev1.RBDVolumeSource{RBDImage: "i"}}, `v[0].rbd.monitors: Required value`},
		{"cephfs", src{CephFS: &corev1.CephFSVolumeSource{}}, `v[0].cephfs.monitors: Required value`},
		{"cinder", src{Cinder: &corev1.CinderVolumeSource{}}, `v[0].cinder.volumeID: Required value`},
		{"flocker", src{Flocker: &corev1.FlockerVolumeSource{}}, `v[0].flocker: Required value: one of datasetName and datasetUUID is required`},
		{"fc", src{FC: &corev1.FCVolumeSource{TargetWWNs: []string{"w"}}}, `v[0].fc.lun: Required value: lun is required if targetWWNs is specified`},
		{"azureFile", src{AzureFile: &corev1.AzureFileVolumeSource{SecretName: "s"}}, `v[0].azureFile.shareName: Required value`},
		{"azureDisk", src{AzureDisk: &corev1.AzureDiskVolumeSource{DataDiskURI: "https://x"}}, `v[0].azureDisk.diskName: Required value`},
		{"flex", src{FlexVolume: &corev1.FlexVolumeSource{Driver: "d", Options: map[string]string{"k8s.io/x": ""}}},
			`v[0].flexVolume.options[k8s.io/x]: Invalid value: "k8s.io/x": kubernetes.io and k8s.io namespaces are reserved`},
		{"vsphere", src{VsphereVolume: &corev1.VsphereVirtualDiskVolumeSource{}}, `v[0].vsphereVolume.volumePath: Required value`},
		{"photon", src{PhotonPersistentDisk: &corev1.PhotonPersistentDiskVolumeSource{}}, `v[0].photonPersistentDisk.pdID: Required value`},
		{"portworx", src{PortworxVolume: &corev1.PortworxVolumeSource{}}, `v[0].portworxVolume.volumeID: Required value`},
		{"quobyte", src{Quobyte: &corev1.QuobyteVolumeSource{Registry: "a:1"}}, `v[0].quobyte.volume: Required value`},
		{"scaleIO", src{ScaleIO: &corev1.ScaleIOVolumeSource{Gateway: "g", System: "s"}}, `v[0].scaleIO.volumeName: Required value`},
		{"storageos", src{StorageOS: &corev1.StorageOSVolumeSource{}}, `v[0].storageos.volumeName: Required value`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := basePod()
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: tc.source}}
			DefaultPod(p)
			c := &checker{spec: &p.Spec, meta: &p.ObjectMeta, volumes: map[string]*corev1.VolumeSource{}}
			errs := c.validateVolumes(field.NewPath("v"))
			if len(errs) != 1 || errs[0].Error() != tc.want {
				t.Errorf("got %v\nwant %s", errs, tc.want)
			}
		})
	}
}

func TestMountsAndEnv(t *testing.T) {
	env := func(v corev1.EnvVar) func(*corev1.Pod, *corev1.Container) {
		return func(_ *corev1.Pod, c *corev1.Container) { c.Env = []corev1.EnvVar{v} }
	}
	from := func(s corev1.EnvVarSource) func(*corev1.Pod, *corev1.Container) {
		return env(corev1.EnvVar{Name: "A", ValueFrom: &s})
	}
	mount := func(m ...corev1.VolumeMount) func(*corev1.Pod, *corev1.Container) {
		return func(_ *corev1.Pod, c *corev1.Container) { c.VolumeMounts = m }
	}
	device := func(d corev1.VolumeDevice) func(*corev1.Pod, *corev1.Container) {
		return func(_ *corev1.Pod, c *corev1.Container) { c.VolumeDevices = []corev1.VolumeDevice{d} }
	}
	const at = "spec.containers[0]."
	runBad(t, []badCase{
		{"volume name", func(p *corev1.Pod, _ *corev1.Container) { p.Spec.Volumes[0].Name = "A" }, `spec.volumes[0].name: Invalid value: "A": ` + labelText},
		{"volume twice", func(p *corev1.Pod, _ *corev1.Container) { p.Spec.Volumes[1].Name = "data" }, `spec.volumes[1].name: Duplicate value: "data"`},
		{"no volume", mount(corev1.VolumeMount{Name: "x", MountPath: "/x"}), at + `volumeMounts[0].name: Not found: "x"`},
		{"no path", mount(corev1.VolumeMount{Name: "data"}), at + `volumeMounts[0].mountPath: Required value`},
		{"path twice", mount(corev1.VolumeMount{Name: "data", MountPath: "/x"}, corev1.VolumeMount{Name: "claim", MountPath: "/x"}),
			at + `volumeMounts[1].mountPath: Invalid value: "/x": must be unique`},
		{"sub path", mount(corev1.VolumeMount{Name: "data", MountPath: "/x", SubPath: "../y"}), at + `volumeMounts.subPath: Invalid value: "../y": must not contain '..'`},
		{"both sub paths", mount(corev1.VolumeMount{Name: "data", MountPath: "/x", SubPath: "y", SubPathExpr: "z"}),
			at + `volumeMounts[0].subPathExpr: Invalid value: "z": subPathExpr and subPath are mutually exclusive`},
		{"propagation", mount(corev1.VolumeMount{Name: "data", MountPath: "/x", MountPropagation: ptr(corev1.MountPropagationBidirectional)}),
			at + `volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers`},
		{"recursive", mount(corev1.VolumeMount{Name: "data", MountPath: "/x", RecursiveReadOnly: ptr(corev1.RecursiveReadOnlyEnabled)}),
			at + `volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true`},
		{"device of directory", device(corev1.VolumeDevice{Name: "data", DevicePath: "/dev/x"}),
			at + `volumeDevices[0].name: Invalid value: "data": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`},
		{"device path", device(corev1.VolumeDevice{Name: "claim"}), at + `volumeDevices[0].devicePath: Required value`},
		{"env name", env(corev1.EnvVar{Value: "x"}), at + `env[0].name: Required value`},
		{"env equals", env(corev1.EnvVar{Name: "a=b"}), at + `env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`},
		{"env value and source", env(corev1.EnvVar{Name: "A", Value: "x", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}}),
			at + "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"},
		{"env no source", from(corev1.EnvVarSource{}),
			at + "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"},
		{"field unknown", from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.whoops"}}),
			at + `env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.whoops": error converting fieldPath: field label not supported: metadata.whoops`},
		{"field not for env", from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels"}}),
			at + `env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`},
		{"resource", from(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.disk"}}),
			at + `env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.disk": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`},
		{"divisor", from(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("10m")}}),
			at + `env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "10m": only divisor's values 1m and 1 are supported with the cpu resource`},
		{"configmap key", from(corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}),
			at + `env[0].valueFrom.configMapKeyRef.key: Required value`},
		{"secret name", from(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "k"}}), at + `env[0].valueFrom.secretKeyRef.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"file volume", from(corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "claim", Path: "p", Key: "K"}}),
			at + `env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "claim": referenced volume must be of type emptyDir`},
		{"envFrom none", func(_ *corev1.Pod, c *corev1.Container) { c.EnvFrom = []corev1.EnvFromSource{{}} },
			at + "envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"},
		{"envFrom name", func(_ *corev1.Pod, c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}
		}, at + `envFrom[0].secretRef.name: Required value`},
	})
	p := basePod()
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.annotations['x.io/y']"}}}}
	if errs := Validate(&p.Spec, &p.ObjectMeta, field.NewPath("spec"), Options{}); len(errs) > 0 {
		t.Errorf("annotation by subscript: %v", errs)
	}
}

func TestClaimSpec(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*corev1.PersistentVolumeClaimSpec)
		want   string
	}{
		{"modes", func(s *corev1.PersistentVolumeClaimSpec) { s.AccessModes = nil }, `s.accessModes: Required value: at least 1 access mode is required`},
		{"mode", func(s *corev1.PersistentVolumeClaimSpec) { s.AccessModes[0] = "x" },
			`s.accessModes: Unsupported value: "x": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`},
		{"single pod", func(s *corev1.PersistentVolumeClaimSpec) {
			s.AccessModes = append(s.AccessModes, corev1.ReadWriteOncePod)
		}, `s.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes`},
		{"storage", func(s *corev1.PersistentVolumeClaimSpec) { s.Resources.Requests = nil }, `s.resources[storage]: Required value`},
		{"zero", func(s *corev1.PersistentVolumeClaimSpec) { s.Resources.Requests = list("storage", "0") },
			`s.resources[storage]: Invalid value: "0": must be greater than zero`},
		{"class", func(s *corev1.PersistentVolumeClaimSpec) { s.StorageClassName = ptr("A") }, `s.storageClassName: Invalid value: "A": ` + subdomainText},
		{"volume mode", func(s *corev1.PersistentVolumeClaimSpec) { s.VolumeMode = ptr(corev1.PersistentVolumeMode("x")) },
			`s.volumeMode: Unsupported value: "x": supported values: "Block", "Filesystem"`},
		{"selector", func(s *corev1.PersistentVolumeClaimSpec) {
			s.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}}
		}, `s.selector.matchExpressions[0].values: Required value: must be specified when ` + "`operator` is 'In' or 'NotIn'"},
		{"source kind", func(s *corev1.PersistentVolumeClaimSpec) {
			s.DataSource = &corev1.TypedLocalObjectReference{Kind: "X", Name: "n"}
		}, `s.dataSource: Invalid value: "X": must be 'PersistentVolumeClaim' when referencing the default apiGroup`},
	} {
		s := corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}}
		DefaultClaimSpec(&s)
		tc.change(&s)
		if errs := ValidateClaimSpec(&s, field.NewPath("s")); len(errs) != 1 || errs[0].Error() != tc.want {
			t.Errorf("%s: got %v\nwant %s", tc.name, errs, tc.want)
		}
	}
}

func TestAnnotations(t *testing.T) {
	p := basePod()
	for key, want := range map[string]string{
		corev1.MirrorPodAnnotationKey: "must set spec.nodeName if mirror pod annotation is set",
		corev1.PodDeletionCost:        "must be a 32bit integer",
		corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "zz": "container not found",
	} {
		errs := ValidatePodAnnotations(map[string]string{key: ""}, &p.Spec, field.NewPath("a"))
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%s: %v, want %q", key, errs, want)
		}
	}
}
