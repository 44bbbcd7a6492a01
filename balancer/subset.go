package balancer

import "time"

const (
	// minConnected endpoints with a connection are enough. With fewer, an endpoint that does
	// not connect within urgentConnectTimeout is replaced, otherwise within connectTimeout,
	// and then a tenth of the subset a second at most.
	minConnected         = 3
	urgentConnectTimeout = 250 * time.Millisecond
	connectTimeout       = 10 * time.Second
	replacedPart         = 10

	// trialTime is the time that an endpoint on trial has to connect. While too few are
	// connected, twice the size of the subset are on trial at once, and twice minTrialSize at
	// least; otherwise maxTrials.
	trialTime    = 5 * time.Second
	minTrialSize = 100
	maxTrials    = 5

	// The backoff between trials of one endpoint doubles from firstBackoff to maxBackoff.
	firstBackoff = 5 * time.Second
	maxBackoff   = 5 * time.Minute
)

// reach is whether an endpoint can be connected to. Table.mu guards it.
type reach struct {
	unconnectedSince time.Duration // if it is listed and has no connection
	refused          bool          // a connection attempt failed since
	replaced         bool          // it is no regular member of a subset while there are others
	onTrial          bool          // it is a member besides the regular ones, to see whether it connects
	trialAt          time.Duration // start of the trial
	nextTrialAt      time.Duration
	failedTrials     int // in a row
}

// listed resets the timeout: a channel connects now.
func (r *reach) listed(now time.Duration) { r.unconnectedSince, r.refused = now, false }

// trialRuns reports whether the endpoint still has time to connect.
func (r *reach) trialRuns(now time.Duration) bool { return r.onTrial && now-r.trialAt < trialTime }

// subsets is the part of a table that selects subsets. Table.mu guards it.
type subsets struct {
	wakes       map[chan<- struct{}]int // who selects subsets
	replacingAt time.Duration           // start of the second in which replaced are counted
	replaced    int
}

// OnReach sends to wake, without blocking, whenever [Table.Subset] may return another result
// because a connection was made, lost or refused.
func (t *Table) OnReach(wake chan<- struct{}) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wakes := t.subsets.wakes
	wakes[wake]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if wakes[wake]--; wakes[wake] == 0 {
			delete(wakes, wake)
		}
	}
}

// notifySubsets wakes those who select subsets. The caller holds t.mu.
func (t *Table) notifySubsets() {
	for wake := range t.subsets.wakes {
		select {
		case wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

// updateReach records a change of the connections to e, which had before connections. The
// caller holds t.mu.
func (t *Table) updateReach(e *Endpoint, before int, refused bool, now time.Duration) {
	switch {
	case e.connected > 0 && before == 0:
		e.reach = reach{}
	case e.connected == 0 && before > 0:
		e.reach.unconnectedSince = now
	case e.connected == 0 && refused && !e.reach.refused:
		e.reach.refused = true
	default:
		return
	}
	t.notifySubsets()
}

// Subset selects the endpoints that a channel connects to: size of addresses, which are in the
// order of preference, and besides them those on trial. Endpoints that do not connect are
// replaced by the next ones: slowly, but at once while fewer than three are connected. Three
// connected endpoints stay selected, wherever they are in the order. It returns which of
// addresses are selected, and when to call it again without being woken, if that is not 0.
func (t *Table) Subset(addresses []string, size int) (selected []bool, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &subset{table: t, now: t.now(), addresses: addresses, size: size, selected: make([]bool, len(addresses)), maxTrials: maxTrials}
	if s.count(); s.connected < minConnected {
		s.urgent, s.maxTrials = true, 2*max(size, minTrialSize)
	}
	s.selectByPreference()
	s.selectReplaced()
	s.selectConnected()
	return s.selected, s.again
}

// subset is a selection in progress.
type subset struct {
	table     *Table
	now       time.Duration
	addresses []string
	size      int
	selected  []bool
	regular   int           // selected as regular members
	connected int           // endpoints with a connection
	urgent    bool          // they are too few
	trials    int           // on trial now
	maxTrials int           // at once
	again     time.Duration // when to select again
}

func (s *subset) count() {
	for _, e := range s.table.endpoints {
		if e.connected > 0 {
			s.connected++
		}
		if e.reach.trialRuns(s.now) {
			s.trials++
		}
	}
}

// regularSize is how many regular members there should be: more while too few are connected
// and some did not connect in time.
func (s *subset) regularSize() int {
	if s.urgent && s.trials > 0 {
		return max(s.size, minTrialSize)
	}
	return s.size
}

// selectByPreference selects regular members and trials in the order of preference.
func (s *subset) selectByPreference() {
	for i, address := range s.addresses {
		if s.regular >= s.regularSize() && !s.urgent {
			return
		}
		e := s.table.endpoints[address]
		switch {
		case e != nil && s.replaced(e):
			s.selected[i] = s.onTrial(e)
		case s.regular < s.regularSize():
			s.selected[i] = true
			s.regular++
		}
	}
}

// selectReplaced selects replaced endpoints where there are not enough others.
func (s *subset) selectReplaced() {
	for i := 0; i < len(s.selected) && s.regular < s.size; i++ {
		if !s.selected[i] {
			s.selected[i] = true
			s.regular++
		}
	}
}

// selectConnected selects connected endpoints until there are minConnected.
func (s *subset) selectConnected() {
	connected, spare := 0, []int(nil)
	for i, address := range s.addresses {
		if e := s.table.endpoints[address]; e == nil || e.connected == 0 {
			continue
		}
		if s.selected[i] {
			connected++
		} else {
			spare = append(spare, i)
		}
		if connected == minConnected {
			return
		}
	}
	for _, i := range spare[:min(len(spare), minConnected-connected)] {
		s.selected[i] = true
	}
}

// replaced reports whether e is no regular member, and replaces it if it has not connected for
// too long.
func (s *subset) replaced(e *Endpoint) bool {
	r := &e.reach
	if r.replaced || e.connected > 0 || e.users == 0 {
		return r.replaced
	}
	timeout := connectTimeout
	if s.urgent {
		timeout = urgentConnectTimeout
	}
	waited := s.now - r.unconnectedSince
	switch {
	case waited < timeout && !(s.urgent && r.refused):
		s.selectAfter(timeout - waited)
	case s.urgent && (r.refused || s.trials < s.maxTrials), !s.urgent && s.mayReplace():
		// A connection attempt in progress goes on as a trial.
		r.replaced, r.onTrial, r.trialAt = true, true, r.unconnectedSince
		if r.trialRuns(s.now) {
			s.trials++
		}
	}
	return r.replaced
}

// onTrial reports whether e, which is replaced, is on trial, and starts or ends the trial.
func (s *subset) onTrial(e *Endpoint) bool {
	r := &e.reach
	if r.onTrial && (r.refused || !r.trialRuns(s.now)) {
		if r.trialRuns(s.now) {
			s.trials--
		}
		r.onTrial = false
		backoff := min(firstBackoff<<min(r.failedTrials, 10), maxBackoff)
		r.failedTrials++
		r.nextTrialAt = s.now + backoff*3/4 + time.Duration(s.table.random()%uint64(backoff/2))
	}
	switch {
	case r.onTrial:
		s.selectAfter(trialTime - (s.now - r.trialAt))
	case e.users > 0: // a member for lack of others, which connects with gRPC's own backoff
	case s.now < r.nextTrialAt:
		s.selectAfter(r.nextTrialAt - s.now)
	case s.trials < s.maxTrials && (s.urgent || s.mayReplace()):
		r.onTrial, r.trialAt, r.refused = true, s.now, false
		s.trials++
		s.selectAfter(trialTime)
	}
	return r.onTrial
}

// mayReplace reports whether one more endpoint may be replaced or tried in this second.
func (s *subset) mayReplace() bool {
	all := &s.table.subsets
	if s.now-all.replacingAt >= time.Second {
		all.replacingAt, all.replaced = s.now, 0
	}
	if all.replaced >= max(1, s.size/replacedPart) {
		s.selectAfter(all.replacingAt + time.Second - s.now)
		return false
	}
	all.replaced++
	return true
}

// selectAfter has the subset selected again after d at most.
func (s *subset) selectAfter(d time.Duration) {
	if d = max(d, time.Millisecond); s.again == 0 || d < s.again {
		s.again = d
	}
}
