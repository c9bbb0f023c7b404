package apiserver

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/client"
)

// FuzzOptions: query parameters are read, or refused with a Status; a selector
// selects the same when it is written and read again.
func FuzzOptions(f *testing.F) {
	for _, q := range []string{
		"labelSelector=a%20in%20(b,c),!d,e%3E5,f!%3Dg&fieldSelector=metadata.name%21%3Dx,a%3D%3Db%5C%2C", "limit=-1&continue=x&timeoutSeconds=9999999999999999999&sendInitialEvents=maybe",
		"dryRun=All&dryRun=x&force=&fieldManager=%00&fieldValidation=Strict", "gracePeriodSeconds=x&propagationPolicy=&orphanDependents=0&uid=a&resourceVersion=b",
		"command=a&command=b&stdin=1&tty=TRUE&container=c", "sinceTime=2020-01-01T00:00:00Z&tailLines=3&limitBytes=-1&follow", "ports=80&ports=x&ports=99999999999", "path=../..", "%zz;&=&",
	} {
		f.Add(q)
	}
	verbs := []client.Verb{client.Get, client.List, client.Watch, client.Create, client.Update, client.Patch, client.Delete, client.DeleteCollection}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		for _, verb := range verbs {
			o, err := parseOptions(q, verb)
			if err != nil {
				if apierrors.ReasonForError(err) == "" {
					t.Errorf("%s %q: no Status: %v", verb, text, err)
				}
				continue
			}
			if s := o.LabelSelector; s != nil {
				again, err := labels.Parse(s.String())
				if set := (labels.Set{"a": "b", "e": "6"}); err != nil || again.Matches(set) != s.Matches(set) || again.Matches(labels.Set{}) != s.Matches(labels.Set{}) {
					t.Errorf("%q is the selector %q, and then %q (%v)", text, s, again, err)
				}
			}
			if s := o.FieldSelector; s != nil {
				again, err := fields.ParseSelector(s.String())
				if set := (fields.Set{"metadata.name": "x"}); err != nil || again.Matches(set) != s.Matches(set) {
					t.Errorf("%q is the selector %q, and then %q (%v)", text, s, again, err)
				}
			}
		}
		for _, into := range []runtime.Object{&corev1.PodExecOptions{}, &corev1.PodLogOptions{}, &corev1.PodPortForwardOptions{}, &corev1.ServiceProxyOptions{}} {
			if err := connectOptions(q, into); err != nil && !apierrors.IsBadRequest(err) {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

// FuzzImpersonation: whoever is named, each way to act as them takes the
// permission to be this one, and none but that without bounds makes a master.
func FuzzImpersonation(f *testing.F) {
	f.Add("system:node:a", "", "", "", "")
	f.Add("system:serviceaccount:a:b", "", "", "", "")
	f.Add("ann", "7", "system:masters", "a.b/c", "d")
	f.Add("", "", "g", "", "")
	f.Add("system:anonymous", "", "system:unauthenticated", "%zz", "")
	f.Fuzz(func(t *testing.T, name, uid, group, key, value string) {
		h := http.Header{}
		for k, v := range map[string]string{"Impersonate-User": name, "Impersonate-Uid": uid, "Impersonate-Group": group, "Impersonate-Extra-" + key: value} {
			if v != "" {
				h.Set(k, v)
			}
		}
		want, err := wanted(h)
		if err != nil {
			if !apierrors.IsBadRequest(err) || name != "" {
				t.Errorf("%v: %v", h, err)
			}
			return
		}
		if want == nil {
			return
		}
		for _, way := range impersonations(client.User{Name: "asker", Extra: map[string][]string{nodeOfToken: {"a"}}}, *want) {
			if len(way.whom) == 0 || way.as.Name != name {
				t.Errorf("%v: %+v", h, way)
			}
			forbidden := false
			for _, p := range way.whom {
				forbidden = forbidden || p.never != ""
			}
			for _, g := range way.as.Groups {
				if g == "system:masters" && way.mode != asAnyone && !forbidden {
					t.Errorf("%v: %s makes a master", h, way.mode)
				}
			}
			if len(way.as.Groups) == 0 || strings.HasPrefix(way.mode, "associated") && name != "system:node:a" {
				t.Errorf("%v: %+v", h, way)
			}
		}
	})
}
