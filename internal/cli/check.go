package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite/internal/doctor"
	"github.com/meshlite-go/meshlite/internal/screen"
)

// CheckOptions are those of [Check].
type CheckOptions struct {
	Services []string // empty is all
	Agent    string   // host:port; empty is the one that the environment names
	Timeout  time.Duration
	TLS      bool // as Security says, which without it means TLS only if it names anything
	Security Security
	Format   Format
}

// Check checks Consul, the clock and the instances of services, and fails if any check
// fails.
func Check(ctx context.Context, o CheckOptions, streams Streams) error {
	if o.Timeout <= 0 {
		return Usagef("--timeout %v: write a duration above 0, such as 1m", o.Timeout)
	}
	o.Security.Plaintext = !o.TLS && o.Security == Security{}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	creds, end, err := o.Security.Credentials(directory, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer end()
	bounded, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := awaitCertificate(bounded, creds); err != nil {
		return err
	}
	if o.Security.Plaintext {
		creds = nil
	}
	report := doctor.Run(bounded, directory, doctor.Options{Services: o.Services, Credentials: creds, Certificate: o.Security.Cert != "" || o.Security.Identity != ""})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := writeReport(streams.Out, o.Format, report); err != nil {
		return err
	}
	if report.Failed > 0 {
		return fmt.Errorf("%d of %d checks failed", report.Failed, len(report.Checks))
	}
	return nil
}

func writeReport(out io.Writer, format Format, report *doctor.Report) error {
	if format == JSON {
		return WriteJSON(out, report)
	}
	var text strings.Builder
	width := screen.Columns(out)
	for rest := report.Checks; len(rest) > 0; {
		n := 1
		for n < len(rest) && title(rest[n]) == title(rest[0]) {
			n++
		}
		writeGroup(&text, rest[:n], width)
		rest = rest[n:]
	}
	warnings := "warnings"
	if report.Warnings == 1 {
		warnings = "warning"
	}
	fmt.Fprintf(&text, "\n%d passed, %d %s, %d failed\n", report.Passed, report.Warnings, warnings, report.Failed)
	_, err := io.WriteString(out, text.String())
	return err
}

// title is the heading of a group.
func title(c doctor.Check) string {
	if c.Group == doctor.Service {
		return "service " + oneLine(c.Service)
	}
	return c.Group
}

func writeGroup(text *strings.Builder, checks []doctor.Check, width int) {
	if text.Len() > 0 {
		text.WriteByte('\n')
	}
	text.WriteString(title(checks[0]) + "\n")
	var ids, addresses int
	for _, c := range checks {
		ids = max(ids, utf8.RuneCountInString(oneLine(c.Instance)))
		addresses = max(addresses, utf8.RuneCountInString(oneLine(c.Address)))
	}
	for _, c := range checks {
		line := fmt.Sprintf("  %s ", mark(c.Result))
		if c.Instance != "" {
			line += fmt.Sprintf("%-*s  %-*s  ", ids, oneLine(c.Instance), addresses, cell(c.Address))
		}
		if whole := line + oneLine(c.Text); width == 0 || utf8.RuneCountInString(whole) <= width {
			text.WriteString(whole + "\n")
		} else {
			if c.Instance != "" { // what is said has lines of its own
				text.WriteString(strings.TrimRight(line, " ") + "\n")
				line = margin
			}
			writeWrapped(text, line, oneLine(c.Text), width)
		}
		if c.Fix != "" {
			writeWrapped(text, margin, oneLine(c.Fix), width)
		}
	}
}

const margin = "      " // of what is said of an instance

// writeWrapped writes lines that fit the width, if there is one, the first after begin.
func writeWrapped(text *strings.Builder, begin, words string, width int) {
	if width == 0 {
		text.WriteString(begin + words + "\n")
		return
	}
	for _, line := range broken(words, max(width-len(margin), 20)) {
		text.WriteString(begin + strings.TrimPrefix(line, indent) + "\n")
		begin = margin
	}
}

func mark(result string) string {
	switch result {
	case doctor.Passed:
		return "✓"
	case doctor.Warning:
		return "!"
	default:
		return "✗"
	}
}
