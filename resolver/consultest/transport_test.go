package consultest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// through makes a client of a transport whose agent answers with handler.
func through(t *testing.T, handler http.HandlerFunc) *http.Client {
	t.Helper()
	s, _ := newAgent(t)
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		handler(w, r)
		return true
	})
	return &http.Client{Transport: s.Transport()}
}

func TestTransportStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := through(t, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			for range 3 {
				time.Sleep(time.Second)
				_, _ = io.WriteString(w, "part ")
			}
		})
		start := time.Now()
		res, err := c.Get("http://agent/")
		must(t, err)
		defer res.Body.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("the header took %v", took)
		}
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if took := time.Since(start); string(body) != "part part part " || took != 3*time.Second {
			t.Errorf("got %q after %v", body, took)
		}
	})
}

func TestTransportErrorsAreThoseOfAConnection(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		get     error
		read    error
	}{
		"shorter than announced": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "short")
		}, nil, io.ErrUnexpectedEOF},
		"aborted before the header": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, io.EOF, nil},
		"aborted in the body": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "some")
			panic(http.ErrAbortHandler)
		}, nil, io.ErrUnexpectedEOF},
		"longer than announced": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			if _, err := io.WriteString(w, "long"); !errors.Is(err, http.ErrContentLength) {
				panic(err)
			}
			_, _ = io.WriteString(w, "ok")
		}, nil, nil},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			res, err := through(t, test.handler).Get("http://agent/")
			if !errors.Is(err, test.get) {
				t.Fatalf("get: %v, want %v", err, test.get)
			}
			if err != nil {
				return
			}
			defer res.Body.Close()
			if _, err := io.ReadAll(res.Body); !errors.Is(err, test.read) {
				t.Errorf("read: %v, want %v", err, test.read)
			}
		})
	}
}

func TestTransportServesHead(t *testing.T) {
	c := through(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "hello")
	})
	res, err := c.Head("http://agent/")
	must(t, err)
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || len(body) != 0 {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestTransportPassesTheRequestOn(t *testing.T) {
	c := through(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI+" "+string(body))
	})
	res, err := c.Post("http://agent:8500/v1/x?y=z", "", strings.NewReader("body"))
	must(t, err)
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "POST agent:8500 /v1/x?y=z body" {
		t.Errorf("got %q", body)
	}
}

// A client that stops reading leaves no goroutine in the agent.
func TestTransportLetsGoOfABodyNobodyReads(t *testing.T) {
	ended := make(chan error, 2)
	c := through(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 1<<20))
		ended <- err
	})
	res, err := c.Get("http://agent/")
	must(t, err)
	must(t, res.Body.Close())
	if err := <-ended; err == nil {
		t.Error("the write of a closed body went through")
	}

	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://agent/", nil)
	must(t, err)
	res, err = c.Do(req)
	must(t, err)
	defer res.Body.Close()
	cancel()
	if err := <-ended; err == nil {
		t.Error("the write of a cancelled answer went through")
	}
	if _, err := io.ReadAll(res.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("the read ended with %v", err)
	}
}
