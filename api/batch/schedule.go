package batch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// bounds are the values of one field of a schedule, with the names that may
// stand for some of them.
type bounds struct {
	low, high int
	names     []string // of low, low+1, ...
}

// The five fields of a schedule, in order: minute, hour, day of the month,
// month, day of the week.
func scheduleFields() [5]bounds {
	return [5]bounds{
		{0, 59, nil}, {0, 23, nil}, {1, 31, nil},
		{1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// checkSchedule says what is wrong with the schedule of a cron job, in the
// cron syntax that the API documents: five fields, "@hourly" and the like, or
// "@every 1h30m"; a time zone ("TZ=UTC ...") may precede it.
func checkSchedule(spec string) error {
	if spec == "" {
		return fmt.Errorf("empty spec string")
	}
	if strings.HasPrefix(spec, "TZ=") || strings.HasPrefix(spec, "CRON_TZ=") {
		zone, rest, found := strings.Cut(spec, " ")
		_, name, _ := strings.Cut(zone, "=")
		if _, err := time.LoadLocation(name); err != nil {
			return fmt.Errorf("provided bad location %s: %v", name, err)
		}
		if !found {
			rest = ""
		}
		spec = strings.TrimSpace(rest)
	}
	if strings.HasPrefix(spec, "@") {
		return checkDescriptor(spec)
	}
	parts := strings.Fields(spec)
	if len(parts) != 5 {
		return fmt.Errorf("expected exactly 5 fields, found %d: %s", len(parts), parts)
	}
	for i, b := range scheduleFields() {
		for _, expr := range strings.Split(parts[i], ",") {
			if err := b.check(expr); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkDescriptor(spec string) error {
	switch spec {
	case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
		return nil
	}
	if every, ok := strings.CutPrefix(spec, "@every "); ok {
		if _, err := time.ParseDuration(every); err != nil {
			return fmt.Errorf("failed to parse duration %s: %s", spec, err)
		}
		return nil
	}
	return fmt.Errorf("unrecognized descriptor: %s", spec)
}

// check reads one expression: "*", "?", a number, "low-high", each with an
// optional "/step".
func (b bounds) check(expr string) error {
	rangeAndStep := strings.Split(expr, "/")
	lowAndHigh := strings.Split(rangeAndStep[0], "-")
	single := len(lowAndHigh) == 1
	var low, high int
	var err error
	if lowAndHigh[0] == "*" || lowAndHigh[0] == "?" {
		low, high = b.low, b.high
	} else {
		if low, err = b.value(lowAndHigh[0]); err != nil {
			return err
		}
		switch len(lowAndHigh) {
		case 1:
			high = low
		case 2:
			if high, err = b.value(lowAndHigh[1]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("too many hyphens: %s", expr)
		}
	}
	switch len(rangeAndStep) {
	case 1:
	case 2:
		step, err := number(rangeAndStep[1])
		if err != nil {
			return err
		}
		if single {
			high = max(high, b.high) // "5/15" is "5-59/15"
		}
		if step == 0 {
			return fmt.Errorf("step of range should be a positive number: %s", expr)
		}
	default:
		return fmt.Errorf("too many slashes: %s", expr)
	}
	switch {
	case low < b.low:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", low, b.low, expr)
	case high > b.high:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", high, b.high, expr)
	case low > high:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, expr)
	}
	return nil
}

func (b bounds) value(s string) (int, error) {
	for i, n := range b.names {
		if strings.EqualFold(s, n) {
			return b.low + i, nil
		}
	}
	return number(s)
}

func number(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %s", s, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, s)
	}
	return n, nil
}
