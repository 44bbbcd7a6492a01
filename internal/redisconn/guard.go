package redisconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// defaultMaxReply is far above what commands of Redis's own answer, such as CLUSTER SLOTS.
const defaultMaxReply = 4 << 20

// guarded makes o dial connections that end where a reply is larger than most bytes, or
// is none: rueidis makes room for whatever length a header has, and panics in a
// goroutine of its own at a negative one, and at a reply that nothing was asked for.
func guarded(o rueidis.ClientOption, most int64) rueidis.ClientOption {
	dial := o.DialCtxFn
	if other := o.DialFn; dial == nil && other != nil {
		dial = func(_ context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
			return other(address, dialer, config)
		}
	}
	if dial == nil {
		dial = dialTCP
	}
	o.DialCtxFn = func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, address, dialer, config)
		if err != nil {
			return nil, err
		}
		return guard(conn, most), nil
	}
	return o
}

// dialTCP is what rueidis does by itself.
func dialTCP(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return dialer.DialContext(ctx, "tcp", address)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
}

// guardedConn is a connection whose replies are looked at before the client reads them.
type guardedConn struct {
	net.Conn

	reading sync.Mutex
	replies scanner
	refused error // what came that is no reply

	writing  sync.Mutex
	commands scanner

	mu         sync.Mutex
	asked      int    // commands without a reply, before a first subscription
	subscribed bool   // messages come unasked
	pending    []bool // commands without a reply, once subscribed; true: a subscription
	resp3      bool   // lists are replies, and messages come as pushes alone
	unasked    bool   // a reply came that nothing was asked for
}

func guard(conn net.Conn, most int64) *guardedConn {
	g := &guardedConn{Conn: conn}
	g.replies = scanner{most: most, done: g.replied}
	g.commands = scanner{done: g.commanded}
	return g
}

func (g *guardedConn) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.reading.Lock()
	defer g.reading.Unlock()
	if g.refused == nil {
		g.refused = g.look(p[:n])
	}
	if g.refused != nil {
		_ = g.Conn.Close()
		return 0, g.refused
	}
	return n, err
}

func (g *guardedConn) look(p []byte) error {
	if err := g.replies.scan(p); err != nil {
		return fmt.Errorf("%w: is a Redis server listening there?", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unasked {
		return errors.New("a reply came that nothing was asked for: is a Redis server listening there?")
	}
	return nil
}

func (g *guardedConn) Write(p []byte) (int, error) {
	g.writing.Lock()
	err := g.commands.scan(p)
	g.writing.Unlock()
	if err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

func (g *guardedConn) commanded(command value) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if string(command.first()) == "HELLO" {
		g.resp3 = command.second == '3'
	}
	subscription := subscribes(command)
	if subscription && !g.subscribed {
		g.subscribed, g.pending = true, make([]bool, g.asked)
	}
	switch {
	case !g.subscribed:
		g.asked++
	case unsubscribes(command.first()): // its confirmations are ignored, and a PING follows it
	default:
		g.pending = append(g.pending, subscription)
	}
}

func (g *guardedConn) replied(reply value) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case reply.kind == '>' && !subscribes(reply): // is ignored, or a message
	case g.subscribed:
		g.unasked = g.unasked || !g.takes(reply)
	case reply.kind == '>':
		g.unasked = true
	default:
		g.asked--
		g.unasked = g.unasked || g.asked < 0
	}
}

// takes reports whether a reply on a connection with subscriptions answers the next
// command. In RESP2 messages and confirmations are lists.
func (g *guardedConn) takes(reply value) bool {
	if !g.resp3 && reply.kind == '*' && (isMessage(reply.first()) || unsubscribes(reply.first())) {
		return true
	}
	if len(g.pending) == 0 {
		return false
	}
	subscription := g.pending[0]
	g.pending = g.pending[1:]
	if subscription {
		// At QUEUED rueidis panics, even as an error.
		return subscribes(reply) || reply.kind == '-' && string(reply.first()) != "QUEUED"
	}
	return !subscribes(reply)
}

// subscribes is the rule for commands and their confirmations. One of several channels is
// confirmed several times, which the rooms do not need: it ends the connection.
func subscribes(v value) bool {
	if v.kind == '-' {
		return false
	}
	switch strings.ToLower(string(v.first())) {
	case "subscribe", "psubscribe", "ssubscribe":
		return true
	default:
		return false
	}
}

func unsubscribes(word []byte) bool {
	switch strings.ToLower(string(word)) {
	case "unsubscribe", "punsubscribe", "sunsubscribe":
		return true
	default:
		return false
	}
}

func isMessage(word []byte) bool {
	switch string(word) {
	case "message", "pmessage", "smessage":
		return true
	default:
		return false
	}
}
