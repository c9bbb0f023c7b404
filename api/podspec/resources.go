package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const notInteger = "must be an integer"

// IsExtended says that a resource is one that devices or administrators
// bring: a qualified name outside kubernetes.io.
func IsExtended(name corev1.ResourceName) bool {
	if IsNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	// It must still be a name when a quota asks for requests of it.
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// IsNative says that a resource is Kubernetes' own: it has no domain, or one
// of kubernetes.io.
func IsNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || isPrefixedNative(name)
}

func isPrefixedNative(name corev1.ResourceName) bool {
	return strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// IsHugePages says that a resource is huge pages of some size.
func IsHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isIntegerResource says that fractions make no sense.
func isIntegerResource(name corev1.ResourceName) bool {
	return IsExtended(name) || name == corev1.ResourcePods
}

// overcommits says that a resource's limit may exceed its request.
func overcommits(name corev1.ResourceName) bool { return IsNative(name) && !IsHugePages(name) }

// ValidateQuantity checks the value of a resource: not negative, and whole
// where it counts things.
func ValidateQuantity(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	return append(ValidateNonNegative(q, path), ValidateInteger(name, q, path)...)
}

// ValidateInteger wants whole numbers of what is counted.
func ValidateInteger(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	if isIntegerResource(name) && q.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(path, q, notInteger)}
	}
	return nil
}

// ValidateNonNegative checks that a quantity is not below zero.
func ValidateNonNegative(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), notNegative).WithOrigin("minimum")}
	}
	return nil
}

// ValidateResourceName checks the name of a resource of a container, or of
// a whole pod.
func ValidateResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := invalid(path, name, validation.IsQualifiedName(string(name)))
	if !strings.Contains(string(name), "/") {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, IsHugePages(name):
			return errs
		}
		return append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
	}
	if !IsNative(name) && !IsExtended(name) {
		errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// validateQuantities checks a list of resources, names and values.
func validateQuantities(l corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(l)) {
		p := path.Key(string(name))
		errs = append(errs, ValidateResourceName(name, p)...)
		errs = append(errs, ValidateQuantity(name, l[name], p)...)
		if q := l[name]; IsHugePages(name) {
			errs = append(errs, validateHugePages(name, q, p)...)
		}
	}
	return errs
}

// validateHugePages checks that a quantity is a multiple of the page size.
func validateHugePages(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 {
		return nil
	}
	if q.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(path, q.String(), fmt.Sprintf("not a multiple of the huge page size %s", size.String()))}
	}
	return nil
}

// ValidateResourceRequirements checks a container's resources: names,
// values, and that requests keep within limits. Claims are not looked at.
func ValidateResourceRequirements(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	limits, requests := path.Child("limits"), path.Child("requests")
	errs := validateQuantities(r.Limits, limits)
	for _, name := range sets.List(sets.KeySet(r.Requests)) {
		q, p := r.Requests[name], requests.Key(string(name))
		errs = append(errs, ValidateResourceName(name, p)...)
		errs = append(errs, ValidateQuantity(name, q, p)...)
		limit, limited := r.Limits[name]
		switch {
		case !limited && !overcommits(name):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case !limited:
		case q.Cmp(limit) != 0 && !overcommits(name):
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	huge, base := false, false
	for _, l := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name := range l {
			huge = huge || IsHugePages(name)
			base = base || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		}
	}
	if huge && !base {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return errs
}

func (c *checker) containerResources(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	return append(ValidateResourceRequirements(r, path), c.claimsOf(r, path)...)
}

// claimsOf checks which of the pod's claims something uses.
func (c *checker) claimsOf(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]sets.Set[string]{}
	for i, claim := range r.Claims {
		p := path.Child("claims").Index(i)
		if claim.Name == "" {
			errs = append(errs, field.Required(p, ""))
			continue
		}
		if claim.Request != "" {
			errs = append(errs, invalid(p.Child("request"), claim.Request, validation.IsDNS1123Label(claim.Request))...)
		}
		if s, ok := seen[claim.Name]; ok && (s.Has("") || s.Has(claim.Request) || claim.Request == "") {
			id := claim.Name
			if claim.Request != "" {
				id += "/" + claim.Request
			}
			errs = append(errs, field.Duplicate(p, id))
		}
		if seen[claim.Name] == nil {
			seen[claim.Name] = sets.New[string]()
		}
		seen[claim.Name].Insert(claim.Request)
		if !c.claims.Has(claim.Name) {
			e := field.NotFound(p, claim.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(c.claims) == 0 {
				e.Detail += " which is empty"
			} else {
				e.Detail += ": " + strings.Join(sets.List(c.claims), ", ")
			}
			errs = append(errs, e)
		}
	}
	return errs
}

func (c *checker) resizePolicy(ctr *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range ctr.ResizePolicy {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, oneOf(p.ResourceName, path, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p.RestartPolicy, path, corev1.NotRequired, corev1.RestartContainer)...)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy == corev1.RestartContainer && !isSidecar(ctr) {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// podResources checks the resources of the whole pod (KEP 2837).
func (c *checker) podResources(path *field.Path) field.ErrorList {
	r := c.spec.Resources
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		errs = append(errs, field.Forbidden(path, "may not be set for a windows pod"))
	}
	supported := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory}
	for _, l := range []struct {
		list corev1.ResourceList
		name string
	}{{r.Limits, "limits"}, {r.Requests, "requests"}} {
		for _, name := range sets.List(sets.KeySet(l.list)) {
			p := path.Child(l.name).Key(string(name))
			if bad := invalid(p, name, validation.IsQualifiedName(string(name))); len(bad) > 0 {
				errs = append(errs, bad...)
			} else if name != corev1.ResourceCPU && name != corev1.ResourceMemory && !IsHugePages(name) {
				errs = append(errs, field.NotSupported(p, name, supported))
			}
		}
	}
	errs = append(errs, c.claimsOf(r, path)...)
	if len(errs) > 0 {
		for _, name := range sets.List(sets.KeySet(r.Requests)) {
			if _, limited := r.Limits[name]; !limited && !overcommits(name) {
				errs = append(errs, field.Required(path.Child("limits"), "Limit must be set for non overcommitable resources"))
			}
		}
		return errs
	}
	errs = append(errs, ValidateResourceRequirements(r, path)...)
	return append(errs, c.podVersusContainers(r, path)...)
}

// podVersusContainers checks that the pod requests at least what its
// containers do, and that no container is limited to more than the pod.
func (c *checker) podVersusContainers(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	sum := aggregateRequests(c.spec)
	for _, name := range sets.List(sets.KeySet(r.Requests)) {
		have, want := r.Requests[name], sum[name]
		if want.Cmp(have) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", want.String())))
		}
	}
	for _, name := range sets.List(sets.KeySet(r.Limits)) {
		pod := r.Limits[name]
		for i := range c.spec.Containers {
			if l, ok := c.spec.Containers[i].Resources.Limits[name]; ok && l.Cmp(pod) > 0 {
				errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), pod.String(),
					fmt.Sprintf("must be greater than or equal to %s limit of container %s of %s", name, c.spec.Containers[i].Name, l.String())))
			}
		}
	}
	return errs
}
