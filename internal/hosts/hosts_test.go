package hosts

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a client, a server and a listener on it that echoes.
func open(t *testing.T) (w *Network, client, server *Host, address string) {
	t.Helper()
	w, hosts, err := Open(2)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	var listener net.Listener
	if err := hosts[1].Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(hosts[1].Address(), "0"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// The test's end reaches it, where a broken network does not.
			stop := context.AfterFunc(t.Context(), func() { conn.Close() })
			serving.Go(func() {
				defer stop()
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return w, hosts[0], hosts[1], listener.Addr().String()
}

// echo reports whether what is written comes back within patience.
func echo(t *testing.T, conn net.Conn, text string, patience time.Duration) bool {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, len(text))
	_, err := conn.Read(buffer)
	return err == nil
}

// Each direction is broken by itself, and a connection survives: TCP sends again.
func TestPacketsAreDroppedByDirection(t *testing.T) {
	w, client, server, address := open(t)
	conn, err := client.Dialer(net.Dialer{})(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !echo(t, conn, "whole", 20*time.Second) {
		t.Fatal("nothing comes back over a good network")
	}
	for name, pair := range map[string][2]*Host{"there": {client, server}, "back": {server, client}} {
		w.Break(pair[0], pair[1], Fault{Drop: true})
		if echo(t, conn, name, 100*time.Millisecond) {
			t.Errorf("what is sent %s is dropped, and an echo came", name)
		}
		w.Break(pair[0], pair[1], Fault{})
		buffer := make([]byte, len(name))
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(buffer); err != nil || string(buffer) != name {
			t.Errorf("after the fault got %q, %v, want what was sent meanwhile", buffer, err)
		}
	}
}

// A new connection is neither accepted nor refused.
func TestConnectionsToAnIsolatedHostAreNotRefused(t *testing.T) {
	w, client, server, address := open(t)
	w.BreakHost(server, Fault{Drop: true})
	var timeout net.Error
	if _, err := client.Dialer(net.Dialer{Timeout: 100 * time.Millisecond})(t.Context(), "tcp", address); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	w.BreakAll(Fault{})
	conn, err := client.Dialer(net.Dialer{Timeout: 20 * time.Second})(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// What is started on a host sees its addresses only, and the machine has none of them.
func TestHostsHaveTheirOwnAddresses(t *testing.T) {
	_, client, _, _ := open(t)
	var out []byte
	if err := client.Do(func() (err error) {
		out, err = exec.Command("cat", "/proc/net/dev").Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "mesh0") || strings.Count(string(out), ":") != 2 {
		t.Errorf("a process on a host has the interfaces\n%s\nwant lo and mesh0", out)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if strings.HasPrefix(a.String(), "10.66.0.") {
			t.Errorf("the machine has the address %v of a host", a)
		}
	}
}

func TestDelayedPacketsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{queue: make(chan packet, maxQueue)}
		l.fault.Store(&Fault{Delay: 50 * time.Millisecond})
		var got []byte
		var last time.Duration
		stop, done, began := make(chan struct{}), make(chan struct{}), time.Now()
		go func() {
			defer close(done)
			l.deliver(func(p []byte) { got = append(got, p...); last = time.Since(began) }, stop)
		}()
		for n := range byte(10) {
			l.accept([]byte{'0' + n})
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		close(stop)
		<-done
		if string(got) != "0123456789" || last != 59*time.Millisecond {
			t.Errorf("got %s, the last after %v, want all in order, after 59 ms", got, last)
		}
	})
}

func TestLossIsAPart(t *testing.T) {
	l := &link{queue: make(chan packet, 100_000)}
	l.fault.Store(&Fault{Loss: 0.01})
	for range cap(l.queue) {
		l.accept(nil)
	}
	// The deviation of what is lost is 31.
	if lost := cap(l.queue) - len(l.queue); lost < 800 || lost > 1200 {
		t.Errorf("%d of %d packets are lost, want some 1 %%", lost, cap(l.queue))
	}
}

func TestOnlyIPv4IsRouted(t *testing.T) {
	packet := make([]byte, 20)
	packet[0], packet[15], packet[19] = 0x45, 1, 2
	if from, to, ok := route(packet); !ok || from != 1 || to != 2 {
		t.Errorf("got %d, %d, %v, want 1, 2", from, to, ok)
	}
	packet[0] = 0x60
	for _, wrong := range [][]byte{nil, packet, {0x45, 0}} {
		if _, _, ok := route(wrong); ok {
			t.Errorf("a packet of %x is routed", wrong)
		}
	}
}
