// Package peeked distinguishes TLS from plaintext on one port by the first byte of a connection,
// which is then read again.
package peeked

import "net"

// IsTLS reports whether a connection that begins with first speaks TLS: every one begins with a
// record of the type handshake (RFC 8446, 5.1), and none of HTTP does.
func IsTLS(first byte) bool { return first == 0x16 }

// Conn is a connection of which the first bytes were read. One goroutine reads it.
type Conn struct {
	net.Conn
	first []byte
}

// NewConn returns raw with first before what comes next. It keeps first.
func NewConn(raw net.Conn, first []byte) *Conn { return &Conn{raw, first} }

// Read reads the first bytes, and then the connection.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
