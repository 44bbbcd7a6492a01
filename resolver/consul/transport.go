package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// counted is a transport that counts requests and failures, and reports the protocol.
type counted struct {
	next http.RoundTripper
	*counters
}

func (c counted) RoundTrip(request *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	response, err := c.next.RoundTrip(request)
	if failed(request, response, err) {
		c.failures.Add(1)
	}
	if streams := err == nil && response.ProtoMajor >= 2; err == nil && c.streams.Swap(streams) != streams {
		c.multiplex(streams)
	}
	return response, err
}

// failed does not count requests that were cancelled here, answers of 404, and the health of
// a service on the agent, whose status code is that health.
func failed(request *http.Request, response *http.Response, err error) bool {
	if err != nil {
		return !errors.Is(request.Context().Err(), context.Canceled)
	}
	return response.StatusCode >= http.StatusBadRequest && response.StatusCode != http.StatusNotFound &&
		!strings.HasPrefix(request.URL.Path, "/v1/agent/health/")
}

// CloseIdleConnections passes http.Client's on.
func (c counted) CloseIdleConnections() {
	(&http.Client{Transport: c.next}).CloseIdleConnections()
}

// prepare allows for the connections of a watch pool, and for keep-alives that notice within
// 20 s when a connection died silently, which may be before a blocking query ends. By TLS all
// queries are streams of one HTTP/2 connection, which a query that times out does not close:
// pings do.
func prepare(transport *http.Transport) {
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = maxConnections, maxConnections
	transport.MaxResponseHeaderBytes = 64 << 10
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: requestTimeout, PingTimeout: requestTimeout}
	dialer := &net.Dialer{
		Timeout:         requestTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2},
	}
	transport.DialContext = dialer.DialContext
}

// sameHost follows redirects within a host, as to TLS. Another host would receive the token.
func sameHost(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return fmt.Errorf("it redirects to %s: if that is the agent, set CONSUL_HTTP_ADDR to it", request.URL.Host)
	}
	if len(via) > 10 {
		return errors.New("it redirects more than 10 times")
	}
	return nil
}

const (
	defaultMaxBody = 64 << 20
	minMaxBody     = 1 << 10
	maxMaxBody     = 1 << 30
	// maxSmallBody bounds errors and answers that are not lists, which consul/api buffers.
	maxSmallBody = 4 << 20
)

// bounded is a transport that fails an answer beyond its limit. The transport below inflates
// gzip, so the limit applies to the decompressed bytes.
type bounded struct {
	next  http.RoundTripper
	limit int64
}

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	large := tooLargeError{"its answer", b.limit, "If its lists are that long, raise MaxBodyBytes of consul.Config."}
	if response.StatusCode != http.StatusOK || !isList(request.URL.Path) {
		large = tooLargeError{"its answer", min(b.limit, maxSmallBody), "Set CONSUL_HTTP_ADDR to one."}
	}
	response.Body = &boundedBody{response.Body, large.limit, large}
	return response, nil
}

func isList(path string) bool {
	_, entries, ok := strings.Cut(path, "/v1/config/")
	return strings.Contains(path, "/v1/health/") || strings.Contains(path, "/v1/catalog/") || ok && !strings.Contains(entries, "/")
}

type boundedBody struct {
	io.ReadCloser
	left     int64
	tooLarge tooLargeError
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.tooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)]) // one more byte shows that there is more
	if b.left -= int64(n); b.left < 0 {
		return n - 1, b.tooLarge
	}
	return n, err
}

// tooLargeError says what had more than limit bytes.
type tooLargeError struct {
	what  string
	limit int64 // bytes
	fix   string
}

func (e tooLargeError) Error() string {
	return fmt.Sprintf("%s has more than %d bytes", e.what, e.limit)
}

func checkMaxBody(bytes int64) error {
	if bytes != 0 && (bytes < minMaxBody || bytes > maxMaxBody) {
		return fmt.Errorf("consul: MaxBodyBytes %d: write %d (1 KiB) to %d (1 GiB), or 0 for %d (64 MiB)", bytes, minMaxBody, maxMaxBody, defaultMaxBody)
	}
	return nil
}

// tokenFile is an ACL token in a file that another program replaces from time to time, such
// as a Vault agent or a Kubernetes secret.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	token   string      // the last good one
	read    os.FileInfo // of the file as it was last read
	failing bool        // it cannot be read, which was logged
}

func openTokenFile(path string, log *slog.Logger) (*tokenFile, error) {
	f := &tokenFile{path: path, log: log}
	if err := f.refresh(); err != nil {
		return nil, fmt.Errorf("consul: the token file %s: %w: write the token into it, or set TokenFile or CONSUL_HTTP_TOKEN_FILE to another", path, err)
	}
	return f, nil
}

// current returns the token in the file, or the last good one while the file cannot be read or
// is empty, as while it is being written.
func (f *tokenFile) current() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refresh()
	if err != nil && !f.failing {
		f.log.Warn("the Consul token file cannot be read: the last token stays in use", "file", f.path, "error", err)
	}
	f.failing = err != nil
	return f.token
}

// refresh reads the file if it has changed. The caller holds f.mu, or has just made f.
func (f *tokenFile) refresh() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return withoutPath(err)
	}
	if same(f.read, info) {
		return nil
	}
	data, err := readAtMost(f.path, maxToken)
	if err != nil {
		return withoutPath(err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return errors.New("it is empty")
	}
	if strings.ContainsAny(token, "\r\n") {
		return errors.New("it has more than one line")
	}
	f.token, f.read = token, info
	return nil
}

// maxToken is far above what Consul accepts, in bytes.
const maxToken = 4 << 10

func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// withoutPath removes the path, which the message around err has.
func withoutPath(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func same(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// tokenOf returns a function that returns the current token: that of config, else of a file,
// else CONSUL_HTTP_TOKEN, as Consul's command line has it. Nil leaves the last to consul/api.
func tokenOf(config Config, environment *api.Config, log *slog.Logger) (func() string, error) {
	path := cmp.Or(config.TokenFile, environment.TokenFile)
	switch {
	case config.Token != "":
		return func() string { return config.Token }, nil
	case path == "":
		return nil, nil
	}
	file, err := openTokenFile(path, log)
	if err != nil {
		return nil, err
	}
	return file.current, nil
}

// authorized is a transport that adds the current token to every request. consul/api
// would read it only once.
type authorized struct {
	next  http.RoundTripper
	token func() string
}

func (a authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context()) // "RoundTrip should not modify the request"
	request.Header.Set("X-Consul-Token", a.token())
	return a.next.RoundTrip(request)
}

// CloseIdleConnections passes http.Client's on.
func (a authorized) CloseIdleConnections() {
	(&http.Client{Transport: a.next}).CloseIdleConnections()
}
