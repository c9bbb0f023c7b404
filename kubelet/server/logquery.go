package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A query of the node's logs (KEP-2258, the kubelet's enableSystemLogQuery)
// names services, whose logs are the journal's or else in files that are named
// like them, or one file of the log folder.

// maxQueryLines is the most that tailLines may ask for, queryTimeout how long
// the journal may take.
const (
	maxQueryLines = 100_000
	queryTimeout  = 30 * time.Second
)

// serviceName takes what systemd takes for a unit's name.
var serviceName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\@-]{1,255}$`)

// logQuery is what is asked for.
type logQuery struct {
	services     []string
	file         string // below the log folder
	since, until time.Time
	pattern      *regexp.Regexp
	boot         *int // 0 is this one, -1 the one before
	tail         int  // -1: all
}

// parseLogQuery reads a query from a request's parameters; nil without errors
// says that they hold none.
func parseLogQuery(v url.Values) (*logQuery, field.ErrorList) {
	asked := false
	for _, name := range []string{"query", "sinceTime", "untilTime", "pattern", "boot", "tailLines"} {
		asked = asked || v.Has(name)
	}
	if !asked {
		return nil, nil
	}
	q := &logQuery{tail: -1}
	errs := q.what(v["query"])
	bad := func(name, why string) {
		errs = append(errs, field.Invalid(field.NewPath(name), v.Get(name), why))
	}
	for _, t := range []struct {
		name string
		into *time.Time
	}{{"sinceTime", &q.since}, {"untilTime", &q.until}} {
		if v.Get(t.name) == "" {
			continue
		}
		var err error
		if *t.into, err = time.Parse(time.RFC3339, v.Get(t.name)); err != nil {
			bad(t.name, "must be a time as in RFC 3339")
		}
	}
	if !q.since.IsZero() && !q.until.IsZero() && q.until.Before(q.since) {
		bad("untilTime", "must not be before sinceTime")
	}
	if s := v.Get("tailLines"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > maxQueryLines {
			bad("tailLines", fmt.Sprintf("must be between 0 and %d, inclusive", maxQueryLines))
		}
		q.tail = n
	}
	if s := v.Get("boot"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n > 0 {
			bad("boot", "must be an integer of at most 0")
		}
		q.boot = &n
	}
	if s := v.Get("pattern"); s != "" {
		var err error
		if q.pattern, err = regexp.Compile(s); err != nil {
			bad("pattern", "must be a regular expression")
		}
	}
	if q.file != "" && (!q.since.IsZero() || !q.until.IsZero() || q.boot != nil) {
		errs = append(errs, field.Forbidden(field.NewPath("query"), "a file has neither times nor boots"))
	}
	return q, errs
}

// what reads the names of services, or of one file.
func (q *logQuery) what(names []string) field.ErrorList {
	at := field.NewPath("query")
	for _, name := range names {
		switch {
		case name == "":
		case strings.ContainsRune(name, '/'):
			clean := strings.TrimPrefix(path.Clean("/"+name), "/")
			if q.file != "" || len(q.services) > 0 || clean == "" {
				return field.ErrorList{field.Invalid(at, names, "must be services or one file")}
			}
			q.file = clean
		case q.file != "":
			return field.ErrorList{field.Invalid(at, names, "must be services or one file")}
		case !serviceName.MatchString(name):
			return field.ErrorList{field.Invalid(at, name, "must be the name of a service")}
		default:
			q.services = append(q.services, name)
		}
	}
	if q.file == "" && len(q.services) == 0 {
		return field.ErrorList{field.Required(at, "must name services or a file")}
	}
	return nil
}

// queryLogs answers a request that is a query; false says that it is none.
func (s *Server) queryLogs(w http.ResponseWriter, r *http.Request, root *os.Root) bool {
	q, errs := parseLogQuery(r.URL.Query())
	if q == nil {
		return false
	}
	if r.URL.Path != "/logs/" {
		refuse(w, "path not allowed in query mode", http.StatusNotAcceptable)
		return true
	}
	if len(errs) > 0 {
		refuse(w, errs.ToAggregate().Error(), http.StatusBadRequest)
		return true
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if q.file != "" {
		switch err := q.copyFile(w, root, q.file); {
		case errors.Is(err, fs.ErrNotExist):
			refuse(w, "no such file in the log folder: "+q.file, http.StatusNotFound)
		case err != nil:
			refuse(w, "the file cannot be read: "+q.file, http.StatusBadRequest)
		}
		return true
	}
	for _, service := range q.services {
		if err := s.serviceLog(ctx, w, root, q, service); err != nil {
			fmt.Fprintf(w, "\nfailed to get the logs of %s: %v\n", service, err)
		}
	}
	return true
}

// serviceLog writes what a service has logged: to the journal, or else to the
// first there is of NAME, NAME.log and NAME/NAME.log in the log folder.
func (s *Server) serviceLog(ctx context.Context, w io.Writer, root *os.Root, q *logQuery, service string) error {
	journal, err := exec.LookPath(s.cfg.Journal)
	if err == nil {
		known, err := exec.CommandContext(ctx, journal, "--quiet", "--no-pager", "--output=cat", "--lines=1", "--unit="+service).Output()
		if err == nil && len(bytes.TrimSpace(known)) > 0 {
			c := exec.CommandContext(ctx, journal, q.journalArgs(service)...)
			c.Stdout, c.Stderr = w, w
			return c.Run()
		}
	}
	for _, name := range []string{service, service + ".log", service + "/" + service + ".log"} {
		info, err := root.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if !q.since.IsZero() || !q.until.IsZero() || q.boot != nil {
			return errors.New("it logs to a file, which has neither times nor boots")
		}
		return q.copyFile(w, root, name)
	}
	return errors.New("neither the journal nor the log folder has any")
}

// journalArgs are the arguments of journalctl for what is asked for.
func (q *logQuery) journalArgs(service string) []string {
	const layout = "2006-01-02 15:04:05"
	args := []string{"--utc", "--no-pager", "--output=short-precise", "--unit=" + service}
	if !q.since.IsZero() {
		args = append(args, "--since="+q.since.UTC().Format(layout)+" UTC")
	}
	if !q.until.IsZero() {
		args = append(args, "--until="+q.until.UTC().Format(layout)+" UTC")
	}
	if q.tail >= 0 {
		args = append(args, "--lines="+strconv.Itoa(q.tail))
	}
	if q.boot != nil {
		args = append(args, "--boot="+strconv.Itoa(*q.boot))
	}
	if q.pattern != nil {
		args = append(args, "--grep="+q.pattern.String())
	}
	return args
}

// copyFile writes the lines of a regular file that match the pattern, or the
// last of them. Nothing is written before an error of opening it.
func (q *logQuery) copyFile(w io.Writer, root *os.Root, name string) error {
	info, err := root.Stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for
		return fmt.Errorf("%s: %w", name, fs.ErrInvalid)
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if q.pattern == nil && q.tail < 0 {
		_, err := io.Copy(w, f)
		return err
	}
	var last [][]byte // the lines that are kept, the oldest at next
	next := 0
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 && (q.pattern == nil || q.pattern.Match(bytes.TrimSuffix(line, []byte("\n")))) {
			switch {
			case q.tail < 0:
				if _, err := w.Write(line); err != nil {
					return err
				}
			case len(last) < q.tail:
				last = append(last, line)
			case q.tail > 0:
				last[next], next = line, (next+1)%q.tail
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for i := range last {
		if _, err := w.Write(last[(next+i)%len(last)]); err != nil {
			return err
		}
	}
	return nil
}
