package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/scrape"
	"github.com/meshlite-go/meshlite/internal/screen"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const (
	shortestInterval = 100 * time.Millisecond
	longestInterval  = time.Hour
	findEvery        = 10 * time.Second // processes are searched for
	findTimeout      = 5 * time.Second
)

// TopOptions are those of [Top].
type TopOptions struct {
	ProcessesOptions
	Services []string // whose processes; none are all in Consul
	Interval time.Duration
	Once     bool // one interval instead of one after the other
	Methods  bool // show methods in the place of instances; both with JSON
	Outgoing bool // calls that processes make, instead of those that they serve
}

func (o TopOptions) check() error {
	if o.Interval < shortestInterval || o.Interval > longestInterval {
		return Usagef("--interval %v: write %v to %v", o.Interval, shortestInterval, longestInterval)
	}
	for _, service := range append([]string{""}, o.Services...) {
		one := o.ProcessesOptions
		one.Service = service
		if err := one.check(); err != nil {
			return err
		}
	}
	return nil
}

// Top shows how much processes are called, how well and how fast, until ctx ends.
func Top(ctx context.Context, o TopOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	asking, end, err := o.Pages.asker(ctx)
	if err != nil {
		return err
	}
	defer end()
	t := &top{o: o, asking: asking, streams: streams, before: map[string]*scrape.Sample{}}
	if len(o.Clients) == 0 {
		directory, err := dialAgent(o.Agent)
		if err != nil {
			return err
		}
		defer directory.Close()
		t.directory = directory
	}
	if o.Format == Text && !o.Once {
		if s, ok := screen.Of(streams.Out); ok {
			defer s.Close()
			t.screen = s
			quit, cancel := context.WithCancel(ctx)
			defer cancel()
			defer screen.Keys(quit, streams.In, func(key byte) {
				if key == 'q' || key == 'Q' {
					cancel()
				}
			})()
			ctx = quit
		}
	}
	err = t.run(ctx)
	if ctx.Err() != nil && !o.Once {
		return nil
	}
	return err
}

// top reads the metrics of processes every interval. One goroutine uses it.
type top struct {
	o         TopOptions
	asking    asker
	streams   Streams
	directory *consul.Directory // nil when processes are named
	screen    *screen.Screen    // nil where it writes one table below the other

	processes []process
	found     time.Time // when they were looked for
	notes     string    // what could not be read from Consul
	before    map[string]*scrape.Sample
	at        time.Time // of before
	width     int       // of the screen
}

func (t *top) run(ctx context.Context) error {
	resized := make(chan os.Signal, 1)
	if t.screen != nil {
		signal.Notify(resized, screen.Resized)
		defer signal.Stop(resized)
	}
	m, err := t.measure(ctx)
	if err != nil {
		return err
	}
	t.draw(m)
	ticker := time.NewTicker(t.o.Interval) // after the first search, which may take long
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-resized:
			t.draw(m)
			continue
		case <-ticker.C:
		}
		if m, err = t.measure(ctx); err != nil {
			return err
		}
		if err := t.write(m); err != nil || t.o.Once {
			return err
		}
	}
}

// measure asks all processes. If none answers, that is an error the first time; later it
// is shown.
func (t *top) measure(ctx context.Context) (measured, error) {
	if err := t.find(ctx); err != nil {
		return measured{}, err
	}
	processes, samples := slices.Clone(t.processes), make([]*scrape.Sample, len(t.processes))
	now := time.Now()
	askAll(ctx, t.asking, processes, func(a asker, i int) (err error) {
		samples[i], err = a.scrape(ctx, processes[i].Address)
		return err
	})
	if ctx.Err() != nil {
		return measured{}, context.Cause(ctx)
	}
	if failed(processes) == len(processes) && (t.at.IsZero() || t.o.Once) {
		writeUnasked(t.streams.Err, processes)
		return measured{}, errors.New("no process could be asked: see above, and `meshlite check` for what is wrong with Consul and the instances")
	}
	m := measured{time: now, notes: t.notes}
	if !t.at.IsZero() {
		m.seconds = now.Sub(t.at).Seconds()
	}
	t.at = now
	m.services = t.byService(processes, samples)
	return m, nil
}

// byService groups the samples by service and keeps them for the next rates.
func (t *top) byService(processes []process, samples []*scrape.Sample) []topService {
	before, side := t.before, scrape.Server
	if t.o.Outgoing {
		side = scrape.Client
	}
	t.before = map[string]*scrape.Sample{}
	services := map[string]*topService{}
	for i, p := range processes {
		last := before[p.Address]
		kept, rates := samples[i], scrape.Rates{}
		if kept == nil {
			kept = last // the next rate is of all the time since
		} else {
			rates = kept.Since(last, side)
		}
		if kept != nil {
			t.before[p.Address] = kept
			if p.service == "" {
				p.service = kept.Service
			}
		}
		name := p.service
		if name == "" {
			name = p.Address
		}
		s := services[name]
		if s == nil {
			s = &topService{name: name, methods: map[string]scrape.Figures{}}
			services[name] = s
		}
		s.add(p, rates)
	}
	return sortedServices(services)
}

// find searches for processes if the last search is findEvery ago. It keeps the last ones
// if Consul does not answer.
func (t *top) find(ctx context.Context) error {
	switch {
	case t.directory == nil:
		t.processes = named(t.o.Clients)
		return nil
	case !t.found.IsZero() && time.Since(t.found) < findEvery:
		return nil
	}
	var notes strings.Builder
	list, err := t.look(ctx, &notes)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && t.found.IsZero():
		fmt.Fprint(t.streams.Err, notes.String())
		return err
	case err != nil:
		fmt.Fprintln(&notes, oneLine(err.Error()))
	default:
		t.processes = list
	}
	t.found, t.notes = time.Now(), notes.String()
	return nil
}

// look queries Consul for the processes of the selected services.
func (t *top) look(ctx context.Context, notes *strings.Builder) ([]process, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	services := slices.Compact(slices.Sorted(slices.Values(t.o.Services)))
	if len(services) == 0 {
		services = []string{""}
	}
	var all []consul.Entry
	for _, service := range services {
		one := t.o.ProcessesOptions
		one.Service = service
		entries, _, err := one.entries(ctx, t.directory, notes)
		if err != nil {
			return nil, err
		}
		if len(t.o.Pages.withPages(entries)) == 0 {
			return nil, noPages(t.directory, service)
		}
		all = append(all, entries...)
	}
	return t.o.Pages.withPages(all), nil
}

// draw draws the latest figures on a terminal.
func (t *top) draw(m measured) {
	if t.screen == nil {
		return
	}
	width, height := t.screen.Size()
	if width < t.width {
		t.screen.Clear()
	}
	t.width = width
	// The last column and the last line stay free.
	t.screen.Show(m.lines(width-1, height-1, t.o.Methods))
}

// write writes the figures of one interval.
func (t *top) write(m measured) error {
	switch {
	case t.o.Format == JSON && t.o.Once:
		return WriteJSON(t.streams.Out, m.report())
	case t.o.Format == JSON:
		return writeLine(t.streams.Out, m.report())
	case t.screen != nil:
		t.draw(m)
		return nil
	default:
		text := strings.Join(m.lines(columns, pipedRows, t.o.Methods), "\n") + "\n"
		if !t.o.Once {
			text += "\n"
		}
		_, err := fmt.Fprint(t.streams.Out, text)
		return err
	}
}
