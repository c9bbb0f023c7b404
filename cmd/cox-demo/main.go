// Command cox-demo is the web page of the demo image cox.local/demo: it shows
// which pod answered and counts the visits.
//
// Environment: VERSION and COLOR (set by the image's tags), PORT (8080),
// COUNTER: the URL of another demo whose /count is then used as the counter
// shared by all replicas; without it, each pod counts alone.
//
// Paths: / the page, /count adds a visit and answers with the number,
// /healthz for probes.
package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Coxswain demo</title>
<style>body{font:18px system-ui,sans-serif;background:{{.Color}};color:#fff;display:grid;place-items:center;min-height:100vh;margin:0}
main{text-align:center}b{font-size:4em;display:block}code{background:#0003;padding:.2em .5em;border-radius:.3em}</style>
<main><h1>Hello from version {{.Version}}</h1><b>{{.Visits}}</b>visits{{if .Shared}} to all pods{{else}} to this pod{{end}}
<p>answered by <code>{{.Pod}}</code></main></html>
`))

type demo struct {
	version, color, pod, counter string
	visits                       atomic.Int64
	client                       http.Client
}

func main() {
	d := &demo{version: env("VERSION", "dev"), color: env("COLOR", "slategray"), counter: strings.TrimSuffix(os.Getenv("COUNTER"), "/")}
	d.client.Timeout = 2 * time.Second
	d.pod, _ = os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.page)
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, d.visits.Add(1)) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	srv := &http.Server{Addr: ":" + env("PORT", "8080"), Handler: mux, ReadHeaderTimeout: 5 * time.Second}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		// Finish what is being answered; new connections go elsewhere.
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = srv.Shutdown(end)
	}()
	log.Printf("version %s on %s", d.version, srv.Addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-drained
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func (d *demo) page(w http.ResponseWriter, r *http.Request) {
	visits := ""
	if d.counter != "" {
		n, err := d.sharedCount(r.Context())
		if err != nil {
			log.Printf("shared counter: %v", err)
			n = "?"
		}
		visits = n
	} else {
		visits = fmt.Sprint(d.visits.Add(1))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, map[string]any{
		"Version": d.version, "Color": d.color, "Pod": d.pod, "Visits": visits, "Shared": d.counter != "",
	})
}

func (d *demo) sharedCount(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.counter+"/count", nil)
	if err != nil {
		return "", err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", errors.New(res.Status)
	}
	return strings.TrimSpace(string(b)), nil
}
