package wire

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Upstream's server is three in one, each of which knows its own kinds and says
// where it looked for others. Clients see that in the texts of errors.
const (
	legacyScheme      = "pkg/api/legacyscheme/scheme.go:30"
	extensionsScheme  = "pkg/apiserver/apiserver.go:55"
	aggregationScheme = "pkg/apiserver/scheme/scheme.go:28"
	// optionsScheme is where it looks for options.
	optionsScheme = "pkg/apis/meta/internalversion/scheme/register.go:27"
)

// schemeOf is where the kinds of a group are known.
func schemeOf(group string) string {
	switch group {
	case "apiextensions.k8s.io":
		return extensionsScheme
	case "apiregistration.k8s.io":
		return aggregationScheme
	}
	return legacyScheme
}

// Unregistered is the error for a kind that the server of the wanted kind does
// not know.
func Unregistered(got, want schema.GroupVersionKind) error {
	return unregistered(got, schemeOf(want.Group))
}

func unregistered(got schema.GroupVersionKind, scheme string) error {
	return fmt.Errorf("no kind %q is registered for version %q in scheme %q", got.Kind, got.GroupVersion(), scheme)
}

// unconverted is the error for a kind that is known there, but is another.
func unconverted(got schema.GroupVersionKind, want string) error {
	return fmt.Errorf("converting (%s) to (%s): unknown conversion", typeName(got), want)
}

// plainKinds have no version of their own, and optionKinds come with every group.
var (
	plainKinds  = []string{"Status", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList"}
	optionKinds = []string{"ListOptions", "GetOptions", "DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions"}
	metaKinds   = []string{metav1.WatchEventKind, "Table", "TableOptions", "PartialObjectMetadata", "PartialObjectMetadataList"}
)

// everywhere says that every server knows the kind.
func everywhere(gvk schema.GroupVersionKind) bool {
	return gvk.GroupVersion() == (schema.GroupVersion{Version: "v1"}) &&
		(gvk.Kind == metav1.WatchEventKind || slices.Contains(plainKinds, gvk.Kind) || slices.Contains(optionKinds, gvk.Kind))
}

// isOption says that the kind is known where upstream looks for options.
func isOption(gvk schema.GroupVersionKind) bool {
	switch gvk.GroupVersion() {
	case metav1.SchemeGroupVersion:
		return slices.Contains(plainKinds, gvk.Kind) || slices.Contains(optionKinds, gvk.Kind) || slices.Contains(metaKinds, gvk.Kind)
	case schema.GroupVersion{Version: "v1"}:
		return slices.Contains(plainKinds, gvk.Kind) || slices.Contains(optionKinds, gvk.Kind)
	}
	return false
}
