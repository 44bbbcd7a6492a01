package freeport_test

import (
	"net"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A port that is given is none that an outgoing connection can have.
func TestPortsAreFreeDistinctAndBelowTheEphemeralOnes(t *testing.T) {
	ports, err := freeport.Ports(200)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port < 1024 || port >= 32768 {
			t.Errorf("port %d is given twice, or not one between 1024 and 32767", port)
		}
		seen[port] = true
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Errorf("port %d is not free: %v", port, err)
			continue
		}
		listener.Close()
	}
	if address := freeport.For(t); seen[portOf(t, address)] {
		t.Errorf("%s is given twice", address)
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
