// Package wire turns API objects into bytes and back: Accept and Content-Type
// headers and objects go in, bodies, watch frames and HTTP answers come out.
// An object's body is encoded without its kind and apiVersion, so that one
// cached encoding serves a get, a list and a watch alike.
package wire

import (
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Media is a wire format.
type Media int

// The wire formats.
const (
	JSON Media = iota
	YAML
	Protobuf
)

// The media types as they stand in headers.
const (
	TypeJSON     = "application/json"
	TypeYAML     = "application/yaml"
	TypeProtobuf = "application/vnd.kubernetes.protobuf"
)

// MediaTypes lists the media types that the server reads and writes, in the
// order in which error messages name them.
func MediaTypes() []string { return []string{TypeJSON, TypeYAML, TypeProtobuf} }

// String is the media type.
func (m Media) String() string {
	switch m {
	case YAML:
		return TypeYAML
	case Protobuf:
		return TypeProtobuf
	}
	return TypeJSON
}

// Accept is one clause of an Accept header: a format and, optionally, another
// kind that the client wants to see instead of the object.
type Accept struct {
	Media Media
	// As is the kind asked for (Table, PartialObjectMetadata,
	// PartialObjectMetadataList, APIGroupDiscoveryList), in Group and Version.
	As, Group, Version string
	// Pretty asks for indented JSON.
	Pretty bool
	// Stream is the value of the stream parameter ("watch").
	Stream string
}

// StreamTypes lists the media types in which a watch is sent.
func StreamTypes() []string {
	return []string{TypeJSON + ";stream=watch", TypeProtobuf + ";stream=watch"}
}

// Routed says whether an Accept header has a clause for one of the media types
// or for all there are (*/*). Upstream's built-in paths ask this before they
// look at a clause's parameters, and know neither application/* nor capitals.
func Routed(header string, types ...string) bool {
	if header == "" {
		return true
	}
	for rest := header; rest != ""; {
		var clause string
		clause, rest, _ = strings.Cut(rest, ",")
		media, _, _ := strings.Cut(clause, ";")
		if media = strings.TrimSpace(media); media == "*/*" || slices.Contains(types, media) {
			return true
		}
	}
	return false
}

// Negotiate picks the first clause of an Accept header, best quality first,
// that has a known format and that allow accepts; one of quality 0 comes last.
// An absent header is JSON. The result is false when nothing fits.
func Negotiate(header string, allow func(Accept) bool) (Accept, bool) {
	if header == "" {
		a := Accept{}
		return a, allow(a)
	}
	if !strings.Contains(header, "q=") {
		for rest := header; rest != ""; {
			var clause string
			clause, rest, _ = strings.Cut(rest, ",")
			if a, _, ok := parseClause(clause); ok && allow(a) {
				return a, true
			}
		}
		return Accept{}, false
	}
	type rated struct {
		Accept
		q float64
	}
	var all []rated
	for _, clause := range strings.Split(header, ",") {
		if a, q, ok := parseClause(clause); ok {
			all = append(all, rated{a, q})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].q > all[j].q })
	for _, r := range all {
		if allow(r.Accept) {
			return r.Accept, true
		}
	}
	return Accept{}, false
}

func parseClause(s string) (a Accept, q float64, ok bool) {
	q = 1
	media, params, _ := strings.Cut(s, ";")
	switch strings.TrimSpace(media) {
	case TypeJSON, "*/*", "application/*":
	case TypeYAML:
		a.Media = YAML
	case TypeProtobuf:
		a.Media = Protobuf
	default:
		return a, 0, false
	}
	for params != "" {
		var p string
		p, params, _ = strings.Cut(params, ";")
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch k {
		case "as":
			a.As = v
		case "g":
			a.Group = v
		case "v":
			a.Version = v
		case "pretty":
			a.Pretty = v == "1" || v == "true"
		case "stream":
			a.Stream = v
		case "q":
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				q = f
			}
		}
	}
	return a, q, a.whole()
}

// whole says whether a clause's parameters make sense together: a group or
// version without a kind names nothing, and there are no streams but watches,
// which YAML has none of.
func (a Accept) whole() bool {
	if a.As == "" && (a.Group != "" || a.Version != "") {
		return false
	}
	return a.Stream == "" || a.Stream == "watch" && a.Media != YAML
}

// ContentType maps a request's Content-Type to a format; an absent header is
// JSON. The result is false for a type that the server does not read.
func ContentType(header string) (Media, bool) {
	if header == "" {
		return JSON, true
	}
	media, _, _ := strings.Cut(header, ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case TypeJSON:
		return JSON, true
	case TypeYAML:
		return YAML, true
	case TypeProtobuf:
		return Protobuf, true
	}
	return 0, false
}
