package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/nearest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// service is a name and what Consul knows of it.
type service struct {
	name    string
	entries []consul.Entry
	answers []answer // of the entries
	overTLS bool     // how they were asked
	err     error    // why it could not be read
}

// services looks at those that are wanted, or at all.
func (r *Report) services(ctx context.Context, directory *consul.Directory, options Options, names []string) {
	services := examine(ctx, directory, options, known(names, options.Services))
	claims := rivals(services)
	for _, s := range services {
		r.add(s.checks()...)
		r.add(claims[s.name]...)
	}
	for i, name := range options.Services {
		if !slices.Contains(names, name) && !slices.Contains(options.Services[:i], name) {
			r.add(unknown(directory.Name(), name, names))
		}
	}
}

// known are the names that are wanted, each once, or all when none are.
func known(names, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return len(wanted) > 0 && !slices.Contains(wanted, name)
	})
}

func unknown(directory, name string, names []string) Check {
	fix := "is its name right, and is it running?"
	if likely := nearest.Names(name, names); len(likely) > 0 {
		fix = fmt.Sprintf("is it %s?", strings.Join(likely, ", "))
	}
	return Check{Group: Service, Service: name, Name: "known", Result: Failed,
		Text: fmt.Sprintf("%s knows no service %q", directory, name), Fix: fix}
}

// examine reads services and asks all their instances.
func examine(ctx context.Context, directory *consul.Directory, options Options, names []string) []*service {
	services := make([]*service, len(names))
	each(len(names), maxReads, func(i int) {
		s := &service{name: names[i], overTLS: options.TLS != nil}
		s.entries, s.err = directory.Entries(ctx, catalog.Query{Service: s.name})
		s.answers = make([]answer, len(s.entries))
		services[i] = s
	})
	p := prober{tls: options.TLS}
	var work []func()
	for _, s := range services {
		for i, e := range s.entries {
			if e.Address != "" {
				work = append(work, func() { s.answers[i] = p.ask(ctx, s.name, e.Address) })
			}
		}
	}
	each(len(work), maxProbes, func(i int) { work[i]() })
	return services
}

func (s *service) checks() []Check {
	if s.err != nil {
		return []Check{{Group: Service, Service: s.name, Name: "instances", Result: Failed, Text: s.err.Error()}}
	}
	var checks []Check
	for i, e := range s.entries {
		checks = append(checks, examined(e, s.answers[i], s.overTLS)...)
	}
	return append(append(checks, s.panics()...), twins(s.entries)...)
}
