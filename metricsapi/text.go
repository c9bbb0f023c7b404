package metricsapi

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// sample is a line of the Prometheus text format.
type sample struct {
	name   string
	labels map[string]string
	value  float64
	at     time.Time // zero if the line does not say
}

// samples calls f for every line of an exposition in the Prometheus text
// format, version 0.0.4. It ends at the first line that it cannot read.
func samples(r io.Reader, f func(sample)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 16<<10), 1<<20)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parse(line)
		if err != nil {
			return err
		}
		f(s)
	}
	return sc.Err()
}

func parse(line string) (s sample, err error) {
	bad := func() (sample, error) { return s, fmt.Errorf("not a metric: %.100q", line) }
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return bad()
	}
	rest := line[end:]
	s.name = line[:end]
	if rest[0] == '{' {
		var ok bool
		if s.labels, rest, ok = readLabels(rest[1:]); !ok {
			return bad()
		}
	}
	words := strings.Fields(rest)
	if len(words) != 1 && len(words) != 2 {
		return bad()
	}
	if s.value, err = strconv.ParseFloat(words[0], 64); err != nil {
		return bad()
	}
	if len(words) == 2 {
		ms, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return bad()
		}
		s.at = time.UnixMilli(ms)
	}
	return s, nil
}

// readLabels reads what stands between the braces, and returns what follows them.
func readLabels(in string) (map[string]string, string, bool) {
	out := map[string]string{}
	for {
		in = strings.TrimLeft(in, " \t,")
		if rest, ok := strings.CutPrefix(in, "}"); ok {
			return out, rest, true
		}
		name, rest, ok := strings.Cut(in, "=")
		if rest = strings.TrimLeft(rest, " \t"); !ok || rest == "" || rest[0] != '"' {
			return nil, "", false
		}
		var value strings.Builder
		i := 1
		for ; i < len(rest) && rest[i] != '"'; i++ {
			c := rest[i]
			if c == '\\' && i+1 < len(rest) {
				if i++; rest[i] == 'n' {
					c = '\n'
				} else {
					c = rest[i]
				}
			}
			value.WriteByte(c)
		}
		if i == len(rest) {
			return nil, "", false
		}
		out[strings.TrimSpace(name)], in = value.String(), rest[i+1:]
	}
}
