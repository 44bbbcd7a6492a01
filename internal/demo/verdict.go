package demo

import (
	"fmt"
	"math"
	"slices"
)

// What must hold.
const (
	minRate   = 200  // calls/s before the doubling
	minDoor   = 0.25 // of the calls
	maxOff    = 0.2  // of the expected calls
	maxJoined = 1000 // milliseconds from registration to first call
	minRatio  = 0.5  // of cache hits
	busyPart  = 20   // one in so many calls sent late says that the machine was too busy
	// uneven is called by least request and slowed down unevenly on purpose.
	uneven = "inventory"
)

// Condition is one thing that must hold, and whether it did.
type Condition struct {
	Name   string
	Held   bool
	Figure string
	Aim    string
}

// Conditions are all that must hold, in the order in which they are shown.
func (r *Result) Conditions() []Condition {
	return []Condition{
		r.nobodyFailed(), r.enoughCalls(), r.enoughOrders(), r.throughGateway(), r.evenShares(),
		r.joinedSoon(), r.cacheHits(), r.abuserHeld(),
	}
}

// Broken are the conditions that did not hold, each with its figure and aim.
func (r *Result) Broken() []string {
	var broken []string
	for _, c := range r.Conditions() {
		if !c.Held {
			broken = append(broken, fmt.Sprintf("%s: %s, not %s", c.Name, c.Figure, c.Aim))
		}
	}
	if len(broken) > 0 && r.late*busyPart > r.Calls {
		broken = append(broken, fmt.Sprintf("and this machine was too busy: %d of %d calls could not be sent when they were due: try again when it is idle", r.late, r.Calls))
	}
	return broken
}

func (r *Result) nobodyFailed() Condition {
	return Condition{"ordinary customers' failed calls", r.Calls > 0 && r.Failed == 0,
		fmt.Sprintf("%d of %d", r.Failed, r.Calls), "0"}
}

func (r *Result) enoughCalls() Condition {
	rate := float64(r.before.calls) / r.before.seconds
	return Condition{"calls/s before the doubling", rate >= minRate,
		fmt.Sprintf("%.0f", rate), fmt.Sprintf("%d or more", minRate)}
}

// enoughOrders is off by one at most, since a tenth of the calls is no whole
// number of orders.
func (r *Result) enoughOrders() Condition {
	held := r.before.calls > 0 && (r.before.orders+1)*orderEvery >= r.before.calls
	return Condition{"orders among them", held,
		fmt.Sprintf("%.1f%%", 100*float64(r.before.orders)/max(1, float64(r.before.calls))),
		fmt.Sprintf("%d%%", 100/orderEvery)}
}

// throughGateway is a little less than a third, as customers are chosen at random.
func (r *Result) throughGateway() Condition {
	part := float64(r.Gateway) / max(1, float64(r.Calls))
	return Condition{"calls through the gateway", part >= minDoor,
		fmt.Sprintf("%d, %.0f%%", r.Gateway, 100*part), fmt.Sprintf("%.0f%% or more", 100*minDoor)}
}

// evenShares judges the instance that is farthest from its expected share. Instances
// with too few expected calls are left out; at least one must remain.
func (r *Result) evenShares() Condition {
	c := Condition{Name: "instance farthest from its share", Figure: "too few calls",
		Aim: fmt.Sprintf("within %.0f%%", 100*maxOff)}
	var judged []card
	for _, card := range r.cards {
		if card.service != uneven && card.share.judged() {
			judged = append(judged, card)
		}
	}
	if len(judged) == 0 {
		return c
	}
	worst := slices.MaxFunc(judged, func(a, b card) int {
		return int(math.Copysign(1, math.Abs(a.share.off())-math.Abs(b.share.off())))
	})
	c.Held = math.Abs(worst.share.off()) <= maxOff
	c.Figure = fmt.Sprintf("%s by %+.1f%%", worst.name, 100*worst.share.off())
	return c
}

func (r *Result) joinedSoon() Condition {
	return Condition{"first call of a new replica after", r.Joined > 0 && r.Joined <= maxJoined,
		fmt.Sprintf("%.0f ms", r.Joined), fmt.Sprintf("%d ms or less", maxJoined)}
}

func (r *Result) cacheHits() Condition {
	held, going := r.Cache.ratio() >= minRatio, "with misses"
	for p, c := range r.caches {
		if c.Misses == 0 {
			held, going = false, "no misses in phase "+phaseNames[p]
		}
	}
	return Condition{"cache hits", held,
		fmt.Sprintf("%.2f, %s", r.Cache.ratio(), going), fmt.Sprintf("%.1f or more, and misses", minRatio)}
}

// abuserHeld also needs a refusal: an abuser that was never refused has not
// tried, and proves nothing.
func (r *Result) abuserHeld() Condition {
	held := r.Abuser.Admitted <= r.Abuser.Allowed && r.Refused > 0
	return Condition{"admitted calls of the abuser", held,
		fmt.Sprintf("%d, %d refused", r.Abuser.Admitted, r.Refused), fmt.Sprintf("%d or less", r.Abuser.Allowed)}
}
