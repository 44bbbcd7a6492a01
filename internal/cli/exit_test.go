package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		err  error
		code int
		says string
	}{
		"no error":            {t.Context(), nil, 0, ""},
		"no error when ended": {ended, nil, 0, ""},
		"any error":           {t.Context(), errors.New("it broke"), 1, "meshlite: it broke\n"},
		"usage":               {t.Context(), Usagef("-n %d: write 1", 0), 2, "meshlite: -n 0: write 1\n"},
		"usage within":        {t.Context(), fmt.Errorf("call: %w", Usagef("-n")), 2, "meshlite: call: -n\n"},
		"interrupted":         {ended, errors.New("it broke"), 130, "meshlite: interrupted\n"},
		"the module's own":    {t.Context(), errors.New("meshlite: no agent"), 1, "meshlite: no agent\n"},
		"several lines":       {t.Context(), errors.New("one\ntwo\r\n\x1b[2J"), 1, "meshlite: one; two\ufffd; \ufffd[2J\n"},
		"no end":              {t.Context(), errors.New(strings.Repeat("é", 1<<20)), 1, "meshlite: " + strings.Repeat("é", maxLine/2) + "...\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var w bytes.Buffer
			if code := Report(test.ctx, test.err, &w); code != test.code || w.String() != test.says {
				t.Errorf("got %d and %.200q, want %d and %.200q", code, w.String(), test.code, test.says)
			}
		})
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 257_400 * time.Nanosecond: "257µs", 2597 * time.Microsecond: "2.597ms",
		27_464 * time.Microsecond: "27.46ms", 1_234_567 * time.Microsecond: "1.235s", 125 * time.Second: "2m5s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %s, want %s", d, got, want)
		}
	}
}
