// Package doctor checks a mesh: Consul, the clock, and each registered instance, which it
// probes itself to compare the result with Consul's. Each failed check comes with a fix.
//
//	report := doctor.Run(ctx, directory, doctor.Options{Services: []string{"catalog"}})
//	if report.Failed > 0 {
//		fmt.Println(report.Checks)
//	}
package doctor

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// Options say what to check, and how. The zero value checks everything in plaintext.
type Options struct {
	Services []string // empty is all that are registered
	// Credentials are those for the instances. Nil is plaintext. Unless they pin a name, an
	// instance must prove that of its service, as to a client.
	Credentials credentials.TransportCredentials
	Certificate bool // whether Credentials present a certificate
}

// The results of a check.
const (
	Passed  = "passed"
	Warning = "warning" // works, but may not be intended
	Failed  = "failed"
)

// The groups of checks.
const (
	Consul  = "consul"
	Clock   = "clock"
	Service = "service"
)

// Check is the result of one check.
type Check struct {
	Group    string `json:"group"` // "consul", "clock" or "service"
	Service  string `json:"service,omitempty"`
	Instance string `json:"instance,omitempty"` // its id
	Address  string `json:"address,omitempty"`
	Name     string `json:"name"` // what was checked
	Result   string `json:"result"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"` // what to do, unless it passed
}

// Report holds the results of all checks.
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
	maxReads  = 8  // services that are read concurrently
	maxProbes = 16 // instances that are probed concurrently
)

// Run checks everything that options name. Checks that are not done when ctx ends have
// failed. Services are left out when Consul cannot list them.
func Run(ctx context.Context, directory *consul.Directory, options Options) *Report {
	r := &Report{}
	if names, listed := r.consul(ctx, directory); listed {
		r.services(ctx, directory, options, names)
	}
	return r
}

// each does work for 0 to n-1, at most limit at once.
func each(n, limit int, work func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, limit) {
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
