package cli

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/meshlite-go/meshlite/internal/nginx"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// NginxOptions are those of [Nginx].
type NginxOptions struct {
	Service    string // its name, or a target
	Agent      string // host:port; empty is the one that the environment names
	Tags       []string
	Datacenter string // empty is the agent's own
	Warning    bool   // instances in warning state are called

	Block nginx.Block // its Service and Directory are set here
	File  nginx.File
	// Interval is the least time between two reloads: at least 100 ms.
	Interval time.Duration
	Once     bool
	Format   Format
}

const minReloadInterval = 100 * time.Millisecond

// Nginx writes the instances of a service to a file of NGINX and reloads it when they change,
// until ctx ends, which is no error. What is believed of the directory's answers is as for
// channels; a list that is empty in the end leaves the file as it is. With Once it ends after
// the first answer.
func Nginx(ctx context.Context, o NginxOptions, streams Streams) error {
	query, err := o.check()
	if err != nil {
		return err
	}
	directory, err := dialAgent(o.Agent)
	if err != nil {
		return err
	}
	defer directory.Close()
	o.Block.Service, o.Block.Directory = query.Service, directory.Name()
	k := &keeper{NginxOptions: o, streams: streams, lists: make(chan []catalog.Instance, 1), outages: make(chan error)}
	watchCtx, cancel := context.WithCancel(ctx)
	watcher := reportingWatcher{directory, func(err error) {
		select {
		case k.outages <- err:
		case <-watchCtx.Done():
		}
	}}
	builder := resolver.NewBuilder(watcher, resolver.WithLogger(slog.New(slog.DiscardHandler)))
	stop := builder.Follow(query, k.offer)
	defer stop()
	defer cancel() // before stop, which waits for the watch
	if o.Once {
		return k.once(ctx)
	}
	return k.run(ctx)
}

// check validates the options and reads the agent of a target.
func (o *NginxOptions) check() (catalog.Query, error) {
	e := EndpointsOptions{Service: o.Service, Agent: o.Agent, Tags: o.Tags, Warning: o.Warning}
	if o.Datacenter != "" {
		e.Datacenters = []string{o.Datacenter}
	}
	queries, err := e.queries()
	if err != nil {
		return catalog.Query{}, err
	}
	o.Agent = e.Agent
	switch err := o.Block.Validate(); {
	case err != nil:
		return catalog.Query{}, &Error{ExitUsage, err}
	case len(queries) > 1:
		return catalog.Query{}, Usagef("%d datacenters: an upstream has no failover between them: run one command for each, and mark the servers of one file as backup by --server backup", len(queries))
	case o.File.Path == "":
		return catalog.Query{}, Usagef("--out is missing: name the file that NGINX includes, such as /etc/nginx/conf.d/%s.conf", e.Service)
	case o.File.Reload != "" && o.File.PIDFile != "":
		return catalog.Query{}, Usagef("--reload %q together with --pid-file %q: leave one out", o.File.Reload, o.File.PIDFile)
	case o.Interval < minReloadInterval:
		return catalog.Query{}, Usagef("--interval %v: each reload starts new workers: write at least %v", o.Interval, minReloadInterval)
	}
	return queries[0], nil
}

// reportingWatcher also passes on how each query went.
type reportingWatcher struct {
	catalog.Watcher
	report func(error)
}

func (w reportingWatcher) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	w.Watcher.Watch(ctx, q, func(s catalog.Snapshot, err error) {
		report(s, err)
		w.report(err)
	})
}

// keeper keeps the file up to date.
type keeper struct {
	NginxOptions
	streams Streams
	lists   chan []catalog.Instance // the newest that is not yet written
	outages chan error              // of each query; nil is an answer

	refused map[string]bool // warnings that were written
	lost    bool            // the directory cannot be asked
	failed  string          // the last failure to write or reload that was written
}

// offer replaces the list that is not yet written.
func (k *keeper) offer(list []catalog.Instance) {
	select {
	case <-k.lists:
	default:
	}
	k.lists <- list
}

// once writes the first answer.
func (k *keeper) once(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-k.outages:
			if err != nil {
				return err
			}
		case list := <-k.lists:
			return k.write(ctx, list)
		}
	}
}

// run writes each change. Those that come within the interval are written together.
func (k *keeper) run(ctx context.Context) error {
	var list []catalog.Instance
	dirty, quiet := false, true // whether list is to be written; whether the interval is over
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-k.outages:
			if err := k.outage(err); err != nil {
				return err
			}
			continue
		case list = <-k.lists:
			dirty = true
		case <-timer.C:
			quiet = true
		}
		if !dirty || !quiet {
			continue
		}
		err := k.write(ctx, list)
		dirty, quiet = err != nil, false
		timer.Reset(k.Interval)
		if err := k.failure(err); err != nil {
			return err
		}
	}
}

// write applies a list and says what has changed.
func (k *keeper) write(ctx context.Context, list []catalog.Instance) error {
	text, refused := k.Block.Render(list)
	if err := k.refuse(refused); err != nil {
		return err
	}
	servers := len(list) - len(refused)
	if servers == 0 && k.File.Exists() {
		return k.say(nginxEvent{Event: "kept", Error: "no instance is left: the file keeps the last ones"})
	}
	changed, err := k.File.Apply(ctx, text)
	if changed {
		if err := k.say(nginxEvent{Event: "written", Instances: &servers}); err != nil {
			return err
		}
	}
	return err
}

// refuse warns of each instance that is left out, once.
func (k *keeper) refuse(refused []error) error {
	warned := map[string]bool{}
	for _, err := range refused {
		text := oneLine(err.Error())
		warned[text] = true
		if k.refused[text] {
			continue
		}
		if err := k.say(nginxEvent{Event: "refused", Error: text}); err != nil {
			return err
		}
	}
	k.refused = warned
	return nil
}

// failure writes an error of the file or of a reload, once until it changes or ends.
func (k *keeper) failure(err error) error {
	text := ""
	if err != nil {
		text = oneLine(err.Error())
	}
	if text == k.failed {
		return nil
	}
	k.failed = text
	if text == "" {
		return k.say(nginxEvent{Event: "recovered"})
	}
	return k.say(nginxEvent{Event: "failed", Error: text})
}

// outage writes when the directory fails, and when it answers again.
func (k *keeper) outage(err error) error {
	if (err != nil) == k.lost {
		return nil
	}
	k.lost = err != nil
	if err == nil {
		return k.say(nginxEvent{Event: available})
	}
	return k.say(nginxEvent{Event: unavailable, Error: oneLine(err.Error())})
}

// nginxEvent is a line of the command as JSON.
type nginxEvent struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	File      string    `json:"file"`
	Instances *int      `json:"instances,omitempty"`
	Error     string    `json:"error,omitempty"`
}

func (k *keeper) say(e nginxEvent) error {
	now := time.Now()
	e.Time, e.File = now.UTC(), k.File.Path
	if k.Format == JSON {
		return writeLine(k.streams.Out, e)
	}
	_, err := fmt.Fprintf(k.streams.Out, "%s  %s\n", clock(now), k.line(e))
	return err
}

// line is an event for people.
func (k *keeper) line(e nginxEvent) string {
	switch e.Event {
	case "written":
		return fmt.Sprintf("%s: %d instances of %s", e.File, *e.Instances, k.Block.Service)
	case "recovered":
		return e.File + ": written, checked and reloaded again"
	case available:
		return "! " + k.Block.Directory + " answers again"
	case unavailable:
		return "! " + e.Error + "; the file stays as it is"
	default:
		return "! " + e.Error
	}
}
