// Package freeport finds ports of loopback for programs that must be given theirs: proxies,
// Redis, Consul, and servers that start again where they were.
//
// The ports lie below those that systems give to outgoing connections and to listeners
// on port 0 (from 32768 on Linux, from 49152 elsewhere), so that none of these takes
// one before its program listens there.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

const (
	lowest  = 10_000
	highest = 32_767
	tries   = 100
)

var (
	mu    sync.Mutex
	given = map[int]bool{} // no port twice; it has at most highest-lowest+1 keys
)

// Ports returns n ports that nobody listens on, by TCP and UDP, and that this process
// has not been given before.
func Ports(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		var err error
		if ports[i], err = port(); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// Address returns the host:port of a free port.
func Address() (string, error) {
	port, err := port()
	return at(port), err
}

// For returns an address for a test, which fails if none is free.
func For(t interface {
	Helper()
	Fatal(...any)
}) string {
	t.Helper()
	address, err := Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func port() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	var err error
	for range tries {
		port := lowest + rand.IntN(highest-lowest+1)
		if given[port] {
			continue
		}
		if err = free(port); err == nil {
			given[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d tries between %d and %d: %w", tries, lowest, highest, err)
}

// free is an error if someone listens on port. Consul's DNS uses it by UDP, too.
func free(port int) error {
	listener, err := net.Listen("tcp", at(port))
	if err != nil {
		return err
	}
	defer listener.Close()
	packets, err := net.ListenPacket("udp", at(port))
	if err != nil {
		return err
	}
	return packets.Close()
}

func at(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
