package meshlite

import (
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// clientPreface begins every connection of HTTP/2 (RFC 9113, 3.4).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// prefaceFirst waits for a client's preface before gRPC makes the buffers of a
// connection, 64 KiB: one that stays silent until grpc.ConnectionTimeout costs none.
type prefaceFirst struct {
	credentials.TransportCredentials
}

// ServerHandshake is bounded by the deadline that gRPC sets on raw.
func (p prefaceFirst) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	first := make([]byte, len(clientPreface))
	if _, err := io.ReadFull(conn, first); err != nil {
		conn.Close()
		return nil, nil, err // plain io.EOF is no fault: a probe of the port
	}
	read := &prefaced{conn, first}
	if system, ok := conn.(syscall.Conn); ok {
		return &systemPrefaced{read, system}, info, nil
	}
	return read, info, nil
}

// Clone keeps the wait.
func (p prefaceFirst) Clone() credentials.TransportCredentials {
	return prefaceFirst{p.TransportCredentials.Clone()}
}

// prefaced is a connection of which the first bytes were read. One goroutine reads it.
type prefaced struct {
	net.Conn
	first []byte
}

func (c *prefaced) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// systemPrefaced lets channelz read the options of the socket.
type systemPrefaced struct {
	*prefaced
	syscall.Conn
}
