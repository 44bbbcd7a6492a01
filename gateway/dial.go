package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Dial makes a [Service] of a target as [meshlite.NewClient] takes it: its channel, whose
// policies follow the contract, reflection over it, and the changes of its instances in
// directory. Name is the service in the directory, or the target. A nil directory is for
// targets that are not of Consul. Set Offer before New. Close the Service to end its channel
// and its watch.
//
// The channel caches private answers only with a runtime whose Callers were made with
// caller.WithForwardedSubject: then for each subject that the edge has verified.
func Dial(target string, directory meshlite.Directory, opts ...meshlite.ClientOption) (Service, error) {
	queries, err := queriesOf(target)
	if err != nil {
		return Service{}, fmt.Errorf("gateway: %w", err)
	}
	s := Service{Name: resolver.Redact(target), Contracts: &interceptors.Contracts{}}
	own := []meshlite.ClientOption{meshlite.WithContracts(s.Contracts)}
	if len(queries) > 0 {
		if directory == nil {
			return Service{}, errors.New("gateway: Dial of a consul target needs its directory: give the *consul.Directory that consul.New makes")
		}
		s.Name, own = queries[0].Service, append(own, meshlite.WithDirectory(directory))
	}
	conn, err := meshlite.NewClient(target, append(own, opts...)...)
	if err != nil {
		return Service{}, err
	}
	s.Conn, s.Contract = conn, contract.Reflection(conn)
	ctx, cancel := context.WithCancel(context.Background())
	changed, watches := make(chan struct{}, 1), &sync.WaitGroup{}
	for _, query := range queries {
		watches.Go(func() { watch(ctx, directory, query, changed) })
	}
	s.Changed = changed
	s.close = sync.OnceFunc(func() {
		cancel()
		watches.Wait()
		_ = conn.Close() // it is closed once
	})
	return s, nil
}

// queriesOf are one for each datacenter of a consul target, none for other targets.
func queriesOf(target string) ([]catalog.Query, error) {
	if !strings.HasPrefix(target, resolver.Scheme+":") {
		return nil, nil
	}
	t, err := resolver.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	if len(t.Datacenters) == 0 {
		t.Datacenters = []string{""}
	}
	var queries []catalog.Query
	for _, datacenter := range t.Datacenters {
		queries = append(queries, catalog.Query{Service: t.Service, Tags: t.Tags, Datacenter: datacenter, Filter: t.Filter, Consistency: t.Consistency})
	}
	return queries, nil
}

// watch signals changed with each new answer of the directory. A restart at the same address
// changes nothing but its index.
func watch(ctx context.Context, directory catalog.Watcher, query catalog.Query, changed chan<- struct{}) {
	var last uint64
	directory.Watch(ctx, query, func(snapshot catalog.Snapshot, err error) {
		if err != nil || snapshot.Index == last {
			return
		}
		last = snapshot.Index
		select {
		case changed <- struct{}{}:
		default: // one is waiting
		}
	})
}
