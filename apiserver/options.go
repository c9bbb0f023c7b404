package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/client"
)

// parseOptions reads the query options of a verb, all but those that the body
// of a delete replaces. Errors are 400 and 422.
func parseOptions(q url.Values, verb client.Verb) (o client.Options, err error) {
	p := &params{q: q}
	switch verb {
	case client.Get:
		o.ResourceVersion = q.Get("resourceVersion")
	case client.List, client.Watch, client.DeleteCollection:
		p.selection(&o)
	}
	switch verb {
	case client.Create, client.Update, client.Patch:
		o.FieldManager, o.FieldValidation = q.Get("fieldManager"), q.Get("fieldValidation")
		if f := p.bool("force"); f != nil {
			o.Force = *f
		}
	case client.Delete, client.DeleteCollection:
		return o, p.err
	}
	if dry, ok := q["dryRun"]; ok {
		o.DryRun = p.dryRun(dry, verb)
	}
	return o, p.err
}

// parseDeleteOptions reads the query options of a delete that has no body.
func parseDeleteOptions(q url.Values, o *client.Options) error {
	p := &params{q: q}
	p.preconditions(o)
	o.GracePeriodSeconds = p.int("gracePeriodSeconds")
	o.OrphanDependents = p.bool("orphanDependents")
	if v, ok := q["propagationPolicy"]; ok {
		pp := metav1.DeletionPropagation(v[0])
		o.PropagationPolicy = &pp
	}
	if dry, ok := q["dryRun"]; ok {
		o.DryRun = p.dryRun(dry, client.Delete)
	}
	return p.err
}

// params reads typed values and keeps the first error.
type params struct {
	q   url.Values
	err error
}

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = apierrors.NewBadRequest(err.Error())
	}
}

func (p *params) selection(o *client.Options) {
	q := p.q
	o.ResourceVersion = q.Get("resourceVersion")
	o.ResourceVersionMatch = metav1.ResourceVersionMatch(q.Get("resourceVersionMatch"))
	o.Continue = q.Get("continue")
	if n := p.int("limit"); n != nil {
		o.Limit = *n
	}
	o.TimeoutSeconds = p.int("timeoutSeconds")
	if b := p.bool("allowWatchBookmarks"); b != nil {
		o.AllowWatchBookmarks = *b
	}
	o.SendInitialEvents = p.bool("sendInitialEvents")
	if v := q.Get("labelSelector"); v != "" {
		sel, err := labels.Parse(v)
		if err != nil {
			p.fail(err)
		}
		o.LabelSelector = sel
	}
	if v := q.Get("fieldSelector"); v != "" {
		sel, err := fields.ParseSelector(v)
		if err != nil {
			p.fail(err)
		}
		o.FieldSelector = sel
	}
}

// preconditions are the parameters that a delete fails by, as upstream reads
// them: those of a collection's delete hold for each of its objects.
func (p *params) preconditions(o *client.Options) {
	uid, version := p.q.Get("uid"), p.q.Get("resourceVersion")
	if uid == "" && version == "" {
		return
	}
	o.Preconditions = &metav1.Preconditions{}
	if uid != "" {
		o.Preconditions.UID = (*types.UID)(&uid)
	}
	if version != "" {
		o.Preconditions.ResourceVersion = &version
	}
}

func (p *params) int(key string) *int64 {
	v := p.q.Get(key)
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		p.fail(err)
	}
	return &n
}

func (p *params) bool(key string) *bool {
	v, ok := p.q[key]
	if !ok || len(v) == 0 {
		return nil
	}
	b := isTrue(p.q, key)
	return &b
}

// dryRun refuses what is not "All".
func (p *params) dryRun(values []string, verb client.Verb) bool {
	errs := metavalidation.ValidateDryRun(field.NewPath("dryRun"), values)
	if len(errs) > 0 && p.err == nil {
		kind := map[client.Verb]string{client.Create: "CreateOptions", client.Update: "UpdateOptions", client.Patch: "PatchOptions"}[verb]
		if kind == "" {
			kind = "DeleteOptions"
		}
		p.err = apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
	}
	return len(values) > 0
}

// deleteOptions puts the body of a DELETE into the request's options; the query
// then says nothing.
func deleteOptions(o *client.Options, d *metav1.DeleteOptions) error {
	o.GracePeriodSeconds, o.OrphanDependents, o.PropagationPolicy = d.GracePeriodSeconds, d.OrphanDependents, d.PropagationPolicy
	o.Preconditions = d.Preconditions
	p := &params{}
	if len(d.DryRun) > 0 {
		o.DryRun = p.dryRun(d.DryRun, client.Delete)
	}
	return p.err
}

// connectOptions reads the query of a streamed subresource into its options
// object, by the names in the object's JSON form.
func connectOptions(q url.Values, into runtime.Object) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := q[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := setField(v.Field(i), values); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("parameter %q: %v", name, err))
		}
	}
	return nil
}

func setField(f reflect.Value, values []string) error {
	switch f.Kind() {
	case reflect.Pointer:
		if _, ok := f.Interface().(*metav1.Time); ok {
			t, err := time.Parse(time.RFC3339, values[0])
			if err != nil {
				return err
			}
			f.Set(reflect.ValueOf(&metav1.Time{Time: t}))
			return nil
		}
		f.Set(reflect.New(f.Type().Elem()))
		return setField(f.Elem(), values)
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool:
		f.SetBool(isTrue(url.Values{"v": values}, "v"))
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			return err
		}
		f.SetInt(n)
	case reflect.Slice:
		out := reflect.MakeSlice(f.Type(), len(values), len(values))
		for i := range values {
			if err := setField(out.Index(i), values[i:i+1]); err != nil {
				return err
			}
		}
		f.Set(out)
	}
	return nil
}
