package balancer_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// subsetOf asks the table of c for a subset of five of the first eight addresses, and
// returns the indices of those chosen.
func subsetOf(c *balancertest.Channel) (chosen []int, again time.Duration) {
	var addresses []string
	for i := range 8 {
		addresses = append(addresses, balancertest.Address(i))
	}
	is, again := c.Table.Subset(addresses, 5)
	for i := range is {
		if is[i] {
			chosen = append(chosen, i)
		}
	}
	return chosen, again
}

// Whoever chooses subsets sleeps as long as Subset says: until a dead member is exchanged
// after 10 s, the next one a second later, and one that is tried again has had its 5 s.
func TestSubsetSaysWhenToAskAgain(t *testing.T) {
	type step struct {
		what        string
		chosen      []int
		least, most time.Duration // of the time after which to ask again
		listed      []int         // what the channel lists then
	}
	for name, test := range map[string]struct {
		dead  []int
		steps []step
	}{
		"two die": {[]int{0, 1}, []step{
			{"lost", []int{0, 1, 2, 3, 4}, 10 * time.Second, 10 * time.Second, nil},
			{"exchanged one", []int{1, 2, 3, 4, 5}, time.Second, time.Second, nil},
			{"exchanged both", []int{2, 3, 4, 5, 6}, 0, 0, nil},
		}},
		"one is tried again": {[]int{0}, []step{
			{"lost", []int{0, 1, 2, 3, 4}, 10 * time.Second, 10 * time.Second, nil},
			{"exchanged", []int{1, 2, 3, 4, 5}, 0, 0, []int{1, 2, 3, 4, 5}},
			{"waits", []int{1, 2, 3, 4, 5}, 3750 * time.Millisecond, 6250 * time.Millisecond, nil},
			{"tried", []int{0, 1, 2, 3, 4, 5}, 5 * time.Second, 5 * time.Second, nil},
			{"tried in vain, waits longer", []int{1, 2, 3, 4, 5}, 7500 * time.Millisecond, 12500 * time.Millisecond, nil},
			{"tried once more", []int{0, 1, 2, 3, 4, 5}, 5 * time.Second, 5 * time.Second, nil},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := balancertest.New(t, leastrequest.Name)
				defer c.Policy.Close()
				all := balancertest.Instances(balancertest.Equal(8)...)
				c.ReadyInstances("{}", all...)
				if chosen, again := subsetOf(c); !slices.Equal(chosen, []int{0, 1, 2, 3, 4}) || again != 0 {
					t.Fatalf("chosen are %v, again after %v: want the first five, until something happens", chosen, again)
				}
				for _, i := range test.dead {
					c.Break(i)
				}
				for _, s := range test.steps {
					chosen, again := subsetOf(c)
					if !slices.Equal(chosen, s.chosen) || again < s.least || again > s.most {
						t.Fatalf("%s: chosen are %v, again after %v: want %v, after %v to %v", s.what, chosen, again, s.chosen, s.least, s.most)
					}
					time.Sleep(again)
					if s.listed == nil {
						continue
					}
					if err := c.UpdateInstances("{}", all[s.listed[0]:s.listed[len(s.listed)-1]+1]...); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

// One that is new, long after the channel has begun, has 10 s to connect, and again when
// it is listed anew.
func TestANewMemberHasItsTimeToConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, leastrequest.Name)
		defer c.Policy.Close()
		all := balancertest.Instances(balancertest.Equal(8)...)
		c.ReadyInstances("{}", all[1:]...)
		for range 2 {
			time.Sleep(time.Hour)
			if err := c.UpdateInstances("{}", all...); err != nil {
				t.Fatal(err)
			}
			if chosen, again := subsetOf(c); !slices.Equal(chosen, []int{0, 1, 2, 3, 4}) || again != 10*time.Second {
				t.Errorf("chosen are %v, again after %v: want the new one among the first five, for 10 s", chosen, again)
			}
			time.Sleep(9 * time.Second)
			if err := c.UpdateInstances("{}", all[1:]...); err != nil {
				t.Fatal(err)
			}
		}
	})
}
