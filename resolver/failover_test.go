package resolver_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
)

// pair is a resolver over two datacenters, near and far.
func pair(t *testing.T, opts ...resolver.Option) (near, far, channel *scene) {
	d := byDatacenter{"near": {}, "far": {}}
	cc := &recorder{}
	r := build(t, resolver.NewBuilder(d, append([]resolver.Option{resolver.WithLogger(silent)}, opts...)...), "consul:///catalog?dc=near&dc=far", cc)
	t.Cleanup(r.Close)
	return &scene{directory: d["near"], channel: cc}, &scene{directory: d["far"], channel: cc}, &scene{channel: cc}
}

// R6, with failover: that the next datacenter cannot be asked keeps nobody from
// the removal of the last instance of the first one.
//
// Case R6
func TestRemovalIsBelievedWhileTheNextDatacenterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, channel := pair(t)
		far.directory.fail(errors.New("no path to datacenter"))
		near.answer(1)
		near.answer()
		time.Sleep(16 * time.Second)
		if got := channel.endpoints(); len(got) != 0 {
			t.Errorf("endpoints are %v after the grace time, want none", got)
		}
	})
}

// A grace time that is shorter than the start timeout does not put it off.
//
// Case R20
func TestASilentDatacenterIsGivenUpAfterTheStartTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _, channel := pair(t, resolver.WithGrace(time.Second))
		near.answer(1)
		near.answer()
		time.Sleep(4 * time.Second)
		if got := channel.endpoints(); len(got) != 1 {
			t.Errorf("endpoints are %v while the far datacenter has time to answer, want the one of the earlier list", got)
		}
		time.Sleep(2 * time.Second)
		if got := channel.endpoints(); len(got) != 0 {
			t.Errorf("endpoints are %v after the start timeout, want none", got)
		}
	})
}

// An earlier list does not delay the failover: that the first datacenter failed is part
// of it.
//
// Case R20
func TestIdleChannelComesBackToTheDatacenterThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := byDatacenter{"near": {}, "far": {}}
		builder := resolver.NewBuilder(d, resolver.WithLogger(silent))
		for turn := range 3 {
			cc := &recorder{}
			r := build(t, builder, "consul:///catalog?dc=near&dc=far", cc)
			near, far := &scene{directory: d["near"], channel: cc}, &scene{directory: d["far"], channel: cc}
			if turn == 0 {
				near.answer(1)
			}
			near.directory.fail(errors.New("no path to datacenter"))
			got := far.answer(2)
			if turn > 0 && (len(got) != 1 || got[0] != address(2)) {
				t.Errorf("turn %d: endpoints are %v, want those of the second datacenter", turn, got)
			}
			time.Sleep(time.Minute)
			r.Close()
		}
	})
}

// When none answers, the earlier list serves at once.
func TestIdleChannelComesBackWhileNoDatacenterAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := byDatacenter{"near": {}, "far": {}}
		builder := resolver.NewBuilder(d, resolver.WithLogger(silent))
		for turn := range 2 {
			cc := &recorder{}
			r := build(t, builder, "consul:///catalog?dc=near&dc=far", cc)
			near, far := &scene{directory: d["near"], channel: cc}, &scene{directory: d["far"], channel: cc}
			if turn == 0 {
				near.answer(1)
				far.answer(2)
			}
			near.directory.fail(errors.New("refused"))
			far.directory.fail(errors.New("refused"))
			if got := near.endpoints(); len(got) != 1 || got[0] != address(1) {
				t.Errorf("turn %d: endpoints are %v, want those of the first datacenter", turn, got)
			}
			r.Close()
		}
	})
}

// A datacenter that fails again and again keeps what it has answered for one grace time,
// from its first failure on, and then the next one is taken.
//
// Case R6
func TestFailoverIsNotPutOffByMoreFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, channel := pair(t)
		near.answer(1)
		far.answer(2)
		for second := range 60 {
			near.directory.fail(errors.New("no path to datacenter"))
			want := address(1)
			if second > 15 { // the default grace time
				want = address(2)
			}
			if got := channel.endpoints(); second != 15 && (len(got) != 1 || got[0] != want) {
				t.Fatalf("endpoints are %v after %d s of failures, want %s", got, second, want)
			}
			time.Sleep(time.Second)
		}
		near.answer(1) // a success ends it, and the next failure begins a grace time of its own
		near.directory.fail(errors.New("no path to datacenter"))
		time.Sleep(14 * time.Second)
		if got := channel.endpoints(); len(got) != 1 || got[0] != address(1) {
			t.Errorf("endpoints are %v within the grace time of the next failure, want those of the first datacenter", got)
		}
	})
}
