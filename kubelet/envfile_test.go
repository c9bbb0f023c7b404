package kubelet

import (
	"maps"
	"strings"
	"testing"
)

func TestParseEnvFile(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want map[string]string
		err  string
	}{
		"empty":              {"", map[string]string{}, ""},
		"one":                {"A='b'", map[string]string{"A": "b"}, ""},
		"blanks, comments":   {"\n  # A='x'\n\n  A = 'b' \n#", map[string]string{"A": "b"}, ""},
		"taken as it is":     {`A='$B \n "c" #d'`, map[string]string{"A": `$B \n "c" #d`}, ""},
		"many lines":         {"A='1\n2\n#3'\nB=''\n", map[string]string{"A": "1\n2\n#3", "B": ""}, ""},
		"the last counts":    {"A='1'\nA='2'", map[string]string{"A": "2"}, ""},
		"= in the value":     {"A='b=c'", map[string]string{"A": "b=c"}, ""},
		"no quotes":          {"A=b", nil, "line 1: the value of A must be in single quotes"},
		"double quotes":      {"\nA=\"b\"", nil, "line 2: the value of A must be in single quotes"},
		"no value":           {"A", nil, "line 1: want NAME='value'"},
		"no name":            {"='b'", nil, "line 1: want NAME='value'"},
		"not closed":         {"A='b\nc", nil, "line 1: the value of A has no closing quote"},
		"two values":         {"A='b''c'", nil, "line 1: unexpected text after the value of A"},
		"text after":         {"A='b\nc' d\n", nil, "line 2: unexpected text after the value of A"},
		"comment after":      {"A='b' # c", nil, "line 1: unexpected text after the value of A"},
		"error after values": {"A='x\ny'\nB", nil, "line 3: want NAME='value'"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseEnvFile(tc.text)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got error %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil || !maps.Equal(got, tc.want) {
				t.Errorf("got %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add("A='b'\n#c\n D = 'e\nf' \n")
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := parseEnvFile(text)
		if err != nil {
			return
		}
		// What was read can be written, and reads the same.
		var b strings.Builder
		for k, v := range vars {
			b.WriteString(k + "='" + v + "'\n")
		}
		again, err := parseEnvFile(b.String())
		if err != nil || !maps.Equal(vars, again) {
			t.Errorf("%q is %q, %v; want %q", b.String(), again, err, vars)
		}
	})
}
