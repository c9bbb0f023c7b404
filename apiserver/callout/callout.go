// Package callout asks the servers that a kubeconfig file names (webhooks of
// authentication, authorization and audit): a value goes out as JSON, the
// answer comes in.
package callout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4 << 20

// Retry says how often a question is asked again that met no answer, an
// overloaded server or one in trouble. The zero value asks once.
type Retry struct {
	Steps  int           // attempts altogether
	First  time.Duration // the pause after the first
	Factor float64       // by which later ones are longer
}

// Default is what webhooks of authentication and authorization get.
var Default = Retry{Steps: 5, First: 500 * time.Millisecond, Factor: 1.5}

// Error is an answer that is not a success. Its text is not kept: it can
// repeat the question, which may hold a secret.
type Error struct {
	Code  int
	after time.Duration
}

func (e *Error) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Code, http.StatusText(e.Code))
}

// again says whether asking again may help.
func (e *Error) again() bool {
	return e.Code == http.StatusTooManyRequests || e.Code >= 500 || e.after > 0
}

// Ask posts question and decodes the answer into answer (nil: whatever it is).
// Every attempt ends with ctx. It is safe for concurrent use.
func (t *Target) Ask(ctx context.Context, question, answer any, retry Retry) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	pause := retry.First
	for attempt := 1; ; attempt++ {
		err := t.once(ctx, body, answer)
		var said *Error
		if err == nil || ctx.Err() != nil || attempt >= retry.Steps || errors.As(err, &said) && !said.again() || errors.Is(err, errAnswer) {
			return err
		}
		wait := pause + time.Duration(rand.Float64()*0.2*float64(pause))
		if said != nil && said.after > 0 {
			wait = said.after
		}
		pause = time.Duration(float64(pause) * retry.Factor)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

var errAnswer = errors.New("the answer is not what was asked for")

func (t *Target) once(ctx context.Context, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "cox")
	if err := t.cred.Authorize(req); err != nil {
		return err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case len(data) > maxAnswer:
		return fmt.Errorf("%w: it is longer than %d bytes", errAnswer, maxAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return refused(res)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return errAnswer // the text of err can quote it
	}
	return nil
}

func refused(res *http.Response) error {
	e := &Error{Code: res.StatusCode}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = time.Duration(min(s, 60)) * time.Second
	}
	return e
}
