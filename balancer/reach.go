package balancer

import "time"

const (
	// leastReachable is how many endpoints with a connection are enough. With fewer,
	// one that has not connected within hurriedPatience is exchanged, else within
	// patience, and then a part of the subset a second at most.
	leastReachable  = 3
	hurriedPatience = 250 * time.Millisecond
	patience        = 10 * time.Second
	exchangePart    = 10 // a tenth

	// tryTime is what an endpoint beside the subset has to connect. Beside a subset of
	// up to sparesFor endpoints at most twice as many are tried at once while too few
	// can be reached, and maxProbes otherwise.
	tryTime   = 5 * time.Second
	sparesFor = 100
	maxProbes = 5

	// One that did not connect is tried again after firstRetry, twice as long each time
	// up to lastRetry.
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

// reach is whether an endpoint can be connected to. Table.mu guards it.
type reach struct {
	away    time.Duration // since when it is listed and has no connection
	refused bool          // and one could not be made
	avoided bool          // it is no regular member of a subset, while there are others
	trying  bool          // it is a member beside the regular ones, to see whether it connects
	tried   time.Duration // since when
	retry   time.Duration // when to try again
	failed  int           // tries in a row
}

// listed begins anew: a channel will connect.
func (r *reach) listed(now time.Duration) { r.away, r.refused = now, false }

// connected ends all doubt.
func (r *reach) connected() { *r = reach{} }

// lost is called when the last channel has lost its connection.
func (r *reach) lost(now time.Duration) { r.away = now }

// tries reports whether the endpoint still has time to connect.
func (r *reach) tries(now time.Duration) bool { return r.trying && now-r.tried < tryTime }

// OnReach fills wake, without waiting, whenever [Table.Subset] may answer differently
// because a connection was made, lost or refused.
func (t *Table) OnReach(wake chan<- struct{}) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reaching[wake]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.reaching[wake]--; t.reaching[wake] == 0 {
			delete(t.reaching, wake)
		}
	}
}

// reached wakes those who choose subsets. The caller holds t.mu.
func (t *Table) reached() {
	for wake := range t.reaching {
		select {
		case wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

// noteReach follows a change of the connections to e, of which there were before many.
// The caller holds t.mu.
func (t *Table) noteReach(e *Endpoint, before int, refused bool, now time.Duration) {
	switch {
	case e.connected > 0 && before == 0:
		e.reach.connected()
	case e.connected == 0 && before > 0:
		e.reach.lost(now)
	case e.connected == 0 && refused && !e.reach.refused:
		e.reach.refused = true
	default:
		return
	}
	t.reached()
}

// Subset chooses the endpoints that a channel connects to: size of addresses, which
// are in the order of preference, and beside them those that are tried. Endpoints that
// do not connect are exchanged for the next ones, slowly, but at once while fewer than
// three can be reached. Three that can be stay chosen, wherever they are in the order.
// It returns which of addresses are chosen, and after which time to ask again without
// being woken, if that is not 0.
func (t *Table) Subset(addresses []string, size int) (chosen []bool, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &cut{table: t, now: t.now(), addresses: addresses, size: size, chosen: make([]bool, len(addresses)), spares: maxProbes}
	if c.count(); c.reachable < leastReachable {
		c.hurried, c.spares = true, 2*max(size, sparesFor)
	}
	c.walk()
	c.fill()
	c.keep()
	return c.chosen, c.again
}

// cut is a subset while it is chosen.
type cut struct {
	table     *Table
	now       time.Duration
	addresses []string
	size      int
	chosen    []bool
	regular   int           // how many of them are regular members
	reachable int           // endpoints with a connection
	hurried   bool          // they are too few
	spares    int           // how many may be tried at once
	tried     int           // how many are
	again     time.Duration // when to choose again
}

func (c *cut) count() {
	for _, e := range c.table.endpoints {
		if e.connected > 0 {
			c.reachable++
		}
		if e.reach.tries(c.now) {
			c.tried++
		}
	}
}

// wanted is how many regular members there should be. While too few can be reached and
// some have not answered in time, the next ones are not a few at a time.
func (c *cut) wanted() int {
	if c.hurried && c.tried > 0 {
		return max(c.size, sparesFor)
	}
	return c.size
}

// walk chooses in the order of preference.
func (c *cut) walk() {
	for i, address := range c.addresses {
		if c.regular >= c.wanted() && !c.hurried {
			return
		}
		e := c.table.endpoints[address]
		switch {
		case e != nil && c.avoid(e):
			c.chosen[i] = c.try(e)
		case c.regular < c.wanted():
			c.chosen[i] = true
			c.regular++
		}
	}
}

// fill chooses of those that are avoided where there are not enough others.
func (c *cut) fill() {
	for i := 0; i < len(c.chosen) && c.regular < c.size; i++ {
		if !c.chosen[i] {
			c.chosen[i] = true
			c.regular++
		}
	}
}

// keep chooses of those that are connected so that there are enough.
func (c *cut) keep() {
	kept, spare := 0, []int(nil)
	for i, address := range c.addresses {
		if e := c.table.endpoints[address]; e == nil || e.connected == 0 {
			continue
		}
		if c.chosen[i] {
			kept++
		} else {
			spare = append(spare, i)
		}
		if kept == leastReachable {
			return
		}
	}
	for _, i := range spare[:min(len(spare), leastReachable-kept)] {
		c.chosen[i] = true
	}
}

// avoid reports whether e is no regular member, and makes it none if it has not
// connected for too long.
func (c *cut) avoid(e *Endpoint) bool {
	r := &e.reach
	if r.avoided || e.connected > 0 || e.users == 0 {
		return r.avoided
	}
	limit := patience
	if c.hurried {
		limit = hurriedPatience
	}
	waits := c.now - r.away
	switch {
	case waits < limit && !(c.hurried && r.refused):
		c.look(limit - waits)
	case c.hurried && (r.refused || c.tried < c.spares), !c.hurried && c.exchange():
		// What still connects goes on, beside the others.
		r.avoided, r.trying, r.tried = true, true, r.away
		if r.tries(c.now) {
			c.tried++
		}
	}
	return r.avoided
}

// try reports whether e, which is avoided, is a member to see whether it connects.
func (c *cut) try(e *Endpoint) bool {
	r := &e.reach
	if r.trying && (r.refused || !r.tries(c.now)) {
		if r.tries(c.now) {
			c.tried--
		}
		r.trying = false
		wait := min(firstRetry<<min(r.failed, 10), lastRetry)
		r.failed++
		r.retry = c.now + wait*3/4 + time.Duration(c.table.random()%uint64(wait/2))
	}
	switch {
	case r.trying:
		c.look(tryTime - (c.now - r.tried))
	case e.users > 0: // it is a member for want of others, and connects in gRPC's own time
	case c.now < r.retry:
		c.look(r.retry - c.now)
	case c.tried < c.spares && (c.hurried || c.exchange()):
		r.trying, r.tried, r.refused = true, c.now, false
		c.tried++
		c.look(tryTime)
	}
	return r.trying
}

// exchange reports whether one more endpoint may be exchanged or tried in this second.
func (c *cut) exchange() bool {
	t := c.table
	if c.now-t.exchangeBegan >= time.Second {
		t.exchangeBegan, t.exchanged = c.now, 0
	}
	if t.exchanged >= max(1, c.size/exchangePart) {
		c.look(t.exchangeBegan + time.Second - c.now)
		return false
	}
	t.exchanged++
	return true
}

// look asks for another choice after a time.
func (c *cut) look(after time.Duration) {
	if after = max(after, time.Millisecond); c.again == 0 || after < c.again {
		c.again = after
	}
}
