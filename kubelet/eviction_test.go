package kubelet

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/internal/mountinfo"
)

func podOf(name string, priority int32, memory string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{Name: "c"}}}}
	if memory != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
	}
	return p
}

func TestEvictFirst(t *testing.T) {
	const mi = 1 << 20
	for name, c := range map[string]struct {
		uses []use
		want string
	}{
		"those beyond their request first": {[]use{{pod: podOf("within", 0, "20Mi"), total: 10 * mi}, {pod: podOf("beyond", 100, "1Mi"), total: 2 * mi}}, "beyond within"},
		"then by priority":                 {[]use{{pod: podOf("high", 9, ""), total: 90 * mi}, {pod: podOf("low", 1, ""), total: 2 * mi}}, "low high"},
		"then by how far beyond":           {[]use{{pod: podOf("a", 0, "10Mi"), total: 11 * mi}, {pod: podOf("b", 0, "1Mi"), total: 9 * mi}}, "b a"},
	} {
		evictFirst(c.uses, corev1.ResourceMemory)
		var got []string
		for _, u := range c.uses {
			got = append(got, u.pod.Name)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s", name, s)
		}
	}
}

func TestEvictionMessage(t *testing.T) {
	s := signal{signalKind: signalKinds[1], Available: 50 << 20, Limit: 100 << 20}
	got := evictionMessage(s, &use{pod: podOf("p", 0, "1Mi"), by: map[string]int64{"c": 2 << 20}})
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2048Ki, request is 1Mi, has larger consumption of memory. "
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAdmitUnderPressure(t *testing.T) {
	all := pressure{memory: true, disk: true, pids: true}
	tolerant := podOf("t", 0, "")
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		p    pressure
		want string
	}{
		"none":                     {podOf("p", 0, ""), pressure{}, ""},
		"best effort":              {podOf("p", 0, ""), pressure{memory: true}, "The node had condition: [MemoryPressure]. "},
		"asks for memory":          {podOf("p", 0, "1Mi"), pressure{memory: true}, ""},
		"tolerates":                {tolerant, pressure{memory: true}, ""},
		"no disk for anyone":       {podOf("p", 0, "1Mi"), all, "The node had condition: [DiskPressure PIDPressure]. "},
		"but for a critical one's": {podOf("p", 2_000_000_000, ""), all, ""},
	} {
		got := ""
		if r := admitUnderPressure(c.pod, c.p, false); r != nil {
			got = r.Message
		}
		if got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPressureStays(t *testing.T) {
	p := pressures{corev1.NodeDiskPressure: noon}
	if !p.under(noon.Add(4*time.Minute), 5*time.Minute).disk || p.under(noon.Add(5*time.Minute), 5*time.Minute).disk || p.under(noon, time.Minute).memory {
		t.Error("pressure lasts for its transition period")
	}
}

func TestStorageExceeded(t *testing.T) {
	limited := func(limit, size string) *corev1.Pod {
		p := podOf("p", 0, "")
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		if size != "" {
			p.Spec.Volumes[0].EmptyDir.SizeLimit = ptr.To(resource.MustParse(size))
		}
		if limit != "" {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(limit)}
		}
		return p
	}
	const mi = 1 << 20
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		use  storageUse
		want string
	}{
		"within":    {limited("2Mi", "1Mi"), storageUse{emptyDirs: map[string]int64{"v": mi}, total: 2 * mi}, ""},
		"volume":    {limited("", "1Mi"), storageUse{emptyDirs: map[string]int64{"v": mi + 1}}, `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		"pod":       {limited("2Mi", ""), storageUse{total: 2*mi + 1}, "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "},
		"container": {limited("2Mi", ""), storageUse{containers: map[string]int64{"c": 2*mi + 1}}, `Container c exceeded its local ephemeral storage limit "2Mi". `},
	} {
		if got := storageExceeded(c.pod, &c.use); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestWritableLayers(t *testing.T) {
	mounts, err := mountinfo.Parse(strings.NewReader(`31 1 254:0 / / rw,relatime - ext4 /dev/root rw
95 31 0:52 / /run/cox/rt/io.containerd.runtime.v2.task/k8s.io/abc/rootfs rw,relatime - overlay overlay rw,lowerdir=/a/1/fs,upperdir=/a/7/fs,workdir=/a/7/work
96 31 0:53 / /somewhere rw - overlay overlay rw,lowerdir=/a,upperdir=/b
97 31 0:54 / /run/x/def/rootfs ro - overlay overlay ro,lowerdir=/a:/b
`))
	if err != nil {
		t.Fatal(err)
	}
	got := writableLayers(mounts)
	if len(got) != 1 || got["abc"] != "/a/7/fs" {
		t.Errorf("%v", got)
	}
}

func TestFreeable(t *testing.T) {
	u := &imageUses{seen: map[string]time.Time{}, used: map[string]time.Time{}}
	old := noon.Add(-time.Hour)
	for id, at := range map[string]time.Time{"a": old.Add(time.Minute), "b": old, "pinned": old, "inuse": old, "justused": noon.Add(-time.Minute)} {
		u.use(id, at)
	}
	u.seen["justused"] = old
	images := []*runtimeapi.Image{
		{Id: "a", Size: 1}, {Id: "b", Size: 2}, {Id: "pinned", Pinned: true}, {Id: "inuse", RepoTags: []string{"x:1"}}, {Id: "new"}, {Id: "justused"},
	}
	var got []string
	for _, f := range u.freeable(images, map[string]bool{"x:1": true}, noon, 2*time.Minute) {
		got = append(got, f.id)
	}
	if strings.Join(got, " ") != "b a" {
		t.Errorf("%v", got)
	}
}
