package peeked_test

import (
	"io"
	"net"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/peeked"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheFirstBytesAreReadAgain(t *testing.T) {
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"at once":      func(r io.Reader) io.Reader { return r },
		"byte by byte": iotest.OneByteReader,
	} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write([]byte("world"))
			_ = theirs.Close()
		}()
		conn := peeked.NewConn(ours, []byte("hello, "))
		if n, err := conn.Read(nil); n != 0 || err != nil {
			t.Errorf("%s: reading nothing gives %d, %v", name, n, err)
		}
		if got, err := io.ReadAll(reader(conn)); string(got) != "hello, world" || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		_ = conn.Close()
	}
}

func TestTLSIsRecognized(t *testing.T) {
	for first, want := range map[byte]bool{0x16: true, 0x15: false, 'G': false, 'P': false, 0: false} {
		if got := peeked.IsTLS(first); got != want {
			t.Errorf("%#x: %v, want %v", first, got, want)
		}
	}
}
