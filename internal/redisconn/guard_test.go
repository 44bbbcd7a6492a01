package redisconn

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redistest"
)

// hello is what a Redis answers to HELLO 3.
const hello = "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"

// fake serves connections that answer HELLO and CLIENT as a Redis does, and all else by
// reply, and returns its URL. Pairs of commands and replies are exceptions.
func fake(t *testing.T, reply string, others ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { serve(conn, reply, others) })
		}
	})
	t.Cleanup(func() { listener.Close(); work.Wait() })
	return "redis://" + listener.Addr().String()
}

func serve(conn net.Conn, reply string, others []string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		var n int
		if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
			return
		}
		words := make([]string, n)
		for i := range words {
			if _, err := fmt.Fscanf(r, "$%d\r\n%s\r\n", new(int), &words[i]); err != nil {
				return
			}
		}
		text := reply
		switch words[0] {
		case "HELLO":
			text = hello
		case "CLIENT":
			text = "+OK\r\n"
		}
		if i := slices.Index(others, words[0]); i >= 0 {
			text = others[i+1]
		}
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
	}
}

// log keeps lines until they are looked for.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start looks for a Redis at url.
func start(t *testing.T, url string, lines io.Writer) *Conn {
	t.Helper()
	o := Defaults("test:")
	o.URL, o.Log, o.Timeout = &url, slog.New(slog.NewTextHandler(lines, nil)), 5*time.Second
	if errs := o.Check("test:"); errs != nil {
		t.Fatal(errs)
	}
	c := New(Config{Options: o, MaxReply: 64 << 10})
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// R26 of Redis: no reply, however broken, ends the process, or takes more memory than
// one is given; the reason is logged.
//
// Case R26 (Redis): No reply of Redis, however broken, ends the process or takes more memory
// than one is given.
func TestBrokenRepliesEndTheConnectionAlone(t *testing.T) {
	for reply, want := range map[string]string{
		"*1000000000\r\n":                    "more than 524288 elements",
		"%500000000\r\n":                     "more than 524288 elements",
		"~600000\r\n":                        "more than 524288 elements",
		">600000\r\n":                        "more than 524288 elements",
		"$1000000000\r\n":                    "more than 65536 bytes",
		"!9000000000000000000\r\n":           "more than 65536 bytes",
		"=100000\r\n":                        "more than 65536 bytes",
		"+" + strings.Repeat("x", 70_000):    "more than 65536 bytes",
		"$-5\r\n":                            "a length that it cannot have",
		"*-5\r\n":                            "a length that it cannot have",
		"%-1\r\n":                            "a length that it cannot have",
		"*99999999999999999999999999999\r\n": "a length that it cannot have",
		"$?\r\n;4\r\nabcd\r\n;0\r\n":         "a length that it cannot have",
		"*?\r\n.\r\n":                        "a length that it cannot have",
		"_no\r\n":                            "a length that it cannot have",
		strings.Repeat("*1\r\n", 100_000):    "more than 16 deep",
		"|1\r\n+a\r\n+b\r\n+OK\r\n":          "a kind of value that servers do not send",
		"HTTP/1.1 400 Bad Request\r\n\r\n":   "a kind of value that servers do not send",
		"+OK\n":                              "a line without CRLF",
		"+OK\r\n+OK\r\n":                     "nothing was asked for",
		">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n": "nothing was asked for",
		">2\r\n+SSubscribe\r\n+a\r\n":                "nothing was asked for",
	} {
		var lines log
		c := start(t, fake(t, reply), &lines)
		redistest.Await(t, fmt.Sprintf("line about %.40q, want %q", reply, want), func() bool {
			// The first one may have been answered before what nobody has asked for.
			_, _ = Call(t.Context(), c, func(ctx context.Context, client rueidis.Client) (string, error) {
				return client.Do(ctx, client.B().Get().Key("a").Build()).ToString()
			})
			return strings.Contains(lines.String(), want)
		})
		c.Close()
	}
}

// What servers send passes, in whatever portions it comes.
//
// Case R26 (Redis)
func TestRepliesPassInAnyPortions(t *testing.T) {
	replies := []string{
		"+OK\r\n", "-ERR unknown command 'a'\r\n", ":-7\r\n", ",3.14\r\n", "(34928903284093284093\r\n", "#t\r\n", "_\r\n",
		"$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "*0\r\n", "%0\r\n", "$5\r\na\r\nbc\r\n", "=7\r\ntxt:abc\r\n", "!5\r\nERR a\r\n",
		hello, "*2\r\n*2\r\n:1\r\n$1\r\na\r\n~1\r\n_\r\n", ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
		"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "*1\r\n+" + strings.Repeat("x", 1000) + "\r\n",
	}
	heads := map[int]string{1: "ERR unknown command 'a'", 16: "", 17: "message", 18: "subscribe", 19: strings.Repeat("x", maxHead), 15: "server"}
	whole := strings.Join(replies, "")
	for name, portions := range map[string]io.Reader{
		"one": strings.NewReader(whole), "bytes": iotest.OneByteReader(strings.NewReader(whole)), "halves": iotest.HalfReader(strings.NewReader(whole)),
	} {
		var done []value
		s := scanner{most: 4 << 10, done: func(v value) { done = append(done, v) }}
		for p := make([]byte, 64); ; {
			n, err := portions.Read(p)
			if err := s.scan(p[:n]); err != nil {
				t.Fatalf("in %s: %v after %d replies", name, err, len(done))
			}
			if err != nil {
				break
			}
		}
		if len(done) != len(replies) {
			t.Fatalf("in %s: %d replies, want %d", name, len(done), len(replies))
		}
		for i, reply := range replies {
			if done[i].kind != reply[0] || string(done[i].first()) != heads[i] {
				t.Errorf("in %s: %q is %q that begins with %q, want %q", name, reply, done[i].kind, done[i].first(), heads[i])
			}
		}
	}
}

// Whatever comes, no portion of it panics, and how it is cut changes nothing.
//
// Case R26 (Redis)
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{hello, "*1000000000\r\n", "$-5\r\n", "%-1\r\n", "*2\r\n*-1\r\n$3\r\nabc\r\n", "+OK\r\n_\r\n#t\r\n", ">1\r\n+subscribe\r\n", "*1\r\n*1\r\n*1\r\n", "$?\r\n", "*\r\n", "\r\n\r\n"} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, reply []byte, cut int) {
		scan := func(portions ...[]byte) (n int, failed bool) {
			s := scanner{most: 1 << 10, done: func(value) { n++ }}
			for _, p := range portions {
				if failed = s.scan(p) != nil; failed {
					break
				}
				if s.bytes > 1<<10 || s.elements > maxElements {
					t.Fatalf("%d bytes and %d elements pass", s.bytes, s.elements)
				}
			}
			return n, failed
		}
		cut = min(max(cut, 0), len(reply))
		n, failed := scan(reply)
		if m, also := scan(reply[:cut], reply[cut:]); m != n || also != failed {
			t.Errorf("%q is %d values, %v, and cut at %d it is %d, %v", reply, n, failed, cut, m, also)
		}
	})
}

// X12: user information in an address is refused and not repeated.
//
// Case X12 (echo)
func TestUserInformationOfAnAddressIsNotRepeated(t *testing.T) {
	for _, url := range []string{"http://user:pa55word@127.0.0.1", "redis://user:pa55word@127.0.0.1:6379/a/b", "redis://user:pa55word/@127.0.0.1:x"} {
		o := Defaults("test:")
		o.URL = &url
		for _, err := range o.Check("test:") {
			if strings.Contains(err.Error(), "pa55word") {
				t.Error(err)
			}
		}
	}
	o := Defaults("test:")
	o.Option = &rueidis.ClientOption{InitAddress: []string{"user:pa55word@127.0.0.1:6379"}}
	if errs := o.Check("test:"); len(errs) != 1 || !strings.Contains(errs[0].Error(), "user information") || strings.Contains(errs[0].Error(), "pa55word") {
		t.Errorf("%v, want an error that names the part and not the password", errs)
	}
}

// Once subscribed, a reply that nothing was asked for ends the connection before it
// reaches rueidis, which panics at it; what servers send passes.
func TestASubscribedConnectionTakesNothingUnasked(t *testing.T) {
	const (
		subscribe = "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n"
		ping      = "*1\r\n$4\r\nPING\r\n"
		confirmed = "3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
		message   = "3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"
		gone      = "3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"
		pong      = "*2\r\n$4\r\npong\r\n$0\r\n\r\n"
	)
	for _, test := range []struct {
		resp3             bool
		commands, replies string
		refused           bool
	}{
		{true, subscribe, ">" + confirmed + ">" + message + ">" + message + ">" + gone, false},
		{true, subscribe + ping, ">" + confirmed + ">" + message + "+PONG\r\n>" + message, false},
		{true, ping + subscribe, "+PONG\r\n>" + confirmed, false},
		{true, subscribe, "-NOPERM no permissions\r\n", false},
		{true, subscribe + subscribe, ">" + confirmed + ">" + confirmed, false},
		{true, subscribe, ">1\r\n+other\r\n>" + confirmed, false},
		{false, subscribe, "*" + confirmed + "*" + message + "*" + gone, false},
		{false, subscribe + ping, "*" + confirmed + "*" + message + pong + "*" + message, false},

		{true, subscribe, ">" + confirmed + "+OK\r\n", true},
		{true, subscribe, ">" + confirmed + "$-1\r\n", true},
		{true, subscribe, ">" + confirmed + "*" + message, true},
		{true, subscribe, ">" + confirmed + "*" + gone, true},
		{true, subscribe, ">" + confirmed + ">" + confirmed, true},
		{true, subscribe, "+OK\r\n", true},
		{true, subscribe, "+QUEUED\r\n", true},
		{true, subscribe, "-QUEUED\r\n", true},
		{true, subscribe, "!6\r\nQUEUED\r\n", true},
		{true, ping + subscribe, ">" + confirmed, true},
		{true, subscribe + ping, ">" + confirmed + "+PONG\r\n+PONG\r\n", true},
		{false, subscribe, "*" + confirmed + "*" + confirmed, true},
		{false, subscribe, "*" + confirmed + "~" + confirmed, true},
		{false, subscribe, "*" + confirmed + pong, true},
		{false, subscribe, "*" + confirmed + "-ERR\r\n", true},
	} {
		greeting := "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"
		if test.resp3 {
			greeting = strings.Replace(greeting, "2\r\n", "3\r\n", -1)
			greeting = strings.Replace(greeting, "*3", "*2", 1)
		}
		for name, cut := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader} {
			conn := guard(&portions{Reader: cut(strings.NewReader(hello + test.replies))}, 1<<10)
			for _, b := range []byte(greeting + test.commands) {
				if _, err := conn.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			_, err := io.Copy(io.Discard, struct{ io.Reader }{conn})
			if (err != nil) != test.refused {
				t.Errorf("in %s, RESP3 %v: %q after %q: %v, want refused: %v", name, test.resp3, test.replies, test.commands, err, test.refused)
			}
		}
	}
}

// portions is a connection of which only reading is of interest.
type portions struct {
	net.Conn
	io.Reader
}

func (p *portions) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p *portions) Write(b []byte) (int, error) { return len(b), nil }
func (p *portions) Close() error                { return nil }

// rueidis lives through what a hostile server says to a subscriber.
func TestAHostileServerDoesNotEndASubscriber(t *testing.T) {
	const confirmed = ">3\r\n$9\r\nsubscribe\r\n$6\r\ntest:a\r\n:1\r\n"
	for _, reply := range []string{confirmed + "+OK\r\n", confirmed + confirmed, "+QUEUED\r\n", "-QUEUED\r\n", confirmed + "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"} {
		url := fake(t, "$1\r\nb\r\n", "SUBSCRIBE", reply, "CLUSTER", "-ERR This instance has cluster support disabled\r\n")
		c := start(t, url, io.Discard)
		redistest.Await(t, "connection", c.Connected)
		dedicated, release := c.Client().Dedicate()
		err := dedicated.Receive(t.Context(), dedicated.B().Subscribe().Channel("test:a").Build(), func(rueidis.PubSubMessage) {})
		if err == nil {
			t.Errorf("%q: the subscription has ended without an error", reply)
		}
		dedicated.Close()
		release()
		c.Close()
	}
}
