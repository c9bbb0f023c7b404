package wire

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// StatusHead is the head of every metav1.Status.
var StatusHead = NewHead(schema.GroupVersionKind{Version: "v1", Kind: "Status"})

func statusError(code int32, reason metav1.StatusReason, msg string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: msg,
	}}
}

// Status is the status with which an error is answered. Errors that are no
// API status are a 500 that shows their text.
func Status(err error) *metav1.Status {
	var st apierrors.APIStatus
	if errors.As(err, &st) {
		s := st.Status()
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		s.TypeMeta = metav1.TypeMeta{}
		return &s
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s := apierrors.NewTimeoutError("request did not complete within requested timeout - context deadline exceeded", 0).Status()
		return &s
	case errors.Is(err, context.Canceled):
		s := apierrors.NewTimeoutError("request did not complete within requested timeout - context canceled", 0).Status()
		return &s
	}
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// Success is the status that ends a request which has no object to show.
func Success(details *metav1.StatusDetails) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Details: details}
}

func reset(obj runtime.Object) {
	v := reflect.ValueOf(obj).Elem()
	v.Set(reflect.Zero(v.Type()))
}

// Fail answers a request with an error, in the format that the client accepts.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	a, ok := Negotiate(r.Header.Get("Accept"), func(a Accept) bool { return a.As == "" || a.Media == JSON })
	if !ok {
		a = Accept{}
	}
	st := Status(err)
	if d := st.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	readable(st, a.Media)
	if n, ok := w.(interface{ Refused(*metav1.Status) }); ok {
		n.Refused(st) // who writes records of answers
	}
	body, encErr := new(Codec).Body(a.Media, st)
	if encErr == nil {
		var pieces [][]byte
		if pieces, encErr = StatusHead.Message(a.Media, Body{Bytes: body}); encErr == nil {
			Respond(w, r, int(st.Code), a.Media.String(), pieces, Pretty(r, a))
			return
		}
	}
	http.Error(w, st.Message, int(st.Code))
}

// readable replaces what is no text in the parts of a status that repeat the
// request: not every encoding can carry it.
func readable(st *metav1.Status, m Media) {
	const unreadable = "\ufffd"
	text := func(s string) string { return strings.ToValidUTF8(s, unreadable) }
	if m == YAML { // which has no characters that control
		text = func(s string) string {
			return strings.Map(func(r rune) rune {
				if r == utf8.RuneError || r != '\n' && r != '\t' && !unicode.IsGraphic(r) {
					return utf8.RuneError
				}
				return r
			}, s)
		}
	}
	st.Message = text(st.Message)
	d := st.Details
	if d == nil {
		return
	}
	clean := *d
	clean.Name, clean.Kind, clean.Group = text(d.Name), text(d.Kind), text(d.Group)
	clean.Causes = slices.Clone(d.Causes)
	for i := range clean.Causes {
		c := &clean.Causes[i]
		c.Message, c.Field = text(c.Message), text(c.Field)
	}
	st.Details = &clean
}
