package podspec

import (
	"math/rand/v2"
	"testing"

	"github.com/distribution/reference"
)

// TestPlainImage holds what is told at a glance against the parser.
func TestPlainImage(t *testing.T) {
	check := func(image string) bool {
		tag, ok := plainImage(image)
		if !ok {
			return false
		}
		ref, err := reference.ParseNormalizedNamed(image)
		if err != nil {
			t.Fatalf("%q was taken for an image: %v", image, err)
		}
		want := ""
		if tagged, ok := ref.(reference.Tagged); ok {
			want = tagged.Tag()
		}
		if tag != want {
			t.Fatalf("%q has tag %q, want %q", image, tag, want)
		}
		return true
	}
	for _, image := range []string{"nginx", "nginx:latest", "registry.k8s.io/pause:3.10.1", "a/b-c/d_e:V1.2-x"} {
		if !check(image) {
			t.Errorf("%q went to the parser", image)
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	const letters = "ab0./-_:@A"
	plain := 0
	for range 50000 {
		b := make([]byte, 1+rng.IntN(9))
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		if check(string(b)) {
			plain++
		}
	}
	if plain < 1000 {
		t.Errorf("only %d images were plain", plain)
	}
}
