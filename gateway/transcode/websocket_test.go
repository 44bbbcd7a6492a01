package transcode_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

type chats = grpc.BidiStreamingServer[forms.Thing, forms.Thing]

// echoing answers each message with itself until the caller's last.
func echoing() *backend {
	return &backend{
		chat: func(stream chats) error {
			for {
				in, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if in.GetName() == "fail" {
					return status.Error(codes.Code(in.GetInt32()), "hunter2")
				}
				if err := stream.Send(in); err != nil {
					return err
				}
			}
		},
		upload: func(stream grpc.ClientStreamingServer[forms.Thing, forms.Thing]) error {
			var sum int32
			for {
				in, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					if sum < 0 {
						return status.Error(codes.OutOfRange, "negative")
					}
					return stream.SendAndClose(&forms.Thing{Int32: sum})
				}
				if err != nil {
					return err
				}
				sum += in.GetInt32()
			}
		},
	}
}

const (
	chat   = "/forms.v1.FormsService/Chat"
	upload = "/forms.v1.FormsService/Upload"
)

func serveWeb(t *testing.T, b *backend, change func(*transcode.Config)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(newMux(t, b, change))
	t.Cleanup(server.Close)
	return server
}

func dialWeb(t *testing.T, server *httptest.Server, path string) *websocket.Conn {
	t.Helper()
	socket, _, err := websocket.Dial(t.Context(), server.URL+path, &websocket.DialOptions{HTTPClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.CloseNow() })
	return socket
}

// exchange sends texts, and returns what comes until the close, and its code.
func exchange(t *testing.T, socket *websocket.Conn, texts ...string) (answers []string, code websocket.StatusCode) {
	t.Helper()
	for _, text := range texts {
		if err := socket.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			break // it is closed already: the reason is read
		}
	}
	for {
		_, text, err := socket.Read(t.Context())
		if err != nil {
			return answers, websocket.CloseStatus(err)
		}
		answers = append(answers, string(text))
	}
}

func TestAStreamOfRequestsIsAWebSocket(t *testing.T) {
	b := echoing()
	server := serveWeb(t, b, func(c *transcode.Config) { c.MaxRequestBytes = 1000 })
	for _, test := range []struct {
		path    string
		texts   []string
		answers []string
		problem problem.Problem // of the last text
		code    websocket.StatusCode
	}{
		{path: chat, texts: []string{`{"name":"a"}`, `{"int64":"9007199254740993"}`, ""}, answers: []string{`{"name":"a"}`, `{"int64":"9007199254740993"}`}, code: 1000},
		{path: chat, texts: []string{""}, code: 1000},
		{path: upload, texts: []string{`{"int32":2}`, `{"int32":3}`, ""}, answers: []string{`{"int32":5}`}, code: 1000},
		{path: upload, texts: []string{`{"int32":-2}`, ""}, problem: problem.Problem{Status: 400, Code: "OUT_OF_RANGE", Detail: "negative"}, code: 4011},
		{path: chat, texts: []string{`{"name":"fail","int32":7}`}, problem: problem.Problem{Status: 403, Code: "PERMISSION_DENIED", Detail: "hunter2"}, code: 4007},
		{path: chat, texts: []string{`{"name":"fail","int32":13}`}, problem: problem.Problem{Status: 500, Code: "INTERNAL", Detail: "the service has failed; the reason is in the log of the gateway"}, code: 4013},
		{path: chat, texts: []string{`{"part":{"nmae":"a"}}`}, problem: problem.Problem{Status: 400, Code: "INVALID_ARGUMENT", Field: "part.nmae"}, code: 1007},
		{path: chat, texts: []string{`{}}`}, problem: problem.Problem{Status: 400, Code: "INVALID_ARGUMENT"}, code: 1007},
		{path: chat, texts: []string{`{"struct":` + strings.Repeat("[", 200)}, problem: problem.Problem{Status: 400, Code: "INVALID_ARGUMENT", Field: "struct" + strings.Repeat("[0]", 64) + "[0..."}, code: 1007},
		{path: chat, texts: []string{strings.Repeat(" ", 1001)}, code: 1009},
	} {
		answers, code := exchange(t, dialWeb(t, server, test.path), test.texts...)
		if test.problem.Status != 0 && len(answers) > 0 {
			var last struct{ Error problem.Problem }
			if err := json.Unmarshal([]byte(answers[len(answers)-1]), &last); err != nil {
				t.Errorf("%q: last text %s, %v", test.texts, answers[len(answers)-1], err)
			}
			answers = answers[:len(answers)-1]
			got := last.Error
			if got.Status != test.problem.Status || got.Code != test.problem.Code || got.Field != test.problem.Field || test.problem.Detail != "" && got.Detail != test.problem.Detail {
				t.Errorf("%q: problem %+v, want %+v", test.texts, got, test.problem)
			}
		} else if test.problem.Status != 0 {
			t.Errorf("%q: no problem", test.texts)
		}
		if code != test.code || strings.Join(answers, "\n") != strings.Join(test.answers, "\n") {
			t.Errorf("%s %q: answers %q and code %d, want %q and %d", test.path, test.texts, answers, code, test.answers, test.code)
		}
	}
}

func TestWhatIsNoTextEndsAWebSocket(t *testing.T) {
	server := serveWeb(t, echoing(), nil)
	socket := dialWeb(t, server, chat)
	if err := socket.Write(t.Context(), websocket.MessageBinary, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if answers, code := exchange(t, socket); code != websocket.StatusUnsupportedData || len(answers) != 1 {
		t.Errorf("answers %q, code %d", answers, code)
	}
}

func TestOnlyPagesOfTheSameOriginOpenWebSockets(t *testing.T) {
	server := serveWeb(t, echoing(), func(c *transcode.Config) { c.Origins = []string{"*.example.com"} })
	own := server.URL
	for origin, allowed := range map[string]bool{"": true, own: true, "https://shop.example.com": true, "https://example.org": false, "https://example.com.evil.org": false, "null": false} {
		socket, answer, err := websocket.Dial(t.Context(), server.URL+chat, &websocket.DialOptions{HTTPClient: server.Client(), HTTPHeader: http.Header{"Origin": {origin}}})
		if (err == nil) != allowed {
			t.Errorf("origin %q: %v, want allowed %v", origin, err, allowed)
		}
		if err == nil {
			socket.CloseNow()
			continue
		}
		if answer.StatusCode != http.StatusForbidden || answer.Header.Get("Content-Type") != problem.ContentType {
			t.Errorf("origin %q: status %d, %v", origin, answer.StatusCode, answer.Header)
		}
	}
}

func TestAStreamOfRequestsWithoutAWebSocketIsRefused(t *testing.T) {
	b := echoing()
	mux := newMux(t, b, nil)
	for _, request := range [][2]string{{"POST", upload}, {"POST", chat}, {"GET", chat}, {"POST", "/v1/uploads"}} {
		w := do(mux, request[0], request[1], "")
		if p := problemIn(t, w); w.Code != http.StatusNotImplemented || !strings.Contains(p.Detail, "WebSocket at /forms.v1.FormsService/") || w.Header().Get("Upgrade") != "websocket" {
			t.Errorf("%v: status %d, %+v", request, w.Code, p)
		}
	}
	if calls := b.taken(); len(calls) > 0 {
		t.Errorf("%d calls", len(calls))
	}
}

func TestACallEndsWhenItsWebSocketIsClosed(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn){
		"closed": func(c *websocket.Conn) { c.Close(websocket.StatusGoingAway, "") },
		"cut":    func(c *websocket.Conn) { c.CloseNow() },
	} {
		ended := make(chan error)
		b := backend{chat: func(stream chats) error {
			if err := stream.Send(&forms.Thing{}); err != nil {
				return err
			}
			<-stream.Context().Done()
			ended <- stream.Context().Err()
			return nil
		}}
		server := serveWeb(t, &b, nil)
		socket := dialWeb(t, server, chat)
		if _, _, err := socket.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		leave(socket)
		if err := <-ended; err != context.Canceled {
			t.Errorf("%s: the call ended with %v", name, err)
		}
	}
}
