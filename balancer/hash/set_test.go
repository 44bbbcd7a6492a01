package hash_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/hash"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// A set that hashes has a value's requests at one endpoint, its retries at another, and counts
// what is alive.
func TestASetHashes(t *testing.T) {
	if _, err := balancer.NewSet(balancer.NewTable(), hash.Name, []byte(config)); err == nil {
		t.Error("a set without values takes a policy that hashes")
	}
	var changes atomic.Int64
	set, err := balancer.NewHashSet(balancer.NewTable(), hash.Name, []byte(config), func() { changes.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	record := attempt.New()
	if set.Alive() != 0 || set.HasUntried(record) {
		t.Error("an empty set has endpoints")
	}
	var list []catalog.Instance
	for i := range 4 {
		address := balancertest.Address(i)
		list = append(list, catalog.Instance{ID: address, Address: address, Weight: 1})
	}
	set.Update(list)
	if set.Alive() != 4 || changes.Load() != 1 {
		t.Errorf("%d of 4 are alive, after %d changes", set.Alive(), changes.Load())
	}
	choose := func(record *attempt.Record, value string) string {
		choice, err := set.ChooseByHash(record, "GET", value)
		if err != nil {
			t.Fatal(err)
		}
		choice.Done(balancer.Result{Outcome: balancer.Succeeded})
		return choice.Instance().Address
	}
	at := map[string]string{}
	for i := range 200 {
		value := fmt.Sprint("customer-", i%50)
		address := choose(nil, value)
		if before, ok := at[value]; ok && before != address {
			t.Fatalf("%s goes to %s and to %s", value, before, address)
		}
		at[value] = address
	}
	first := choose(record, "customer-1")
	if second := choose(record.Next(), "customer-1"); second == first {
		t.Error("a retry goes where the first attempt went")
	}
	set.SetReachable(first, false)
	if set.Alive() != 3 || changes.Load() != 2 || choose(nil, "customer-1") == first {
		t.Errorf("%d are alive, after %d changes", set.Alive(), changes.Load())
	}
	last := attempt.New()
	for range 3 {
		if !set.HasUntried(last) {
			t.Error("there is an endpoint without an attempt")
		}
		choose(last, "customer-1")
		last = last.Next()
	}
	if set.HasUntried(last) {
		t.Error("all endpoints have an attempt")
	}
}
