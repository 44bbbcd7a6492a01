package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// metricsAddress is the metadata key under which a server publishes its admin page.
const metricsAddress = "metrics_address"

// metricsService is the metadata key under which it publishes its own name, for its others.
const metricsService = "metrics_service"

// maxReads bounds the services that are read at once.
const maxReads = 8

// process is a program that has an admin page.
type process struct {
	ID      string `json:"id,omitempty"`    // of its instance, empty when it was named
	Address string `json:"address"`         // of its admin page
	Error   string `json:"error,omitempty"` // why it could not be asked

	service string // of its instance, empty when it was named
	proves  string // the service that its certificate must be of, if it is read by HTTPS
	named   bool   // by --client
}

// name is the process for people.
func (p process) name() string {
	if p.ID == "" {
		return oneLine(p.Address)
	}
	return name(attempt.Instance{ID: p.ID, Address: p.Address})
}

// checkClients refuses flags of Consul beside --client, where Consul is asked for clients alone.
func checkClients(clients []string, agent string, datacenters []string) error {
	if len(clients) > 0 && (agent != "" || len(datacenters) > 0) {
		return Usagef("--client together with --http-addr or --dc: clients that are named are not looked for in Consul")
	}
	return nil
}

// named are those of --client, each once.
func named(addresses []string) (list []process) {
	for _, address := range slices.Compact(slices.Sorted(slices.Values(addresses))) {
		list = append(list, process{Address: address, named: true})
	}
	return list
}

// withPages are the instances that publish an admin page, each program once, passing
// ones first.
func (o PageAccess) withPages(entries []consul.Entry) []process {
	slices.SortStableFunc(entries, func(a, b consul.Entry) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	own := ownAddresses()
	seen := map[[3]string]bool{}
	var list []process
	for _, e := range entries {
		// A program may have several names.
		program := [3]string{e.Datacenter, e.Node, e.Metadata[metricsAddress]}
		if program[2] == "" || seen[program] {
			continue
		}
		seen[program] = true
		p := process{ID: e.ID, Address: program[2], Error: own.whyNot(e), service: e.Service, proves: cmp.Or(e.Metadata[metricsService], e.Service)}
		if o.Security.Identity != "" {
			p.Address = https + p.Address
		}
		list = append(list, p)
	}
	return list
}

// everything lists all instances in the datacenters of queries. Services that cannot be
// read are reported on stderr and counted; if none can be read, that is an error.
func everything(ctx context.Context, directory *consul.Directory, queries []catalog.Query, stderr io.Writer) (all []consul.Entry, unread int, err error) {
	var services []catalog.Query
	for _, q := range queries {
		names, err := directory.ServiceNames(ctx, q.Datacenter)
		if err != nil {
			return nil, 0, err
		}
		for _, name := range names {
			services = append(services, catalog.Query{Service: name, Datacenter: q.Datacenter, Consistency: q.Consistency})
		}
	}
	entries, errs := make([][]consul.Entry, len(services)), make([]error, len(services))
	each(len(services), maxReads, func(i int) { entries[i], errs[i] = directory.Entries(ctx, services[i]) })
	if len(services) > 0 && !slices.Contains(errs, nil) {
		return nil, 0, errs[0]
	}
	for _, err := range errs {
		if err != nil {
			fmt.Fprintln(stderr, oneLine(err.Error()))
			unread++
		}
	}
	return slices.Concat(entries...), unread, context.Cause(ctx)
}

// each does work for 0 to n-1, some at once.
func each(n, atOnce int, work func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, atOnce) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	workers.Wait()
}

// own are the names and addresses of this host.
type own map[string]bool

func ownAddresses() own {
	o := own{}
	if name, err := os.Hostname(); err == nil {
		o[name] = true
	}
	addresses, _ := net.InterfaceAddrs() // without them, only loopback is ours
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			o[prefix.Addr().Unmap().String()] = true
		}
	}
	return o
}

// whyNot returns why an instance's admin page must not be asked, or "". A loopback
// address of another host cannot be reached, and on this host it is another program's.
func (o own) whyNot(e consul.Entry) string {
	address := e.Metadata[metricsAddress]
	switch {
	case !dialable(address):
		return "its metrics_address is not host:port"
	case loopback(hostOf(address)) && !o.here(hostOf(e.Address)):
		host := cmp.Or(hostOf(e.Address), e.Node)
		return fmt.Sprintf("its admin page is on the loopback of host %s: run this there, or start it with meshlite.WithMetricsAddress(%q)",
			host, net.JoinHostPort(host, "0"))
	default:
		return ""
	}
}

// here reports whether host is this one.
func (o own) here(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return loopback(host) || o[host]
}

// loopback reports whether host means the machine that dials it.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsUnspecified()
}

func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}
