package cronjob

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Schedule is a parsed schedule: when a time matches, or every so often.
type Schedule struct {
	minute, hour, day, month, weekday uint64 // bit n is value n
	anyDay, anyWeekday                bool
	every                             time.Duration
	// Zone is the schedule's own; nil if it names none.
	Zone *time.Location
}

type field struct {
	low, high int
	names     string // three letters each
}

var fields = [5]field{
	{0, 59, ""}, {0, 23, ""}, {1, 31, ""},
	{1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}, {0, 6, "sunmontuewedthufrisat"},
}

// Parse reads the cron syntax that the API documents for spec.schedule: five
// fields, "@hourly" and the like, or "@every 1h30m", with "TZ=Zone " or
// "CRON_TZ=Zone " before it if need be.
func Parse(spec string) (*Schedule, error) {
	s := &Schedule{}
	if strings.HasPrefix(spec, "TZ=") || strings.HasPrefix(spec, "CRON_TZ=") {
		zone, rest, _ := strings.Cut(spec, " ")
		_, name, _ := strings.Cut(zone, "=")
		var err error
		if s.Zone, err = time.LoadLocation(name); err != nil {
			return nil, fmt.Errorf("provided bad location %s: %w", name, err)
		}
		spec = strings.TrimSpace(rest)
	}
	switch spec {
	case "@yearly", "@annually":
		spec = "0 0 1 1 *"
	case "@monthly":
		spec = "0 0 1 * *"
	case "@weekly":
		spec = "0 0 * * 0"
	case "@daily", "@midnight":
		spec = "0 0 * * *"
	case "@hourly":
		spec = "0 * * * *"
	}
	if every, ok := strings.CutPrefix(spec, "@every "); ok {
		d, err := time.ParseDuration(every)
		if err != nil {
			return nil, fmt.Errorf("failed to parse duration %s: %w", spec, err)
		}
		s.every = max(d.Truncate(time.Second), time.Second)
		return s, nil
	}
	parts := strings.Fields(spec)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("expected exactly 5 fields, found %d: %s", len(parts), parts)
	}
	for i, to := range [...]*uint64{&s.minute, &s.hour, &s.day, &s.month, &s.weekday} {
		for _, expr := range strings.Split(parts[i], ",") {
			set, star, err := fields[i].parse(expr)
			if err != nil {
				return nil, err
			}
			*to |= set
			s.anyDay = s.anyDay || i == 2 && star
			s.anyWeekday = s.anyWeekday || i == 4 && star
		}
	}
	return s, nil
}

// parse reads "*", "?", "n" or "low-high", each with an optional "/step"; star
// says that it restricts nothing, which for days means that the other field of
// the day alone decides.
func (f field) parse(expr string) (set uint64, star bool, err error) {
	span, stepText, stepped := strings.Cut(expr, "/")
	low, high := f.low, f.high
	star = span == "*" || span == "?"
	if !star {
		from, to, ranged := strings.Cut(span, "-")
		if low, err = f.value(from); err != nil {
			return 0, false, err
		}
		switch {
		case ranged:
			if high, err = f.value(to); err != nil {
				return 0, false, err
			}
		case !stepped:
			high = low
		}
	}
	step := 1
	if stepped {
		if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
			return 0, false, fmt.Errorf("step of range should be a positive number: %s", expr)
		}
		star = star && step == 1
	}
	if low < f.low || high > f.high || low > high {
		return 0, false, fmt.Errorf("range (%d-%d) out of bounds (%d-%d): %s", low, high, f.low, f.high, expr)
	}
	for v := low; v <= high; v += step {
		set |= 1 << v
		if step > high {
			break
		}
	}
	return set, star, nil
}

func (f field) value(text string) (int, error) {
	if len(text) == 3 && f.names != "" {
		if i := strings.Index(f.names, strings.ToLower(text)); i >= 0 && i%3 == 0 {
			return f.low + i/3, nil
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s", text)
	}
	return int(n), nil
}

// Next is the first time after t, in t's zone or the schedule's own; the zero
// time if there is none within five years. A time that a change to daylight
// saving skips is skipped.
func (s *Schedule) Next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every).Truncate(time.Second)
	}
	if s.Zone != nil {
		t = t.In(s.Zone)
	}
	t = t.Add(time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	for last := t.Year() + 5; t.Year() <= last; {
		y, m, d := t.Date()
		switch {
		case !has(s.month, int(m)):
			t = forward(t, time.Date(y, m+1, 1, 0, 0, 0, 0, t.Location()))
		case !s.dayMatches(t):
			t = forward(t, time.Date(y, m, d+1, 0, 0, 0, 0, t.Location()))
		case !has(s.hour, t.Hour()):
			t = t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
		case !has(s.minute, t.Minute()):
			t = t.Add(s.toNextMinute(t.Minute()))
		default:
			return t
		}
	}
	return time.Time{}
}

// forward is to, or an hour from t where the clock's change makes to no later
// than t.
func forward(t, to time.Time) time.Time {
	if to.After(t) {
		return to
	}
	return t.Add(time.Hour)
}

// toNextMinute is how far the next minute of the schedule, or the next hour
// is.
func (s *Schedule) toNextMinute(now int) time.Duration {
	if later := s.minute >> (now + 1); later != 0 {
		return time.Duration(bits.TrailingZeros64(later)+1) * time.Minute
	}
	return time.Duration(60-now) * time.Minute
}

// dayMatches: when both fields of the day restrict, either will do.
func (s *Schedule) dayMatches(t time.Time) bool {
	day, weekday := has(s.day, t.Day()), has(s.weekday, int(t.Weekday()))
	if s.anyDay || s.anyWeekday {
		return day && weekday
	}
	return day || weekday
}

func has(set uint64, v int) bool { return set&(1<<v) != 0 }

// Due returns the newest time of the schedule after since and not after now
// (zero if there is none), and about how many there were.
func (s *Schedule) Due(since, now time.Time) (time.Time, int) {
	first := s.Next(since)
	if first.IsZero() || first.After(now) {
		return time.Time{}, 0
	}
	second := s.Next(first)
	if second.IsZero() || second.After(now) {
		return first, 1
	}
	gap := max(second.Sub(first), time.Second)
	missed := int(now.Sub(first)/gap) + 1
	if s.every > 0 {
		return first.Add(now.Sub(first) / s.every * s.every), missed
	}
	// Look back in growing steps, so that years of missed times cost nothing.
	for window := gap; ; window *= 2 {
		from := now.Add(-window)
		if from.Before(first) {
			from = first.Add(-time.Second)
		}
		at := s.Next(from)
		if at.IsZero() || at.After(now) {
			continue
		}
		for next := s.Next(at); !next.IsZero() && !next.After(now); next = s.Next(at) {
			at = next
		}
		return at, missed
	}
}
