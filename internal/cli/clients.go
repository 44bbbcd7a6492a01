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
	"sync"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// metricsAddress is the metadata by which a server tells where its admin page is.
const metricsAddress = "metrics_address"

// maxReads bounds the services that are read at once.
const maxReads = 8

// findClients are the instances of all services that tell where their admin page is,
// each program once, those that are well first. What cannot be read is told on stderr,
// and is an error if nothing can.
func findClients(ctx context.Context, directory *consul.Directory, queries []catalog.Query, stderr io.Writer) ([]client, error) {
	entries, err := everything(ctx, directory, queries, stderr)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(entries, func(a, b consul.Entry) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	own := ownAddresses()
	seen := map[[3]string]bool{}
	var clients []client
	for _, e := range entries {
		// A program may have several names.
		program := [3]string{e.Datacenter, e.Node, e.Metadata[metricsAddress]}
		if program[2] == "" || seen[program] {
			continue
		}
		seen[program] = true
		clients = append(clients, client{ID: e.ID, Address: program[2], Error: own.whyNot(e)})
	}
	return clients, nil
}

// everything is all that is registered in the datacenters of queries.
func everything(ctx context.Context, directory *consul.Directory, queries []catalog.Query, stderr io.Writer) ([]consul.Entry, error) {
	var services []catalog.Query
	for _, q := range queries {
		names, err := directory.Names(ctx, q.Datacenter)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			services = append(services, catalog.Query{Service: name, Datacenter: q.Datacenter, Consistency: q.Consistency})
		}
	}
	entries, errs := make([][]consul.Entry, len(services)), make([]error, len(services))
	each(len(services), maxReads, func(i int) { entries[i], errs[i] = directory.Entries(ctx, services[i]) })
	if len(services) > 0 && !slices.Contains(errs, nil) {
		return nil, errs[0]
	}
	for _, err := range errs {
		if err != nil {
			fmt.Fprintln(stderr, oneLine(err.Error()))
		}
	}
	return slices.Concat(entries...), context.Cause(ctx)
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

// whyNot says why an instance's admin page must not be asked, nothing if it may be. On
// the loopback of another host it cannot be reached, and here that address is of a
// program that has nothing to do with it.
func (o own) whyNot(e consul.Entry) string {
	address := e.Metadata[metricsAddress]
	switch {
	case !dialable(address):
		return "its metrics_address is not host:port"
	case loopback(hostOf(address)) && !o.here(hostOf(e.Address)):
		return "its admin page is on the loopback of another host: run this there, or give it meshlite.WithMetricsAddress"
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

// loopback reports whether host is another one for each who dials it.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsUnspecified()
}

func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}
