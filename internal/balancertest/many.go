package balancertest

import "google.golang.org/grpc/connectivity"

// ReadyMany tells a policy that has no endpoints yet of n equal ones, and makes each
// ready while the policy still asks for a connection to the next. Policies hear of
// their children at the end of that, so the picker is made once or twice, and not
// for every endpoint: 10,000 of them take a moment instead of a minute.
func (c *Channel) ReadyMany(config string, n int) {
	c.t.Helper()
	var last *subConn
	c.listen(func(s *subConn) {
		if last != nil {
			last.connect(connectivity.Ready)
		}
		last = s
	})
	err := c.Update(config, Equal(n)...)
	c.listen(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	last.connect(connectivity.Ready)
}

func (c *Channel) listen(heard func(*subConn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = heard
}

func (c *Channel) listener() func(*subConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}
