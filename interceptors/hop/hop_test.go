package hop_test

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/hop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A handler's calls are below the record of the call that it handles.
func Example() {
	record := hop.New("server", "shop.Shop/Browse", 7)
	record.Note(func(h *hop.Hop) { h.Cache = &hop.Cache{Result: "miss"} })
	call := record.Call("shop.Catalog/List", "consul:///catalog")
	call.End("OK")
	record.End("OK")

	answer := hop.Encode(record.Close(), 6<<10)
	read, err := hop.Decode(answer)
	fmt.Println(err, read.Method, read.Cache.Result, read.Calls[0].Method, read.Calls[0].Code)
	// Output: <nil> shop.Shop/Browse miss shop.Catalog/List OK
}

// A record that nobody wants takes notes and keeps none, and a closed one does not change.
func TestARecordOfNobodyDoesNothing(t *testing.T) {
	var nobody *hop.Record
	nobody.Note(func(*hop.Hop) { t.Error("a note is taken") })
	nobody.Attempted(nobody.Attempt(hop.Attempt{}), func(*hop.Attempt) { t.Error("an attempt is recorded") }, nil)
	nobody.End("OK")
	if call := nobody.Call("a/b", ""); call != nil || nobody.Left() != 0 {
		t.Error("there is a record of a call")
	}
	text, took := "policy", time.Second
	if n := testing.AllocsPerRun(100, func() {
		nobody.Note(func(h *hop.Hop) { h.Deadline = &hop.Deadline{Left: hop.Milliseconds(took), By: text} })
	}); n != 0 {
		t.Errorf("a note for nobody allocates %v times", n)
	}

	record := hop.New("server", "a/b", 7)
	call, at := record.Call("c/d", ""), record.Attempt(hop.Attempt{})
	closed := record.Close()
	record.Note(func(*hop.Hop) { t.Error("a closed record takes a note") })
	record.End("OK")
	record.Attempted(at, func(*hop.Attempt) { t.Error("a closed record takes an attempt") }, nil)
	call.End("OK")
	if record.Call("e/f", "") != nil || record.Attempt(hop.Attempt{}) != -1 || closed.Code != "" || closed.Calls[0].Code != "" || len(closed.Calls) != 1 {
		t.Errorf("a closed record has changed: %+v", closed)
	}
}

// Notes, calls and attempts may come from many goroutines, also while the record is closed.
func TestARecordIsSafeForConcurrentUse(t *testing.T) {
	record := hop.New("server", "a/b", 7)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				call := record.Call("c/d", "")
				call.Note(func(h *hop.Hop) { h.AddLimit(hop.Limit{Name: "all"}) })
				call.Attempted(call.Attempt(hop.Attempt{}), func(a *hop.Attempt) { a.Code = "OK" }, &hop.Hop{Side: "server"})
				call.End("OK")
			}
		})
	}
	hop.Encode(record.Close(), 6<<10)
	all.Wait()
}

// Lists do not grow with a stream that goes on: the latest verdict of a limit counts.
func TestListsAreBounded(t *testing.T) {
	record := hop.New("client", "a/b", 7)
	for i := range 100 {
		record.Note(func(h *hop.Hop) {
			h.AddLimit(hop.Limit{Name: "all", Result: fmt.Sprint(i)})
			h.AddLimit(hop.Limit{Name: fmt.Sprint("limit ", i)})
			h.AddDecision(hop.Decision{Policy: "own", Rule: fmt.Sprint(i)})
			h.AddDecision(hop.Decision{Policy: fmt.Sprint("policy ", i)})
		})
		record.Attempt(hop.Attempt{Number: i})
		record.Call("c/d", "")
	}
	h := record.Close()
	if len(h.Limits) != 32 || h.Limits[0].Result != "99" || len(h.Authorization) != 32 || h.Authorization[0].Rule != "99" || len(h.Attempts) != 32 || len(h.Calls) != 32 || h.LeftOut != 2*68 {
		t.Errorf("%d limits, %d decisions, %d attempts, %d calls, %d left out", len(h.Limits), len(h.Authorization), len(h.Attempts), len(h.Calls), h.LeftOut)
	}
}

// tree is a call of so many hops, in a shape that seed decides.
func tree(random *rand.Rand, hops int) *hop.Hop {
	all := []*hop.Hop{server(0)}
	for i := 1; i < hops; i++ {
		of := all[random.IntN(len(all))]
		made := server(i)
		of.Calls = append(of.Calls, &hop.Hop{Side: "client", Method: "a/b", Attempts: []hop.Attempt{{Number: 1, Server: made}}})
		all = append(all, made)
	}
	return all[0]
}

func server(i int) *hop.Hop {
	return &hop.Hop{Side: "server", Method: fmt.Sprint("a/", i), Instance: fmt.Sprintf("instance-%d-%x", i, rand.Uint64()), Code: "OK"}
}

// total counts hops, and those that are left out.
func total(h *hop.Hop) int {
	n := 1 + h.LeftOut
	for _, a := range h.Attempts {
		if a.Server != nil {
			n += total(a.Server)
		}
	}
	for _, call := range h.Calls {
		n += total(call)
	}
	return n
}

func servers(h *hop.Hop) int {
	deepest := 0
	for _, a := range h.Attempts {
		if a.Server != nil {
			deepest = max(deepest, servers(a.Server))
		}
	}
	for _, call := range h.Calls {
		deepest = max(deepest, servers(call))
	}
	if h.Side == "server" {
		deepest++
	}
	return deepest
}

// What does not fit is left out, from the deepest hops on, and every hop is counted.
func TestWhatDoesNotFitIsCounted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		hops, most := 1+random.IntN(300), 100+random.IntN(4000)
		h := tree(random, hops)
		want := total(h)
		encoded := hop.Encode(h, most)
		if len(encoded) > most {
			t.Fatalf("%d bytes, want %d at most", len(encoded), most)
		}
		if encoded == nil {
			t.Fatalf("%d hops in %d bytes: nothing is there", hops, most)
		}
		read, err := hop.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if got := total(read); got != want || servers(read) > hop.MaxHops {
			t.Errorf("%d hops in %d bytes: %d are there or counted, %d behind each other", want, most, got, servers(read))
		}
	}
	if got := hop.Encode(server(1), 10); got != nil {
		t.Errorf("%d bytes for a hop that has no room", len(got))
	}
}

// What anybody answers is cut to the bounds of a record, or refused.
func TestAnswersAreNotBelieved(t *testing.T) {
	packed := func(text string) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "no deflate": []byte("{}"), "no JSON": packed("hello"), "another type": packed("[]"),
		"a client": packed(`{"side": "client"}`), "nobody": packed(`{}`), "a bomb": packed(`{"side":"server","method":"` + strings.Repeat("x", 10<<20) + `"}`),
		"deep JSON": packed(strings.Repeat(`{"calls":[`, 20000)),
	} {
		if h, err := hop.Decode(data); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	deep := strings.Repeat(`{"side":"server","attempts":[{"server":`, 100) + "null" + strings.Repeat(`}]}`, 100)
	if h, err := hop.Decode(packed(deep)); err != nil || servers(h) != hop.MaxHops {
		t.Errorf("100 servers one behind the other: %v, %d", err, servers(h))
	}
	long := strings.Repeat("x", 1000)
	wide, err := json.Marshal(&hop.Hop{Side: "server", Method: long, Route: &hop.Route{Name: long}, Cache: &hop.Cache{Why: "\xff" + long},
		Limits: make([]hop.Limit, 50), Authorization: []hop.Decision{{Rule: long}}, Calls: append(make([]*hop.Hop, 40), &hop.Hop{}), Attempts: make([]hop.Attempt, 50)})
	if err != nil {
		t.Fatal(err)
	}
	h, err := hop.Decode(packed(string(wide)))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{h.Method, h.Route.Name, h.Cache.Why, h.Authorization[0].Rule} {
		if len(text) > 260 {
			t.Errorf("a text has %d bytes", len(text))
		}
	}
	if len(h.Limits) != 32 || len(h.Calls) != 1 || len(h.Attempts) != 32 || h.LeftOut != 18 {
		t.Errorf("%d limits, %d calls, %d attempts, %d left out", len(h.Limits), len(h.Calls), len(h.Attempts), h.LeftOut)
	}
}

// FuzzDecode keeps that no answer panics, and that what is read can be passed on.
func FuzzDecode(f *testing.F) {
	f.Add(hop.Encode(tree(rand.New(rand.NewPCG(1, 2)), 20), 6<<10))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := hop.Decode(data)
		if err != nil {
			return
		}
		again, err := hop.Decode(hop.Encode(h, 1<<20))
		first, _ := json.Marshal(h)
		if second, _ := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v: %s became %s", err, first, second)
		}
	})
}

// BenchmarkAnswer is what a server pays for an explanation: of 8 hops, and of more than fit.
func BenchmarkAnswer(b *testing.B) {
	for _, hops := range []int{1, 8, 250} {
		b.Run(fmt.Sprint(hops, " hops"), func(b *testing.B) {
			h := tree(rand.New(rand.NewPCG(1, 2)), hops)
			b.ReportAllocs()
			for b.Loop() {
				hop.Encode(h, 6<<10)
			}
		})
	}
}
