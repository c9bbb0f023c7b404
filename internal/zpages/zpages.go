// Package zpages answers a component's /statusz and /flagz (KEP-4827, KEP-4828):
// who it is, since when it runs and by which flags, as text for people and, on
// request, as Statusz and Flagz of config.k8s.io.
package zpages

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	group   = "config.k8s.io"
	current = "v1beta1"
	former  = "v1alpha1"
)

const warning = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only."

// Component is one of the programs of a cluster. It is safe for concurrent use.
type Component struct {
	Name    string // such as kubelet
	Version string // such as v1.36.2
	Started time.Time
	// Paths are those that /statusz lists, Flags what /flagz shows by name.
	// Values that are secrets must have been replaced.
	Paths []string
	Flags map[string]string
}

type object struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

type statusz struct {
	object
	StartTime        metav1.Time `json:"startTime"`
	UptimeSeconds    int64       `json:"uptimeSeconds"`
	GoVersion        string      `json:"goVersion"`
	BinaryVersion    string      `json:"binaryVersion"`
	EmulationVersion string      `json:"emulationVersion"`
	Paths            []string    `json:"paths,omitempty"`
}

type flagz struct {
	object
	Flags map[string]string `json:"flags,omitempty"`
}

// Statusz answers /statusz.
func (c Component) Statusz(w http.ResponseWriter, r *http.Request) {
	up := time.Since(c.Started).Truncate(time.Second)
	binary := strings.TrimPrefix(c.Version, "v")
	s := &statusz{
		StartTime: metav1.NewTime(c.Started), UptimeSeconds: int64(up.Seconds()), GoVersion: runtime.Version(),
		BinaryVersion: binary, EmulationVersion: minor(binary), Paths: slices.Sorted(slices.Values(c.Paths)),
	}
	var text strings.Builder
	c.head(&text, "statusz")
	fmt.Fprintf(&text, "Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n",
		c.Started.UTC().Format(time.UnixDate), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60,
		s.GoVersion, s.BinaryVersion, s.EmulationVersion, strings.Join(s.Paths, " "))
	c.answer(w, r, "Statusz", &s.object, s, text.String())
}

// Flagz answers /flagz.
func (c Component) Flagz(w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	c.head(&text, "flagz")
	names := make([]string, 0, len(c.Flags))
	for name := range c.Flags {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&text, "%s=%s\n", name, c.Flags[name])
	}
	f := &flagz{Flags: c.Flags}
	c.answer(w, r, "Flagz", &f.object, f, text.String())
}

func (c Component) head(text *strings.Builder, page string) {
	fmt.Fprintf(text, "\n%s %s\n%s\n\n", c.Name, page, warning)
}

// minor is "1.36" of "1.36.2".
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// answer writes a page in the form that the request accepts; head is v's own.
func (c Component) answer(w http.ResponseWriter, r *http.Request, kind string, head *object, v any, text string) {
	form, version := accepted(r.Header.Values("Accept"), kind)
	w.Header().Set("Cache-Control", "no-cache, private")
	if form == "text/plain" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(text))
		return
	}
	code, contentType := http.StatusOK, form
	if form == "" {
		code, contentType = http.StatusNotAcceptable, "application/json"
		v = &metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Message: "only the following media types are accepted: application/json, application/yaml, text/plain",
			Reason:  metav1.StatusReasonNotAcceptable, Code: http.StatusNotAcceptable,
		}
		if strings.HasPrefix(strings.TrimSpace(r.Header.Get("Accept")), "application/yaml") {
			form, contentType = "application/yaml", "application/yaml" // who asked for YAML is refused in YAML
		}
	} else {
		contentType += fmt.Sprintf(";g=%s;v=%s;as=%s", group, version, kind)
		head.Kind, head.APIVersion, head.Metadata.Name = kind, group+"/"+version, c.Name
		if version == former {
			w.Header().Set("Warning", fmt.Sprintf("299 - %q", "This version of the "+strings.ToLower(kind)+" endpoint is deprecated. Please use a newer version."))
		}
	}
	body, err := json.MarshalIndent(v, "", "  ")
	if err == nil && form == "application/yaml" {
		body, err = yaml.JSONToYAML(body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// accepted chooses the first form that a request names: text, or JSON or YAML
// of a version, which has to name the kind too; "" for none.
func accepted(headers []string, kind string) (form, version string) {
	if len(headers) == 0 {
		return "text/plain", ""
	}
	for _, part := range strings.Split(strings.Join(headers, ","), ",") {
		name, p, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		switch name {
		case "*/*", "text/*", "text/plain":
			return "text/plain", ""
		case "application/json", "application/yaml":
			if p["g"] == group && p["as"] == kind && (p["v"] == current || p["v"] == former) {
				return name, p["v"]
			}
		}
	}
	return "", ""
}
