package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	service, method := rpc.SplitMethod("/shop.Catalog/GetSweet")
	fmt.Println(service, method, rpc.Code(context.DeadlineExceeded))
	// Output: shop.Catalog GetSweet DeadlineExceeded
}

func TestCodeIsTheOneOnTheWire(t *testing.T) {
	for want, err := range map[codes.Code]error{
		codes.OK:               nil,
		codes.NotFound:         fmt.Errorf("catalog: %w", status.Error(codes.NotFound, "no fudge")),
		codes.Canceled:         context.Canceled,
		codes.DeadlineExceeded: fmt.Errorf("catalog: %w", context.DeadlineExceeded),
		codes.Unknown:          errors.New("driver: bad connection"),
	} {
		if got := rpc.Code(err); got != want {
			t.Errorf("%v has %v, want %v", err, got, want)
		}
	}
}

func TestMethodsAreSplit(t *testing.T) {
	for full, want := range map[string][2]string{
		"/shop.Catalog/GetSweet": {"shop.Catalog", "GetSweet"}, "a/b/c": {"a/b", "c"}, "/alone": {"", "alone"}, "": {"", ""},
	} {
		if service, method := rpc.SplitMethod(full); service != want[0] || method != want[1] {
			t.Errorf("%q is %q and %q", full, service, method)
		}
	}
}

func TestATableIsBoundedAndKeepsTheFirst(t *testing.T) {
	table := rpc.Table[int, int]{Max: 100}
	if _, ok := table.Get(1); ok || table.Full() {
		t.Fatal("an empty table has something")
	}
	var adding sync.WaitGroup
	for worker := range 4 {
		adding.Go(func() {
			for key := range 200 {
				table.Add(key, worker)
			}
		})
	}
	adding.Wait()
	n := 0
	for key := range 200 {
		value, ok := table.Get(key)
		if !ok {
			continue
		}
		n++
		if got := table.Add(key, -1); got != value {
			t.Errorf("the value of %d changes from %d to %d", key, value, got)
		}
	}
	if n != 100 || !table.Full() {
		t.Errorf("%d entries, want 100", n)
	}
	if got := table.Add(1000, 7); got != 7 {
		t.Errorf("a full table returns %d for a new value of 7", got)
	}
	if _, ok := table.Get(1000); ok {
		t.Error("a full table has taken one more")
	}
	base := table.Max
	if got := testing.AllocsPerRun(100, func() { table.Get(1); table.Of(1, func() int { return base }) }); got != 0 {
		t.Errorf("%v allocations for a hit, want 0", got)
	}
}

// A value is made once, and not at all when there is no room for it.
func TestATableMakesWhatItLacksOnce(t *testing.T) {
	var table rpc.Table[int, *int]
	made := 0
	create := func() *int { made++; return new(int) }
	first, _ := table.Of(0, create)
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for key := range rpc.MaxMethods {
				table.Of(key, create)
			}
		})
	}
	asking.Wait()
	if again, ok := table.Of(0, create); !ok || again != first {
		t.Error("the value of a key has changed")
	}
	if value, ok := table.Of(-1, create); ok || value != nil || made != rpc.MaxMethods {
		t.Errorf("a full table has made %d values, and %v for one more", made, value)
	}
}

func TestATableReplacesAndDeletes(t *testing.T) {
	table := rpc.Table[string, int]{Max: 2}
	table.Delete("none")
	table.Set("a", 1)
	table.Set("b", 2)
	table.Set("c", 3) // there is no room
	table.Set("a", 4)
	before := maps.Collect(table.All())
	table.Delete("b")
	table.Set("c", 5)
	if after := maps.Collect(table.All()); !maps.Equal(before, map[string]int{"a": 4, "b": 2}) || !maps.Equal(after, map[string]int{"a": 4, "c": 5}) {
		t.Errorf("%v, and then %v", before, after)
	}
}

// What is to run at the end of a call is taken out for its attempts, in order. The caller's
// own options stay as they are.
func TestFinishOptionsAreSplitOff(t *testing.T) {
	var ran []string
	on := func(name string) grpc.CallOption {
		return grpc.OnFinish(func(err error) { ran = append(ran, name+" "+err.Error()) })
	}
	all := []grpc.CallOption{on("a"), grpc.WaitForReady(true), on("b")}
	rest, finish := rpc.SplitFinish(all)
	finish.Run(io.EOF)
	_, wait := rest[0].(grpc.FailFastCallOption)
	if _, kept := all[0].(grpc.OnFinishCallOption); len(rest) != 1 || !wait || !kept || fmt.Sprint(ran) != "[a EOF b EOF]" {
		t.Errorf("%v are left of %v, and %q ran", rest, all, ran)
	}
	rest, finish = rpc.SplitFinish(rest)
	finish.Run(nil)
	if len(rest) != 1 || len(ran) != 2 {
		t.Errorf("%v without such options, and %q ran", rest, ran)
	}
	if n := testing.AllocsPerRun(100, func() { rpc.SplitFinish(rest) }); n != 0 {
		t.Errorf("%v allocations without such options, want 0", n)
	}
}

// stream answers by receive; gRPC's own end is in ended.
type stream struct {
	grpc.ClientStream
	receive error
}

func (s *stream) RecvMsg(any) error { return s.receive }

// The end of a stream is reported once, however it comes.
func TestTheEndOfAStreamIsReportedOnce(t *testing.T) {
	gone := status.Error(codes.Unavailable, "gone")
	for name, test := range map[string]struct {
		desc      grpc.StreamDesc
		opens     error
		panics    bool
		finish    error // of gRPC, before the messages are read
		finishes  bool
		receive   error
		ends      int
		wantError error
	}{
		"all messages read":   {desc: grpc.StreamDesc{ServerStreams: true}, receive: io.EOF, ends: 1},
		"failed":              {desc: grpc.StreamDesc{ServerStreams: true}, receive: gone, ends: 1, wantError: gone},
		"gRPC says so first":  {desc: grpc.StreamDesc{ServerStreams: true}, finish: gone, finishes: true, receive: io.EOF, ends: 1, wantError: gone},
		"one message is all":  {ends: 1},
		"goes on":             {desc: grpc.StreamDesc{ServerStreams: true}},
		"cannot be opened":    {opens: gone, ends: 1, wantError: gone},
		"panics while opened": {panics: true, ends: 1, wantError: rpc.ErrPanic},
	} {
		t.Run(name, func(t *testing.T) {
			var ends []error
			streamer := func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				if test.panics {
					panic("no stream")
				}
				if test.finishes {
					opts[0].(grpc.OnFinishCallOption).OnFinish(test.finish)
				}
				return &stream{receive: test.receive}, test.opens
			}
			func() {
				defer func() { _ = recover() }()
				s, err := rpc.OpenStream(t.Context(), &test.desc, nil, "/shop.Catalog/Browse", streamer, nil, func(err error) { ends = append(ends, err) })
				if err == nil {
					_ = s.RecvMsg(nil)
					_ = s.RecvMsg(nil)
				}
			}()
			if len(ends) != test.ends {
				t.Fatalf("%d ends, want %d", len(ends), test.ends)
			}
			if test.ends > 0 && !errors.Is(ends[0], test.wantError) {
				t.Errorf("it ends with %v, want %v", ends[0], test.wantError)
			}
		})
	}
}
