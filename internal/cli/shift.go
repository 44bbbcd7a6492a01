package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// ShiftOptions are those of [Shift].
type ShiftOptions struct {
	Service string
	Weights []string // arm=percent
	Apply   bool     // write; else show what would be written
	Guard   time.Duration
	Agent   string   // host:port; empty is the one that the environment names
	Clients []string // host:port of admin pages, for Guard
	Pages   PageAccess
	Format  Format
}

// shiftReport is what the command writes as JSON.
type shiftReport struct {
	Service  string         `json:"service"`
	Before   []consul.Split `json:"before"`
	After    []consul.Split `json:"after"`
	Applied  bool           `json:"applied"`
	Undo     string         `json:"undo"`     // the command that does so
	Reverted string         `json:"reverted"` // why the guard has shifted back; empty if it has not
}

// Shift changes the weights of a service's splitter.
func Shift(ctx context.Context, o ShiftOptions, streams Streams) error {
	weights, err := parseWeights(o.Weights)
	if err != nil {
		return err
	}
	switch {
	case o.Guard < 0:
		return Usagef("--guard %v: write how long to watch, such as 5m", o.Guard)
	case o.Guard > 0 && !o.Apply:
		return Usagef("--guard without --apply: write both")
	case len(o.Clients) > 0 && o.Guard == 0:
		return Usagef("--client without --guard: write both")
	}
	if err := o.Pages.check(o.Clients); err != nil {
		return err
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	splitter, err := directory.Splitter(ctx, o.Service)
	if err != nil {
		return err
	}
	after, err := shifted(o.Service, splitter.Splits, weights)
	if err != nil {
		return err
	}
	s := &shift{ShiftOptions: o, directory: directory, out: streams.Out, err: streams.Err, report: shiftReport{
		Service: o.Service, Before: append([]consul.Split{}, splitter.Splits...), After: after, Undo: undo(o, splitter.Splits),
	}}
	return s.run(ctx, splitter)
}

// parseWeights reads arm=percent.
func parseWeights(all []string) (map[string]float64, error) {
	weights := map[string]float64{}
	for _, text := range all {
		name, value, _ := strings.Cut(text, "=")
		weight, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if name == "" || err != nil || !(weight >= 0 && weight <= 100) || toHundredths(weight) != weight {
			return nil, Usagef("%q: write ARM=PERCENT, such as v2=10, from 0 to 100 in steps of 0.01", text)
		}
		if _, twice := weights[name]; twice {
			return nil, Usagef("%q: the arm %q is given twice", text, name)
		}
		weights[name] = weight
	}
	return weights, nil
}

func toHundredths(weight float64) float64 { return math.Round(weight*100) / 100 }

// shifted are splits with the weights of some arms. The others share what is left as before; arms
// that have no split yet are subsets, and where there is no splitter yet, what is left goes to the
// service itself.
func shifted(service string, splits []consul.Split, weights map[string]float64) ([]consul.Split, error) {
	after := slices.Clone(splits)
	if len(after) == 0 {
		after = []consul.Split{{Weight: 100}}
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if !slices.ContainsFunc(after, func(s consul.Split) bool { return armOf(service, s) == name }) {
			after = append(after, consul.Split{Subset: name})
		}
	}
	given, rest := 0.0, 0.0
	var others []int
	for i := range after {
		if weight, ok := weights[armOf(service, after[i])]; ok {
			after[i].Weight = weight
			given += weight
			continue
		}
		others = append(others, i)
		rest += after[i].Weight
	}
	left := toHundredths(100 - given)
	switch {
	case left < 0:
		return nil, Usagef("the weights sum to %.4g: write 100 at most", given)
	case len(others) == 0 && left > 0:
		return nil, Usagef("the weights of all arms sum to %.4g: write 100 in all", given)
	}
	for n, i := range others {
		part := left / float64(len(others)-n)
		if rest > 0 {
			part = left * after[i].Weight / rest
		}
		part = toHundredths(part)
		rest -= after[i].Weight
		left = toHundredths(left - part)
		after[i].Weight = part
	}
	return after, nil
}

// armOf is the name of a split's arm: its subset, or else its service.
func armOf(service string, s consul.Split) string { return cmp.Or(s.Name(), service) }

// undo is the command that writes the splits as they were.
func undo(o ShiftOptions, before []consul.Split) string {
	if len(before) == 0 {
		command := "consul config delete -kind service-splitter -name " + o.Service
		if o.Agent != "" {
			command += " -http-addr " + o.Agent
		}
		return command
	}
	command := "meshlite routes shift " + o.Service
	for _, s := range before {
		command += fmt.Sprintf(" %s=%s", armOf(o.Service, s), percentOf(s.Weight))
	}
	if o.Agent != "" {
		command += " --http-addr " + o.Agent
	}
	return command + " --apply"
}

func percentOf(weight float64) string { return strconv.FormatFloat(toHundredths(weight), 'f', -1, 64) }

// shift is one run of the command.
type shift struct {
	ShiftOptions
	directory *consul.Directory
	out, err  io.Writer
	report    shiftReport
}

func (s *shift) run(ctx context.Context, splitter *consul.Splitter) error {
	var start outcomes
	if s.Guard > 0 {
		var err error
		if start, err = s.outcomes(ctx); err != nil {
			return fmt.Errorf("nothing is written: --guard: %w", err)
		}
	}
	if s.Apply {
		written, err := s.directory.WriteSplits(ctx, splitter, s.report.After)
		if err != nil {
			return err
		}
		s.report.Applied = true
		splitter = written
	}
	if s.Format != JSON {
		s.write()
	}
	var failure error
	if s.Guard > 0 {
		failure = s.guard(ctx, start, splitter)
	}
	if s.Format == JSON {
		if err := WriteJSON(s.out, s.report); err != nil {
			return err
		}
	}
	return failure
}

func (s *shift) write() {
	g := &grid{fields: []field{{head: "ARM"}, {head: "BEFORE"}, {head: "AFTER"}}}
	for _, to := range s.report.After {
		from := "-"
		if weight, found := s.before(to); found {
			from = percentOf(weight) + "%"
		}
		g.add(cell(armOf(s.Service, to)), from, percentOf(to.Weight)+"%")
	}
	_ = newTables(s.out).write(g)
	if !s.Apply {
		fmt.Fprintln(s.out, "nothing is written: add --apply")
		return
	}
	fmt.Fprintln(s.out, "written; to undo:", s.report.Undo)
}

const (
	guardEvery = 2 * time.Second
	// An arm fails if its part of successes is below that of the others by more than chance, three
	// standard deviations, and by more than guardMargin.
	guardCalls  = 50 // of an arm, for a judgement
	guardMargin = 0.01
)

// outcomes are the calls of clients that arms have ended.
type outcomes map[string]struct{ succeeded, failed uint64 }

// guard watches the arms that got more calls, and shifts back when one fails more often than the
// others.
func (s *shift) guard(ctx context.Context, start outcomes, splitter *consul.Splitter) error {
	ticker, end := time.NewTicker(guardEvery), time.After(s.Guard)
	defer ticker.Stop()
	judged := false
	for over := false; !over; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			over = true
		case <-ticker.C:
		}
		now, err := s.outcomes(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			fmt.Fprintln(s.err, "--guard:", oneLine(err.Error()))
			continue
		}
		why, enough := s.failing(start, now)
		if why != "" {
			return s.revert(context.WithoutCancel(ctx), splitter, why)
		}
		judged = judged || enough
	}
	if !judged {
		fmt.Fprintf(s.err, "--guard: no arm is judged: within %v those with more weight, or the others, have ended fewer than %d calls\n", s.Guard, guardCalls)
		return nil
	}
	fmt.Fprintf(s.err, "no arm has failed more often than the others within %v\n", s.Guard)
	return nil
}

// outcomes asks the clients.
func (s *shift) outcomes(ctx context.Context) (outcomes, error) {
	o := RoutesOptions{Service: s.Service, Agent: s.Agent}
	report, err := readRoutes(ctx, s.directory, o)
	if err != nil {
		return nil, err
	}
	o.Clients, o.Pages = s.Clients, s.Pages
	report.ask(ctx, o, io.Discard)
	if report.Asked == 0 {
		return nil, errors.New("no client reports calls by this chain: name one by --client")
	}
	all := outcomes{}
	for _, r := range report.Routes {
		for _, a := range r.Arms {
			sum := all[a.Name]
			sum.succeeded += a.Live.Succeeded
			sum.failed += a.Live.Failed
			all[a.Name] = sum
		}
	}
	return all, nil
}

// failing says which of the arms that got more weight fails more often than the others together,
// since start; "" is none. enough is whether one of them has had the calls to judge it by.
func (s *shift) failing(start, now outcomes) (why string, enough bool) {
	for _, to := range s.report.After {
		if !s.grew(to) {
			continue
		}
		var own, others struct{ succeeded, calls float64 }
		for name, o := range now {
			succeeded, failed := float64(o.succeeded-min(start[name].succeeded, o.succeeded)), float64(o.failed-min(start[name].failed, o.failed))
			sum := &others
			if name == armOf(s.Service, to) {
				sum = &own
			}
			sum.succeeded += succeeded
			sum.calls += succeeded + failed
		}
		if own.calls < guardCalls || others.calls < guardCalls {
			continue
		}
		enough = true
		p, q := own.succeeded/own.calls, others.succeeded/others.calls
		pooled := (own.succeeded + others.succeeded) / (own.calls + others.calls)
		deviation := math.Sqrt(pooled * (1 - pooled) * (1/own.calls + 1/others.calls))
		if q-p > guardMargin && q-p > 3*deviation {
			return fmt.Sprintf("%s has answered %.1f%% of %.0f calls, the others %.1f%% of %.0f", armOf(s.Service, to), 100*p, own.calls, 100*q, others.calls), true
		}
	}
	return "", enough
}

// before is the weight that the arm of a split had, if it had one.
func (s *shift) before(to consul.Split) (weight float64, found bool) {
	for _, b := range s.report.Before {
		if b.Service == to.Service && b.Subset == to.Subset {
			return b.Weight, true
		}
	}
	return 0, false
}

// grew reports whether a split has more weight than before. Without a splitter the service itself
// had all.
func (s *shift) grew(to consul.Split) bool {
	weight, found := s.before(to)
	return found && to.Weight > weight || !found && to.Name() != ""
}

func (s *shift) revert(ctx context.Context, splitter *consul.Splitter, why string) error {
	if _, err := s.directory.WriteSplits(ctx, splitter, s.report.Before); err != nil {
		return fmt.Errorf("%s, but the splits were not written back: %w", why, err)
	}
	s.report.Reverted = why
	return fmt.Errorf("shifted back: %s", why)
}
