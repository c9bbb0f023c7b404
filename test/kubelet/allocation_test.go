package kubelet_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/resourceclaim"
	"github.com/coxswain/cox/scheduler"
)

// allocating runs our scheduler and the controller of claims until the test
// ends.
func (w *world) allocating() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	w.t.Cleanup(func() { cancel(); running.Wait() })
	informers := client.NewInformers(w.root)
	recorder := client.NewRecorder(ctx, w.root, "default-scheduler", "")
	sched, err := scheduler.New(scheduler.Config{Client: w.root, Informers: informers, Recorder: recorder, Log: w.log})
	w.must(err)
	claims, err := resourceclaim.New(controllers.Env{Client: w.root, Informers: informers, Events: recorder, Log: w.log, Clock: clock.RealClock{}})
	w.must(err)
	informers.Start(ctx)
	running.Go(func() { sched.Run(ctx) })
	running.Go(func() { claims.Run(ctx) })
}

// TestAllocation: what our scheduler allocates is what the driver prepares and
// the container gets; a claim's end frees its device for the next; and devices
// serve extended resources.
func TestAllocation(t *testing.T) {
	w := newWorld(t)
	w.allocating()
	w.must(os.MkdirAll("/var/run/cdi", 0o755))
	spec := "/var/run/cdi/kubelettest.coxswain.dev-allocated.yaml"
	w.must(os.WriteFile(spec, []byte("cdiVersion: 0.5.0\nkind: "+cdiKind+"\ndevices:\n- name: d\n  containerEdits:\n    env: [THING=prepared]\n"), 0o644))
	t.Cleanup(func() { os.Remove(spec) })
	d := &draDriver{registered: make(chan *registerapi.RegistrationStatus, 10), undone: make(chan string, 10)}
	w.eventually("the folder of plugins is there", func() bool { _, err := os.Stat(w.path("plugins_registry")); return err == nil })
	serveUnix(t, w.path("plugins_registry", "dra.sock"), func(s *grpc.Server) {
		drav1.RegisterDRAPluginServer(s, d)
		registerapi.RegisterRegistrationServer(s, d)
	})
	if st := <-d.registered; !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	ctx := t.Context()
	_, err := client.ResourceSlices.In(w.root, "").Create(ctx, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "things"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "dra.example.com", Pool: resourcev1.ResourcePool{Name: "p", Generation: 1, ResourceSliceCount: 1}, NodeName: ptr.To(nodeName),
		Devices: []resourcev1.Device{{Name: "d", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"kind": {StringValue: ptr.To("thing")}}}},
	}})
	w.must(err)
	_, err = client.ResourceClaimTemplates.In(w.root, "default").Create(ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "things", Namespace: "default"},
		Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "thing"},
		}}}}}})
	w.must(err)
	unscheduled := func(name, spec, more string) {
		w.podOn("", shell(name, "echo thing=$THING; sleep 1000", more, spec+"\nterminationGracePeriodSeconds: 1\ntolerations: [{operator: Exists}]"))
	}
	const claimed = "resourceClaims: [{name: t, resourceClaimTemplateName: things}]"
	unscheduled("first", claimed, "resources: {claims: [{name: t}]}")
	w.untilEvent("first", "request one: device class thing does not exist")
	_, err = client.DeviceClasses.In(w.root, "").Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "thing"}, Spec: resourcev1.DeviceClassSpec{
		Selectors:            []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["dra.example.com"].kind == "thing"`}}},
		ExtendedResourceName: ptr.To("example.com/thing"),
	}})
	w.must(err)
	p := w.until("first", "ready", isReady)
	w.logSays(p, "c", 0, "thing=prepared\n")
	claim, err := client.ResourceClaims.In(w.root, "default").Get(ctx, *p.Status.ResourceClaimStatuses[0].ResourceClaimName)
	w.must(err)
	if r := claim.Status.ReservedFor; !slices.Contains(claim.Finalizers, resourcev1.Finalizer) || len(r) != 1 || r[0].UID != p.UID || claim.Status.Allocation.AllocationTimestamp == nil {
		t.Errorf("finalizers %v, status %+v", claim.Finalizers, claim.Status)
	}

	unscheduled("second", claimed, "resources: {claims: [{name: t}]}")
	w.untilEvent("second", "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption:")
	w.delete("first", 1)
	p = w.until("second", "ready with what the first left", isReady)
	w.logSays(p, "c", 0, "thing=prepared\n")
	w.delete("second", 1)
	w.until("second", "gone", gone)

	unscheduled("extended", "", "resources: {limits: {example.com/thing: 1}}")
	p = w.until("extended", "ready", isReady)
	w.logSays(p, "c", 0, "thing=prepared\n")
	e := p.Status.ExtendedResourceClaimStatus
	if e == nil || len(e.RequestMappings) != 1 || e.RequestMappings[0] != (corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: "example.com/thing", RequestName: "container-0-request-0"}) ||
		!strings.HasPrefix(e.ResourceClaimName, "extended-extended-resources-") {
		t.Fatalf("%+v", e)
	}
	w.delete("extended", 1)
	w.until("extended", "gone", gone)
}
