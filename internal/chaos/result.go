package chaos

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

// Result is what was measured, as `meshlite chaos -o json` prints it.
type Result struct {
	Registry string  `json:"registry"` // "consul 1.22.7"
	Rate     int     `json:"calls_per_second"`
	Faults   []Fault `json:"faults"`

	trouble string // what the client library has logged
}

// Fault is one fault and what the client noticed of it.
type Fault struct {
	Name     string  `json:"name"`
	Does     string  `json:"does"`
	Calls    uint64  `json:"calls"`
	Failed   uint64  `json:"failed"`
	InFlight uint64  `json:"in_flight"`         // failed calls on their way to an instance when it was killed
	Worst    float64 `json:"worst_ms"`          // from when the call was due
	Heal     float64 `json:"heal_ms"`           // from the end of the fault, or from a kill
	Healed   string  `json:"healed"`            // what was waited for
	Figures  string  `json:"figures,omitempty"` // what else was measured
	Aim      string  `json:"aim"`
	// Missed lists the aims that were missed, "" if none was.
	Missed []string `json:"missed"`
	// Skipped is why it was not made, "" if it was.
	Skipped string `json:"skipped,omitempty"`

	late    uint64
	reasons map[string]uint64
}

// busyPart is the share of late calls from which the machine was too busy to judge.
const busyPart = 20

// judge compares what a customer has seen, who has ended, with the aim. errs are why
// the fault could not be made or healed, if it could not.
func (s *scene) judge(seen *tally, took time.Duration, errs ...error) Fault {
	read := seen.read()
	f := Fault{
		Name: s.row.name, Does: s.row.does, Healed: s.row.wanted, Aim: s.row.aim.String(),
		Calls: read.calls, Failed: read.failed, Worst: inMillis(read.worst), Heal: inMillis(took), Figures: s.figures,
		Missed: []string{}, late: read.late, reasons: seen.reasons,
	}
	miss := func(format string, args ...any) { f.Missed = append(f.Missed, fmt.Sprintf(format, args...)) }
	for _, err := range errs {
		if err != nil {
			miss("%v", err)
		}
	}
	if s.killed != nil {
		f.InFlight = seen.inFlight(s.killed.Address, s.ended)
	}
	if n := f.Failed; !s.row.aim.inFlight && n > s.row.aim.failed {
		miss("%d calls failed", n)
	} else if s.row.aim.inFlight && n > f.InFlight {
		miss("%d calls failed that were not in flight there", n-f.InFlight)
	}
	if n := seen.failedSince(s.healedAt); s.row.aim.quiet && n > 0 {
		miss("%d calls failed after: %s", n, s.row.wanted)
	}
	if f.Calls == 0 {
		miss("no call was sent")
	}
	if took > s.row.aim.heal {
		miss("it took %.1fs until: %s", took.Seconds(), s.row.wanted)
	}
	f.Missed = slices.Concat(f.Missed, s.reconnected, s.connectedAgain(seen, s.living))
	if len(f.Missed) > 0 && f.busy() {
		miss("%s: %d of %d calls could not be sent when they were due", busyMachine, f.late, f.Calls)
	}
	return f
}

// connectedAgain are the instances that the fault does not concern and that the customer has
// not connected to once, in words.
func (s *scene) connectedAgain(seen *tally, instances []*shop.Instance) (all []string) {
	for _, i := range instances {
		if n := seen.dials(i.Address); n != 1 && !s.touched[i.Address] {
			all = append(all, fmt.Sprintf("%d connections were made to %s, which was not touched, not 1", n, i.ID))
		}
	}
	return all
}

const busyMachine = "this machine was too busy"

func (f Fault) busy() bool { return f.late*busyPart > f.Calls }

// Missed are the faults whose aim was missed, each with what was not as it should.
func (r *Result) Missed() []string {
	var all []string
	for _, f := range r.Faults {
		if len(f.Missed) > 0 {
			all = append(all, f.Name+": "+strings.Join(f.Missed, ", "))
		}
	}
	return all
}

// WriteTable writes the result for people.
func (r *Result) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s, %d instances, %d calls a second, no retries\n\n", r.Registry, size, r.Rate)
	fmt.Fprintf(t, "  FAULT\tCALLS\tFAILED\tWORST CALL\tTIME TO HEAL\tAIM\n")
	for _, f := range r.Faults {
		if f.Skipped != "" {
			fmt.Fprintf(t, "- %s\tSKIPPED\t\t\t\t%s\n", f.Name, f.Skipped)
			continue
		}
		mark := "✓"
		if len(f.Missed) > 0 {
			mark = "✗"
		}
		failed := fmt.Sprint(f.Failed)
		if f.InFlight > 0 {
			failed += fmt.Sprintf(" (%d in flight)", f.InFlight)
		}
		fmt.Fprintf(t, "%s %s\t%d\t%s\t%.0f ms\t%.1f s\t%s\n", mark, f.Name, f.Calls, failed, f.Worst, f.Heal/1000, f.Aim)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := r.writeFigures(w); err != nil {
		return err
	}
	return r.writeMissed(w)
}

func (r *Result) writeFigures(w io.Writer) error {
	var text strings.Builder
	for _, f := range r.Faults {
		if f.Figures != "" {
			fmt.Fprintf(&text, "\n%s: %s", f.Name, f.Figures)
		}
	}
	if text.Len() > 0 {
		text.WriteString("\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (r *Result) writeMissed(w io.Writer) error {
	var text strings.Builder
	for _, f := range r.Faults {
		if len(f.Missed) == 0 {
			continue
		}
		fmt.Fprintf(&text, "\n%s: %s\n", f.Name, f.Does)
		for _, missed := range f.Missed {
			fmt.Fprintf(&text, "  missed: %s\n", missed)
		}
		for _, reason := range slices.Sorted(maps.Keys(f.reasons)) {
			fmt.Fprintf(&text, "  failed %d times: %s\n", f.reasons[reason], reason)
		}
	}
	if text.Len() > 0 && r.trouble != "" {
		fmt.Fprintf(&text, "\nthe client library has logged:\n%s\n", r.trouble)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// inMillis is d in milliseconds, to the hundredth.
func inMillis(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*100) / 100
}
