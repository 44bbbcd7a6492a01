package demo

import (
	"math"
	"testing"
	"time"
)

// observed is what the living have handled at a time.
type observed struct {
	at    time.Duration
	calls map[string]uint64
}

func TestShares(t *testing.T) {
	type calls = map[string]uint64
	for name, test := range map[string]struct {
		looks []observed
		want  map[string]share
	}{
		"even": {
			[]observed{{0, calls{"a": 0, "b": 0}}, {time.Second, calls{"a": 50, "b": 50}}, {3 * time.Second, calls{"a": 150, "b": 150}}},
			map[string]share{"a": {100, 100}, "b": {100, 100}},
		},
		"uneven": {
			[]observed{{0, calls{"a": 0, "b": 0}}, {time.Second, calls{"a": 90, "b": 10}}, {3 * time.Second, calls{"a": 270, "b": 30}}},
			map[string]share{"a": {180, 100}, "b": {20, 100}},
		},
		"calls before it has settled do not count": {
			[]observed{{0, calls{"a": 0, "b": 0}}, {settle / 2, calls{"a": 70, "b": 0}}, {settle, calls{"a": 70, "b": 10}}, {settle + minWindow, calls{"a": 80, "b": 20}}},
			map[string]share{"a": {10, 10}, "b": {10, 10}},
		},
		"one joins and is due its share from then on": {
			[]observed{
				{0, calls{"a": 0, "b": 0}}, {time.Second, calls{"a": 10, "b": 10}}, {5 * time.Second, calls{"a": 40, "b": 40}},
				{6 * time.Second, calls{"a": 44, "b": 44, "c": 2}}, {21 * time.Second, calls{"a": 50, "b": 50, "c": 10}}, {23 * time.Second, calls{"a": 70, "b": 70, "c": 30}},
			},
			map[string]share{"a": {50, 50}, "b": {50, 50}, "c": {20, 20}},
		},
		"a new one is due what its slow start leaves it": {
			[]observed{
				{0, calls{"a": 0}}, {6 * time.Second, calls{"a": 44, "b": 2}}, {9 * time.Second, calls{"a": 50, "b": 10}},
				{11 * time.Second, calls{"a": 150, "b": 60}}, {13 * time.Second, calls{"a": 250, "b": 130}},
			},
			map[string]share{"a": {200, 150/1.5 + 170/1.7}, "b": {120, 150*.5/1.5 + 170*.7/1.7}},
		},
		"one dies and what it had stands": {
			[]observed{
				{0, calls{"a": 0, "b": 0}}, {time.Second, calls{"a": 10, "b": 10}}, {5 * time.Second, calls{"a": 40, "b": 40}},
				{6 * time.Second, calls{"b": 50}}, {7 * time.Second, calls{"b": 60}}, {9 * time.Second, calls{"b": 90}},
			},
			map[string]share{"a": {30, 30}, "b": {60, 60}},
		},
		"a short window is not judged": {
			[]observed{{0, calls{"a": 0, "b": 0}}, {settle, calls{"a": 0, "b": 0}}, {settle + minWindow - 1, calls{"a": 99, "b": 1}}, {5 * time.Second, calls{"a": 99}}},
			map[string]share{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s shares
			start := time.Now()
			for _, look := range test.looks {
				s.observe(start.Add(look.at), look.calls)
			}
			s.close()
			if len(s.sum) != len(test.want) {
				t.Fatalf("got %v, want %v", s.sum, test.want)
			}
			for id, want := range test.want {
				if got := s.sum[id]; got.calls != want.calls || math.Abs(got.expected-want.expected) > 1e-9 {
					t.Errorf("%s: got %v, want %v", id, got, want)
				}
			}
		})
	}
}
