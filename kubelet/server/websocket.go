package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// idleTimeout ends a stream on which nothing happens.
const idleTimeout = 4 * time.Hour

// The channels of the remote command protocols.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
)

// translateCommand takes a WebSocket apart into the streams of a SPDY
// connection to the runtime. That one could take older WebSocket protocols
// itself, but then ends a terminal at once that has no standard input.
func (s *Server) translateCommand(w http.ResponseWriter, r *http.Request, to *url.URL, o streamOptions) {
	// Made before the upgrade: what fails here can still be told as HTTP.
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: to.Host}, http.MethodPost, to)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	kind := func(on bool, k wsstream.ChannelType) wsstream.ChannelType {
		if on {
			return k
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		channelStdin: kind(o.stdin, wsstream.ReadChannel), channelStdout: kind(o.stdout, wsstream.WriteChannel),
		channelStderr: kind(o.stderr, wsstream.WriteChannel), channelError: wsstream.WriteChannel,
		channelResize: kind(o.tty, wsstream.ReadChannel),
	}
	binary, base64 := wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}, wsstream.ChannelProtocolConfig{Channels: channels}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"v5.channel.k8s.io": binary, "v4.channel.k8s.io": binary, "v4.base64.channel.k8s.io": base64,
		"channel.k8s.io": binary, "base64.channel.k8s.io": base64, "": binary,
	})
	conn.SetIdleTimeout(idleTimeout)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		s.log.Debug("cannot open a WebSocket", "err", err)
		return
	}
	defer conn.Close()
	// Clients take an empty message for the sign that they are connected.
	for _, c := range []int{channelStdout, channelStderr, channelError} {
		if channels[c] == wsstream.WriteChannel {
			_, _ = streams[c].Write(nil)
			break
		}
	}
	so := remotecommand.StreamOptions{Tty: o.tty}
	if o.stdin {
		so.Stdin = streams[channelStdin]
	}
	if o.stdout {
		so.Stdout = streams[channelStdout]
	}
	if o.stderr {
		so.Stderr = streams[channelStderr]
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if o.tty {
		so.TerminalSizeQueue = newSizes(ctx, streams[channelResize])
	}
	err = executor.StreamWithContext(ctx, so)
	if !strings.HasPrefix(protocol, "v") { // the first version tells errors as text
		if err != nil {
			_, _ = io.WriteString(streams[channelError], err.Error())
		}
		return
	}
	status, err := json.Marshal(commandStatus(err))
	if err != nil {
		return
	}
	_, _ = streams[channelError].Write(status)
}

// commandStatus is how the end of a command is told on the error channel.
func commandStatus(err error) metav1.Status {
	var code exec.CodeExitError
	var api *apierrors.StatusError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &code):
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: "NonZeroExitCode",
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", err),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(code.Code)}}},
		}
	case errors.As(err, &api):
		return api.ErrStatus
	}
	return apierrors.NewInternalError(err).ErrStatus
}

// sizes hands on the terminal sizes that a client sends.
type sizes chan remotecommand.TerminalSize

func newSizes(ctx context.Context, r io.Reader) sizes {
	c := make(sizes)
	go func() {
		defer close(c)
		dec := json.NewDecoder(r)
		for {
			var size remotecommand.TerminalSize
			if dec.Decode(&size) != nil {
				return
			}
			select {
			case c <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}

// Next waits for another size; nil means that there will be none.
func (c sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-c
	if !ok {
		return nil
	}
	return &size
}

// tunnel carries a SPDY connection for port forwarding inside a WebSocket's
// binary messages to the runtime, which gets it bare.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, to *url.URL) {
	const prefix = "SPDY/3.1+"
	var protocol string
	for _, p := range websocket.Subprotocols(r) {
		if strings.HasPrefix(p, prefix) {
			protocol = p
			break
		}
	}
	backend, err := dialSPDY(r.Context(), to, strings.TrimPrefix(protocol, prefix))
	if err != nil {
		refuse(w, "the container runtime's streaming server: "+err.Error(), http.StatusInternalServerError)
		return
	}
	defer backend.Close()
	// The credential was checked already, so where the page came from that
	// opened it does not matter.
	up := websocket.Upgrader{Subprotocols: []string{protocol}, CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	defer ws.Close()
	var once sync.Once
	done := make(chan struct{})
	end := func() { once.Do(func() { close(done) }) }
	go func() {
		defer end()
		buf := make([]byte, 32<<10)
		for {
			n, err := backend.Read(buf)
			if n > 0 {
				if ws.WriteMessage(websocket.BinaryMessage, buf[:n]) != nil {
					return
				}
			}
			if err != nil {
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
				return
			}
		}
	}()
	go func() {
		defer end()
		for {
			kind, m, err := ws.NextReader()
			if err != nil {
				return
			}
			if kind != websocket.BinaryMessage {
				continue
			}
			if _, err := io.Copy(backend, m); err != nil {
				return
			}
		}
	}()
	select {
	case <-done:
	case <-r.Context().Done():
	}
}

// dialSPDY opens a connection that has switched to SPDY/3.1.
func dialSPDY(ctx context.Context, to *url.URL, protocol string) (io.ReadWriteCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("X-Stream-Protocol-Version", protocol)
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return nil, fmt.Errorf("%s: %s", res.Status, b)
	}
	rw, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be written to", res.Body)
	}
	return rw, nil
}
