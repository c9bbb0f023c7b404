package podspec

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

const (
	sysctlSegment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlPattern = "^(" + sysctlSegment + `[\./])*` + sysctlSegment + "$"
	sysctlMax     = 253
)

var sysctlRegexp = regexp.MustCompile(sysctlPattern)

func (c *checker) podSecurityContext(s *field.Path) field.ErrorList {
	sc := c.spec.SecurityContext
	if sc == nil {
		return nil
	}
	var errs field.ErrorList
	if sc.FSGroup != nil {
		errs = append(errs, invalid(s.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))...)
	}
	if sc.RunAsUser != nil {
		errs = append(errs, invalid(s.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))...)
	}
	if sc.RunAsGroup != nil {
		errs = append(errs, invalid(s.Child("runAsGroup"), *sc.RunAsGroup, validation.IsValidGroupID(*sc.RunAsGroup))...)
	}
	for i, g := range sc.SupplementalGroups {
		errs = append(errs, invalid(s.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))...)
	}
	errs = append(errs, c.sysctls(sc.Sysctls, s.Child("sysctls"))...)
	if p := sc.FSGroupChangePolicy; p != nil {
		errs = append(errs, check.OneOf(*p, s.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if p := sc.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, s.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		errs = append(errs, check.OneOf(*p, s.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyRecursive)...)
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, s.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(sc.AppArmorProfile, s.Child("appArmorProfile"))...)
	return append(errs, validateWindows(sc.WindowsOptions, s.Child("windowsOptions"))...)
}

func (c *checker) sysctls(list []corev1.Sysctl, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range list {
		np := p.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(np, ""))
		case len(s.Name) > sysctlMax || !sysctlRegexp.MatchString(s.Name):
			errs = append(errs, field.Invalid(np, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlMax, sysctlPattern)))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(np, s.Name))
		}
		// The host's namespaces are not a pod's to tune.
		dotted := strings.ReplaceAll(s.Name, "/", ".")
		if c.spec.HostNetwork && strings.HasPrefix(dotted, "net.") {
			errs = append(errs, field.Invalid(np, s.Name, "may not be specified when 'hostNetwork' is true"))
		}
		if c.spec.HostIPC && isIPCSysctl(dotted) {
			errs = append(errs, field.Invalid(np, s.Name, "may not be specified when 'hostIPC' is true"))
		}
		seen.Insert(s.Name)
	}
	return errs
}

// isIPCSysctl says that a kernel parameter belongs to the IPC namespace, as
// ipc_namespaces(7) lists them.
func isIPCSysctl(name string) bool {
	return name == "kernel.sem" || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || strings.HasPrefix(name, "fs.mqueue.")
}

func (c *checker) securityContext(sc *corev1.SecurityContext, s *field.Path) field.ErrorList {
	if sc == nil {
		return nil
	}
	var errs field.ErrorList
	if sc.RunAsUser != nil {
		errs = append(errs, invalid(s.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))...)
	}
	if sc.RunAsGroup != nil {
		errs = append(errs, invalid(s.Child("runAsGroup"), *sc.RunAsGroup, validation.IsValidGroupID(*sc.RunAsGroup))...)
	}
	if m := sc.ProcMount; m != nil {
		errs = append(errs, check.OneOf(*m, s.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if *m == corev1.UnmaskedProcMount && (c.spec.HostUsers == nil || *c.spec.HostUsers) {
			errs = append(errs, field.Invalid(s.Child("procMount"), *m, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	if e := sc.AllowPrivilegeEscalation; e != nil && !*e {
		if isTrue(sc.Privileged) {
			errs = append(errs, field.Invalid(s, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil {
			for _, add := range sc.Capabilities.Add {
				if add == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(s, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, s.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(sc.AppArmorProfile, s.Child("appArmorProfile"))...)
	return append(errs, validateWindows(sc.WindowsOptions, s.Child("windowsOptions"))...)
}

func validateSeccomp(p *corev1.SeccompProfile, s *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	if p.Type == "" {
		return field.ErrorList{field.Required(s.Child("type"), "type is required when seccompProfile is set")}
	}
	errs := oneOf(p.Type, s.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	local := s.Child("localhostProfile")
	switch {
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		errs = append(errs, validateDescendingPath(*p.LocalhostProfile, local)...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, check.Shown(p), "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func validateAppArmor(p *corev1.AppArmorProfile, s *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	local := s.Child("localhostProfile")
	var errs field.ErrorList
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case p.LocalhostProfile == nil:
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		case strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile:
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "must not be padded with whitespace"))
		case *p.LocalhostProfile == "":
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		case len(*p.LocalhostProfile) > 4095:
			errs = append(errs, field.TooLong(local, *p.LocalhostProfile, 4095))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		errs = append(errs, field.Required(s.Child("type"), "type is required when appArmorProfile is set"))
	default:
		errs = append(errs, field.NotSupported(s.Child("type"), p.Type,
			[]corev1.AppArmorProfileType{corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined}))
	}
	return errs
}

func validateWindows(w *corev1.WindowsSecurityContextOptions, s *field.Path) field.ErrorList {
	if w == nil {
		return nil
	}
	var errs field.ErrorList
	if n := w.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalid(s.Child("gmsaCredentialSpecName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	if g := w.GMSACredentialSpec; g != nil && *g == "" {
		errs = append(errs, field.Invalid(s.Child("gmsaCredentialSpec"), *g, "gmsaCredentialSpec cannot be an empty string"))
	}
	if u := w.RunAsUserName; u != nil {
		for _, m := range windowsUser(*u) {
			errs = append(errs, field.Invalid(s.Child("runAsUserName"), *u, m))
		}
	}
	return errs
}

// The forms of a Windows domain's name, and what a user's may not hold; see
// the API page "Configure RunAsUserName for Windows pods and containers".
const (
	maxWindowsDomain = 256
	maxWindowsUser   = 104
	noWindowsUser    = `"/\:;|=,+*?<>@[]`
)

var (
	netBIOSDomain = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain     = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
)

// windowsUser says what is wrong with a user's name of the form DOMAIN\USER.
func windowsUser(name string) []string {
	if name == "" {
		return []string{"runAsUserName cannot be an empty string"}
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return []string{"runAsUserName cannot contain control characters"}
	}
	parts := strings.Split(name, `\`)
	if len(parts) > 2 {
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	var out []string
	user := parts[len(parts)-1]
	if len(parts) == 2 {
		domain := parts[0]
		if len(domain) >= maxWindowsDomain {
			out = append(out, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDomain))
		}
		if !netBIOSDomain.MatchString(domain) && !dnsDomain.MatchString(domain) {
			out = append(out, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case user == "":
		return append(out, "runAsUserName's User cannot be empty")
	case len(user) > maxWindowsUser:
		out = append(out, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUser))
	}
	if strings.Trim(user, ". ") == "" {
		out = append(out, "runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, noWindowsUser) {
		out = append(out, "runAsUserName's User cannot contain the following characters: "+noWindowsUser)
	}
	return out
}

// hostProcess checks that a Windows pod with processes of the host has
// nothing else in it.
func (c *checker) hostProcess(path *field.Path) field.ErrorList {
	of := func(w *corev1.WindowsSecurityContextOptions) *bool {
		if w == nil {
			return nil
		}
		return w.HostProcess
	}
	var pod *bool
	if sc := c.spec.SecurityContext; sc != nil {
		pod = of(sc.WindowsOptions)
	}
	var errs field.ErrorList
	all, some := true, false
	see := func(sc *corev1.SecurityContext, at *field.Path) {
		value := isTrue(pod)
		if sc != nil {
			if own := of(sc.WindowsOptions); own != nil {
				if pod != nil && *own != *pod {
					errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
						fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod)))
				}
				value = *own
			}
		}
		all, some = all && value, some || value
	}
	for i := range c.spec.InitContainers {
		see(c.spec.InitContainers[i].SecurityContext, path.Child("initContainers").Index(i))
	}
	for i := range c.spec.Containers {
		see(c.spec.Containers[i].SecurityContext, path.Child("containers").Index(i))
	}
	for i := range c.spec.EphemeralContainers {
		see(c.spec.EphemeralContainers[i].SecurityContext, path.Child("ephemeralContainers").Index(i))
	}
	if !some {
		return errs
	}
	if !all {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !c.spec.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// operatingSystem checks that the pod asks for nothing its declared operating
// system lacks.
func (c *checker) operatingSystem(s *field.Path) field.ErrorList {
	os := c.spec.OS
	if os == nil {
		return nil
	}
	errs := oneOfOrEmpty(os.Name, s.Child("os"), corev1.Linux, corev1.Windows)
	if os.Name == "" {
		errs = append(errs, field.Required(s.Child("os", "name"), ""))
	}
	forbid := func(set bool, text string, names ...string) {
		if set {
			p := s
			for _, n := range names {
				p = p.Child(n)
			}
			errs = append(errs, field.Forbidden(p, text))
		}
	}
	pod := c.spec.SecurityContext
	each := func(f func(p *field.Path, sc *corev1.SecurityContext)) {
		for _, l := range []struct {
			name string
			list []corev1.Container
		}{{"containers", c.spec.Containers}, {"initContainers", c.spec.InitContainers}} {
			for i := range l.list {
				if sc := l.list[i].SecurityContext; sc != nil {
					f(s.Child(l.name).Index(i).Child("securityContext"), sc)
				}
			}
		}
	}
	switch os.Name {
	case corev1.Linux:
		const text = "windows options cannot be set for a linux pod"
		forbid(pod != nil && pod.WindowsOptions != nil, text, "securityContext", "windowsOptions")
		each(func(p *field.Path, sc *corev1.SecurityContext) {
			if sc.WindowsOptions != nil {
				errs = append(errs, field.Forbidden(p.Child("windowsOptions"), text))
			}
		})
	case corev1.Windows:
		const text = "cannot be set for a windows pod"
		forbid(c.spec.HostPID, text, "hostPID")
		forbid(c.spec.HostIPC, text, "hostIPC")
		forbid(c.spec.HostUsers != nil, text, "hostUsers")
		forbid(c.spec.ShareProcessNamespace != nil, text, "shareProcessNamespace")
		if pod != nil {
			for name, set := range map[string]bool{
				"appArmorProfile": pod.AppArmorProfile != nil, "seLinuxOptions": pod.SELinuxOptions != nil, "seccompProfile": pod.SeccompProfile != nil,
				"fsGroup": pod.FSGroup != nil, "fsGroupChangePolicy": pod.FSGroupChangePolicy != nil, "sysctls": len(pod.Sysctls) > 0,
				"runAsUser": pod.RunAsUser != nil, "runAsGroup": pod.RunAsGroup != nil,
				"supplementalGroups": pod.SupplementalGroups != nil, "supplementalGroupsPolicy": pod.SupplementalGroupsPolicy != nil,
			} {
				forbid(set, text, "securityContext", name)
			}
		}
		each(func(p *field.Path, sc *corev1.SecurityContext) {
			for name, set := range map[string]bool{
				"appArmorProfile": sc.AppArmorProfile != nil, "seLinuxOptions": sc.SELinuxOptions != nil, "seccompProfile": sc.SeccompProfile != nil,
				"capabilities": sc.Capabilities != nil, "readOnlyRootFilesystem": sc.ReadOnlyRootFilesystem != nil, "privileged": sc.Privileged != nil,
				"allowPrivilegeEscalation": sc.AllowPrivilegeEscalation != nil, "procMount": sc.ProcMount != nil,
				"runAsUser": sc.RunAsUser != nil, "runAsGroup": sc.RunAsGroup != nil,
			} {
				if set {
					errs = append(errs, field.Forbidden(p.Child(name), text))
				}
			}
		})
	}
	return errs
}
