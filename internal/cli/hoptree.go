package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/meshlite-go/meshlite/interceptors/hop"
)

// writeHops writes what happened to a call as a tree. A nil hop is a call that is not explained.
func writeHops(out io.Writer, method string, h *hop.Hop) error {
	if h == nil {
		_, err := io.WriteString(out, oneLine(method+" is not explained: it is one of gRPC's own services")+"\n")
		return err
	}
	root := &node{}
	root.addCall(h)
	var text strings.Builder
	text.WriteString(oneLine(callLine(h)) + "\n")
	root.write(&text, "")
	_, err := io.WriteString(out, text.String())
	return err
}

func callLine(h *hop.Hop) string {
	return fmt.Sprintf("%s to %s: %s", h.Method, h.Target, ended(h.Code, h.Duration))
}

// ended is how a call or an attempt ended.
func ended(code string, ms float64) string {
	switch code {
	case "":
		return "it has not ended"
	case "OK":
		return "OK in " + shortMS(ms)
	default:
		return "✗ " + code + " in " + shortMS(ms)
	}
}

// addCall adds what happened to a call at its client.
func (n *node) addCall(h *hop.Hop) {
	n.addShared(h)
	if h.Route != nil {
		n.add("%s", wayOf(h.Route))
	}
	for i := range h.Attempts {
		n.addAttempt(&h.Attempts[i], len(h.Attempts))
	}
	if len(h.Attempts) == 0 && (h.Cache == nil || !servedByCache(h.Cache)) {
		n.add("! no attempt was made")
	}
	n.addLeftOut(h)
}

func servedByCache(c *hop.Cache) bool {
	return c.Result == "hit" || c.Result == "stale" || c.Result == "coalesced"
}

func wayOf(r *hop.Route) string {
	text := routeName(r.Name)
	if r.Arm != "" {
		text += ", arm " + r.Arm
	}
	return text + ": " + r.Destination
}

// addShared adds what client and server have.
func (n *node) addShared(h *hop.Hop) {
	if d := h.Deadline; d != nil && (h.Side == "client" || d.By != "caller") { // that of its client is above
		n.add("deadline in %s, set by the %s", shortMS(d.Left), d.By)
	}
	for i := range h.Limits {
		n.addVerdict(&h.Limits[i])
	}
	if h.Cache != nil {
		n.addCached(h.Cache)
	}
	if h.Panicked {
		n.add("✗ it panicked: the log has the stack")
	}
}

func (n *node) addVerdict(l *hop.Limit) {
	text := fmt.Sprintf("limit %s: %s", l.Name, plainWords(l.Result))
	if l.Result == "refused" || l.Result == "held_back" {
		text = "✗ " + text
	}
	if l.Waited > 0 {
		text += " after " + shortMS(l.Waited)
	}
	if l.RetryAfter > 0 {
		text += ", for " + shortMS(l.RetryAfter)
	}
	if l.Left != nil {
		text += fmt.Sprintf(", %d left", *l.Left)
		if l.Reset > 0 {
			text += ", all in " + shortMS(l.Reset)
		}
	}
	n.add("%s", text)
}

func plainWords(result string) string { return strings.ReplaceAll(result, "_", " ") }

func (n *node) addCached(c *hop.Cache) {
	text := "cache: " + plainWords(c.Result)
	if c.Age > 0 {
		text += ", " + shortMS(c.Age) + " old"
	}
	if c.Why != "" {
		text += ": " + c.Why
	}
	n.add("%s", text)
}

// addAttempt adds one of all attempts.
func (n *node) addAttempt(a *hop.Attempt, all int) {
	text := "sent to no instance"
	if a.Instance != "" {
		text = "sent to " + a.Instance
		if a.Instance != a.Address {
			text += " (" + a.Address + ")"
		}
	}
	if a.Zone != "" {
		text += ", zone " + a.Zone
	}
	if a.Policy != "" {
		text += fmt.Sprintf(", by %s of %d", a.Policy, a.Candidates)
	}
	if all > 1 {
		text = fmt.Sprintf("attempt %d, after %s: %s", a.Number, shortMS(a.Started), text)
	}
	n = n.add("%s: %s", text, ended(a.Code, a.Duration))
	if a.Route != nil {
		n.add("%s", wayOf(a.Route))
	}
	switch {
	case a.Server != nil:
		n.addServer(a.Server)
	case a.Silent != "":
		n.add("! %s", a.Silent)
	}
	switch {
	case a.Verdict == "again" && a.Wait > 0:
		n.add("again after %s", shortMS(a.Wait))
	case a.Verdict == "again":
		n.add("again at once")
	case a.Verdict != "":
		n.add("no further attempt: %s", a.Verdict)
	}
}

// addServer adds what happened to a call at its server.
func (n *node) addServer(h *hop.Hop) {
	n = n.add("%s: %s, %s", cmp.Or(h.Instance, h.Service, "the server"), ended(h.Code, h.Duration), handlerTime(h))
	n.addCaller(h)
	for _, d := range h.Authorization {
		n.addDecision(&d)
	}
	n.addShared(h)
	if c := h.Concurrency; c != nil {
		mark := ""
		if c.Result == "refused" {
			mark = "✗ "
		}
		n.add("%sconcurrency: %s, %d of %d run", mark, c.Result, c.Running, c.Limit)
	}
	for _, call := range h.Calls {
		n.add("calls %s", callLine(call)).addCall(call)
	}
	if h.TraceID != "" {
		n.add("trace %s", h.TraceID)
	}
	n.addLeftOut(h)
}

func handlerTime(h *hop.Hop) string {
	if h.Handler == nil {
		return "no handler ran"
	}
	return shortMS(*h.Handler) + " in the handler"
}

func (n *node) addCaller(h *hop.Hop) {
	switch {
	case h.Caller != "":
		n.add("called by %s from %s", h.Caller, h.Peer)
	case h.Peer != "":
		n.add("called from %s, without a verified identity", h.Peer)
	}
}

func (n *node) addDecision(d *hop.Decision) {
	text := "✗ denied"
	if d.Allowed {
		text = "✓ allowed"
	}
	if d.Rule != "" {
		text += " by " + d.Rule
	}
	if d.Reason != "" {
		text += ": " + d.Reason
	}
	n.add("%s (%s)", text, plainWords(d.Policy))
}

func (n *node) addLeftOut(h *hop.Hop) {
	if h.LeftOut > 0 {
		n.add("! %d more are left out: an explanation has at most 8 KiB, 8 servers one behind the other and 32 calls of each", h.LeftOut)
	}
}
