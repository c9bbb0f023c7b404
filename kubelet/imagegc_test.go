package kubelet

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/kubelet/pulled"
)

// shelf is a runtime's images, of which one is in use.
type shelf struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	ids     []string
	removed []string
}

func (s *shelf) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{ImageId: "inuse"}}}, nil
}

func (s *shelf) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	out := &runtimeapi.ListImagesResponse{}
	for _, id := range s.ids {
		out.Images = append(out.Images, &runtimeapi.Image{Id: id, Pinned: id == "pinned"})
	}
	return out, nil
}

func (s *shelf) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	s.removed = append(s.removed, r.Image.Image)
	s.ids = slices.DeleteFunc(s.ids, func(id string) bool { return id == r.Image.Image })
	return &runtimeapi.RemoveImageResponse{}, nil
}

// Images that nothing has used for longer than imageMaximumGCAge go, however
// much room there is (KEP-4210).
func TestAgeImages(t *testing.T) {
	s := &shelf{ids: []string{"inuse", "pinned", "old", "lately"}}
	records, err := pulled.New(pulled.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	k := &Kubelet{
		counts: newCounts(), cfg: Config{Runtime: s, Images: s, ImageGC: ImageGC{MaxAge: time.Hour}}, log: slog.New(slog.DiscardHandler),
		images: &imageUses{seen: map[string]time.Time{}, used: map[string]time.Time{}}, pulled: records, node: &nodeManager{},
	}
	k.ageImages(t.Context(), noon) // first seen
	k.images.use("lately", noon.Add(30*time.Minute))
	for _, step := range []struct {
		after time.Duration
		want  []string
	}{
		{59 * time.Minute, nil},
		{61 * time.Minute, nil}, // too soon after the last look
		{65 * time.Minute, []string{"old"}},
		{95 * time.Minute, []string{"old", "lately"}},
		{1000 * time.Minute, []string{"old", "lately"}},
	} {
		if k.ageImages(t.Context(), noon.Add(step.after)); !slices.Equal(s.removed, step.want) {
			t.Errorf("after %v: removed %v, want %v", step.after, s.removed, step.want)
		}
	}
}
