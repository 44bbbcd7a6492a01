// Package doctor finds out whether a mesh is well: Consul, the clock, and each
// registered instance, which it asks itself and compares with what Consul says.
// What is not well is told with what to do about it.
//
//	report := doctor.Run(ctx, directory, doctor.Options{Services: []string{"catalog"}})
//	if report.Failed > 0 {
//		fmt.Println(report.Checks)
//	}
package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// Options say what to look at, and how. The zero value is everything in plaintext.
type Options struct {
	Services []string // empty is all that are registered
	// TLS is how to speak to the instances. Nil is plaintext. Without a ServerName
	// an instance must prove the name of its service, as to a client.
	TLS *tls.Config
}

// The results of a check.
const (
	Passed  = "passed"
	Warning = "warning" // not wrong, but perhaps not what is wanted
	Failed  = "failed"
)

// The groups of checks.
const (
	Consul  = "consul"
	Clock   = "clock"
	Service = "service"
)

// Check is one thing that was looked at.
type Check struct {
	Group    string `json:"group"` // "consul", "clock" or "service"
	Service  string `json:"service,omitempty"`
	Instance string `json:"instance,omitempty"` // its id
	Address  string `json:"address,omitempty"`
	Name     string `json:"name"` // what was looked at
	Result   string `json:"result"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"` // what to do, unless it passed
}

// Report is what was found.
type Report struct {
	Passed   int     `json:"passed"`
	Warnings int     `json:"warnings"`
	Failed   int     `json:"failed"`
	Checks   []Check `json:"checks"` // by group; services by name, their instances by address
}

func (r *Report) add(checks ...Check) {
	for _, c := range checks {
		switch c.Result {
		case Passed:
			r.Passed++
		case Warning:
			r.Warnings++
		default:
			r.Failed++
		}
	}
	r.Checks = append(r.Checks, checks...)
}

const (
	maxReads  = 8  // services that are read at once
	maxProbes = 16 // instances that are asked at once
)

// Run looks at everything that options name. What has not been looked at when ctx
// ends has failed. Services are left out when Consul cannot be asked for them.
func Run(ctx context.Context, directory *consul.Directory, options Options) *Report {
	r := &Report{}
	if names, listed := r.consul(ctx, directory); listed {
		r.services(ctx, directory, options, names)
	}
	return r
}

// each does work for 0 to n-1, at most some of it at once.
func each(n, most int, work func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, most) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	workers.Wait()
}

// orNone is for what may be empty in a message.
func orNone(text string) string { return cmp.Or(text, "none") }
