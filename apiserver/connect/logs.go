package connect

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// logs streams a container's log from its kubelet.
func (c *connector) logs(w http.ResponseWriter, r *http.Request, req *client.Request, opts runtime.Object, _ string) {
	o := opts.(*corev1.PodLogOptions)
	if errs := checkLogOptions(o); len(errs) > 0 {
		wire.Fail(w, r, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), req.Name, errs))
		return
	}
	pod, err := c.pod(r.Context(), req)
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	name, err := container(pod, o.Container)
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	if pod.Spec.NodeName == "" {
		w.WriteHeader(http.StatusOK) // nothing has run yet
		return
	}
	to, err := c.kubeletURL(r.Context(), pod, fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, name), logQuery(o))
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	c.copyLog(w, r, pod, to)
}

func (c *connector) copyLog(w http.ResponseWriter, r *http.Request, pod *corev1.Pod, to *url.URL) {
	out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to.String(), nil)
	if err != nil {
		wire.Fail(w, r, apierrors.NewInternalError(err))
		return
	}
	resp, err := c.kubelet.RoundTrip(out)
	if err != nil {
		wire.Fail(w, r, apierrors.NewInternalError(err))
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		wire.Fail(w, r, kubeletError(resp, pod.Name))
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		// Buffered, since the library drops what it reads together with EOF.
		body := bufio.NewReader(resp.Body)
		if err := wsstream.NewReader(body, true, wsstream.NewDefaultReaderProtocols()).Copy(w, r); err != nil {
			c.log.Debug("a log's WebSocket ended", "pod", pod.Name, "err", err)
		}
		return
	}
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil || flush.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// kubeletError passes a kubelet's refusal on as an API status.
func kubeletError(resp *http.Response, name string) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 50000))
	text := string(b)
	switch resp.StatusCode {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(fmt.Errorf("%s", text))
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, http.MethodGet, podResource, name, text, 0, false)
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	flag := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	flag("follow", o.Follow)
	flag("previous", o.Previous)
	flag("timestamps", o.Timestamps)
	number("sinceSeconds", o.SinceSeconds)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.UTC().Format(time.RFC3339))
	}
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}

func checkLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if s := o.Stream; s != nil {
		switch *s {
		case corev1.LogStreamAll:
		case corev1.LogStreamStdout, corev1.LogStreamStderr:
			if o.TailLines != nil {
				errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
			}
		default:
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *s,
				[]string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
		}
	}
	return errs
}
