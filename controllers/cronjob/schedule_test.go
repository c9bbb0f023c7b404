package cronjob

import (
	"testing"
	"time"
)

func at(t *testing.T, text, zone string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Skipf("the host has no time zones: %v", err)
	}
	out, err := time.ParseInLocation("2006-01-02 15:04:05", text, loc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNext(t *testing.T) {
	for _, tc := range []struct{ spec, zone, from, want string }{
		{"* * * * *", "UTC", "2026-01-01 10:00:30", "2026-01-01 10:01:00"},
		{"* * * * *", "UTC", "2026-01-01 10:01:00", "2026-01-01 10:02:00"},
		{"*/15 * * * *", "UTC", "2026-01-01 10:46:00", "2026-01-01 11:00:00"},
		{"5/20 * * * *", "UTC", "2026-01-01 10:06:00", "2026-01-01 10:25:00"},
		{"0 9-17/4 * * *", "UTC", "2026-01-01 14:00:00", "2026-01-01 17:00:00"},
		{"0 0 29 2 *", "UTC", "2026-01-01 00:00:00", "2028-02-29 00:00:00"},
		{"0 0 31 * *", "UTC", "2026-01-31 00:00:00", "2026-03-31 00:00:00"},
		{"30 4 1,15 * fri", "UTC", "2026-01-01 05:00:00", "2026-01-02 04:30:00"},
		{"30 4 * * MON-WED", "UTC", "2026-01-01 05:00:00", "2026-01-05 04:30:00"},
		{"30 4 13 * ?", "UTC", "2026-01-01 05:00:00", "2026-01-13 04:30:00"},
		{"0 0 1 jan *", "UTC", "2026-01-01 00:00:00", "2027-01-01 00:00:00"},
		{"@hourly", "UTC", "2026-01-01 10:30:00", "2026-01-01 11:00:00"},
		{"@daily", "America/New_York", "2026-01-01 10:30:00", "2026-01-02 00:00:00"},
		{"@weekly", "UTC", "2026-01-01 10:30:00", "2026-01-04 00:00:00"},
		{"@monthly", "UTC", "2026-01-01 10:30:00", "2026-02-01 00:00:00"},
		{"@yearly", "UTC", "2026-01-01 10:30:00", "2027-01-01 00:00:00"},
		{"@every 90m", "UTC", "2026-01-01 10:30:00", "2026-01-01 12:00:00"},
		{"30 2 * * *", "America/New_York", "2026-03-07 12:00:00", "2026-03-09 02:30:00"}, // no such time on the 8th
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00:00", "2018-11-05 00:00:00"}, // the 4th begins at one
		{"0 12 * * *", "Australia/Lord_Howe", "2026-04-04 13:00:00", "2026-04-05 12:00:00"},
	} {
		s, err := Parse(tc.spec)
		if err != nil {
			t.Errorf("%s: %v", tc.spec, err)
			continue
		}
		if got := s.Next(at(t, tc.from, tc.zone)); !got.Equal(at(t, tc.want, tc.zone)) {
			t.Errorf("%s after %s: %v, want %s", tc.spec, tc.from, got, tc.want)
		}
	}
	s, err := Parse("TZ=Asia/Tokyo 0 9 * * *")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Next(at(t, "2026-01-01 00:00:00", "UTC")); !got.Equal(at(t, "2026-01-02 00:00:00", "UTC")) {
		t.Errorf("in its own zone: %v", got)
	}
	never, err := Parse("0 0 31 2 *")
	if err != nil || !never.Next(time.Unix(1e9, 0)).IsZero() {
		t.Errorf("the 31st of February: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, spec := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7",
		"5-1 * * * *", "*/0 * * * *", "x * * * *", "-1 * * * *", "1-2-3 * * * *", "@never", "@every x", "TZ=Nowhere/Land * * * * *"} {
		if s, err := Parse(spec); err == nil {
			t.Errorf("%q: %+v", spec, s)
		}
	}
}

func TestDue(t *testing.T) {
	for _, tc := range []struct {
		spec, since, now, want string
		missed                 int
	}{
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 10:59:59", "", 0},
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 11:00:00", "2026-01-01 11:00:00", 1},
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 14:30:00", "2026-01-01 14:00:00", 4},
		{"* * * * *", "2020-01-01 00:00:00", "2026-01-01 00:00:30", "2026-01-01 00:00:00", 3156480},
		{"0 0 1 1,2 *", "2025-01-01 00:00:00", "2026-01-15 00:00:00", "2026-01-01 00:00:00", 0},
		{"@every 1s", "2026-01-01 00:00:00", "2026-01-01 00:00:10", "2026-01-01 00:00:10", 10},
	} {
		s, err := Parse(tc.spec)
		if err != nil {
			t.Fatal(err)
		}
		got, missed := s.Due(at(t, tc.since, "UTC"), at(t, tc.now, "UTC"))
		if tc.want == "" && !got.IsZero() || tc.want != "" && !got.Equal(at(t, tc.want, "UTC")) || tc.missed != 0 && missed != tc.missed {
			t.Errorf("%s: %v, %d missed; want %s, %d", tc.spec, got, missed, tc.want, tc.missed)
		}
	}
}

// Whatever parses gives times that lie in the future, on the minute, and that
// its fields contain.
func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"* * * * *", "*/5 1-3 * jan mon", "@hourly", "@every 5m", "0 0 31 2 *", "5/20 ? 1,15 * fri"} {
		f.Add(s, int64(1e9))
	}
	f.Fuzz(func(t *testing.T, spec string, unix int64) {
		s, err := Parse(spec)
		if err != nil || unix < 0 || unix > 1e10 || s.Zone != nil {
			return
		}
		from := time.Unix(unix, 0).UTC()
		next := s.Next(from)
		switch {
		case next.IsZero():
		case !next.After(from):
			t.Errorf("%q: %v is not after %v", spec, next, from)
		case s.every == 0 && (next.Second() != 0 || !has(s.minute, next.Minute()) || !has(s.hour, next.Hour()) || !has(s.month, int(next.Month())) || !s.dayMatches(next)):
			t.Errorf("%q: %v does not match", spec, next)
		}
	})
}
