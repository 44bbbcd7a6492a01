package identity_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// settingsFrame is the first that a server sends.
var settingsFrame = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}

// connected are both ends of one connection of storefront to catalog, without sockets.
func connected(t *testing.T, client, server *identity.Credentials) (near, far net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn, _, err := server.ServerHandshake(b)
		far = conn
		done <- err
	}()
	near, _, err := client.ClientHandshake(t.Context(), "catalog", a)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// ends is when a connection was to be replaced, and when it was closed.
func ends(t *testing.T, near, far net.Conn) (replaced, closed time.Duration) {
	t.Helper()
	start := time.Now()
	go func() {
		_, _ = far.Write(settingsFrame)
		// Half of the head of another frame: a GOAWAY must not come in between.
		_, _ = far.Write([]byte{0, 0, 4})
		time.Sleep(time.Second)
		_, _ = far.Write([]byte{8, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	}()
	var read bytes.Buffer
	b := make([]byte, 5)
	whole := len(settingsFrame) + 13
	for {
		n, err := near.Read(b)
		read.Write(b[:n])
		if replaced == 0 && read.Len() > whole {
			replaced = time.Since(start)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the transport sees a deadline that it has not set: %v", err)
			}
			break
		}
	}
	if got := read.Bytes(); len(got) != whole+17 || got[whole+3] != 7 {
		t.Errorf("the client reads %x, want a GOAWAY after two frames", got)
	}
	return replaced, time.Since(start)
}

// A connection is replaced when most of its time has passed, and closed with the first of its
// certificates.
func TestAConnectionEndsWithItsCertificates(t *testing.T) {
	for _, shorter := range []string{"storefront", "catalog"} {
		t.Run(shorter, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				authority := certtest.New(t)
				life := map[string]time.Duration{"storefront": 40 * time.Minute, "catalog": 40 * time.Minute}
				life[shorter] = 20 * time.Minute
				of := func(service string) *identity.Credentials {
					return with(t, feed(snapshot(t, authority.IssueID(t, life[service], idOf(service).String()), authority)))
				}
				client, server := of("storefront"), of("catalog")
				near, far := connected(t, client, server)
				replaced, closed := ends(t, near, far)
				if replaced < 11*time.Minute || replaced > 19*time.Minute {
					t.Errorf("replaced after %v, want 60 %% to 90 %% of 20 min", replaced)
				}
				if closed.Round(10*time.Second) != 20*time.Minute {
					t.Errorf("closed after %v, want 20 min", closed)
				}
				synctest.Wait()
				if c, s := client.Stats(), server.Stats(); c.Connections != 0 || s.Connections != 0 || c.Replaced != 1 || s.Cut+c.Cut == 0 {
					t.Errorf("client %+v, server %+v", c, s)
				}
			})
		})
	}
}

// When the authority behind a connection is withdrawn it is replaced within 30 s, and what is
// left is closed after a minute.
//
// Case I3
func TestAConnectionEndsWithItsAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := certtest.New(t), certtest.New(t)
		mine := feed(snapshot(t, old.IssueID(t, 30*time.Minute, idOf("storefront").String()), old))
		client := with(t, mine)
		near, far := connected(t, client, of(t, old, "catalog"))
		mine.Publish(snapshot(t, old.IssueID(t, 30*time.Minute, idOf("storefront").String()), old, next)) // nothing is withdrawn
		synctest.Wait()
		mine.Publish(snapshot(t, next.IssueID(t, 30*time.Minute, idOf("storefront").String()), next))
		replaced, closed := ends(t, near, far)
		// The alert that crypto/tls sends before it closes may take 5 s: nobody reads it here.
		if replaced > 31*time.Second || closed < time.Minute || closed > time.Minute+6*time.Second {
			t.Errorf("replaced after %v and closed after %v, want 30 s at most and 1 min", replaced, closed)
		}
		if err := far.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Log(err)
		}
	})
}

// What the transport sets as its own deadline stays.
func TestATransportsDeadlineStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := certtest.New(t)
		client := with(t, feed(snapshot(t, authority.IssueID(t, time.Minute, idOf("storefront").String()), authority)))
		near, far := connected(t, client, of(t, authority, "catalog"))
		if err := near.SetReadDeadline(time.Now().Add(50 * time.Second)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := near.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 50*time.Second {
			t.Errorf("after %v the read ends by %v", time.Since(start), err)
		}
		near.Close()
		far.Close()
	})
}

// A client that goes, or is cut off, after its handshake leaves nothing behind.
func TestASilentConnectionIsForgotten(t *testing.T) {
	authority := certtest.New(t)
	server := of(t, authority, "catalog", identity.WithPermissive())
	s := serve(t, server, grpc.ConnectionTimeout(200*time.Millisecond))
	client := of(t, authority, "storefront")
	for range 3 {
		raw, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		near, _, err := client.ClientHandshake(t.Context(), "catalog", raw)
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		plain, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if _, err := plain.Write([]byte("P")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all have come", func() bool { stats := server.Stats(); return stats.Servers == 3 && stats.Plaintext.Connections == 3 })
	eventually(t, "all are forgotten", func() bool { stats := server.Stats(); return stats.Connections == 0 && stats.Plaintext.Open == 0 })
}
