package consul

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/consul/api"
)

// tokenFile is an ACL token in a file that somebody else writes anew from time to
// time, such as a Vault agent or a Kubernetes secret.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	token  string      // the last good one
	seen   os.FileInfo // of the file that was last read
	broken bool        // and logged
}

func openTokenFile(path string, log *slog.Logger) (*tokenFile, error) {
	f := &tokenFile{path: path, log: log}
	if err := f.refresh(); err != nil {
		return nil, fmt.Errorf("consul: the token file %s: %w: write the token into it, or set TokenFile or CONSUL_HTTP_TOKEN_FILE to another", path, err)
	}
	return f, nil
}

// current is the token of now: the last good one while the file cannot be read or
// is empty, as in the middle of being written.
func (f *tokenFile) current() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refresh()
	if err != nil && !f.broken {
		f.log.Warn("the token of Consul cannot be read: the last one is used on", "file", f.path, "error", err)
	}
	f.broken = err != nil
	return f.token
}

// refresh reads the file if it is another than before. The caller holds f.mu, or
// is the only one to know f.
func (f *tokenFile) refresh() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return reason(err)
	}
	if same(f.seen, info) {
		return nil
	}
	data, err := readAtMost(f.path, maxToken)
	if err != nil {
		return reason(err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return errors.New("it is empty")
	}
	if strings.ContainsAny(token, "\r\n") {
		return errors.New("it has more than one line")
	}
	f.token, f.seen = token, info
	return nil
}

// maxToken is far above what Consul takes.
const maxToken = 4 << 10

func readAtMost(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return data, err
}

// reason is err without the path, which the message around it has.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func same(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// tokenOf is what tells the token of now: the configuration's own goes before a
// file, a file before CONSUL_HTTP_TOKEN, as with Consul's command line. Nil is
// whatever consul/api has from the environment.
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

// currentToken is the token of now, or "" for one that cannot change.
func (d *Directory) currentToken() string {
	if d.tokenNow == nil {
		return ""
	}
	return d.tokenNow()
}

// authorized is a transport that gives every request the token of now, which
// consul/api would read only once.
type authorized struct {
	next  http.RoundTripper
	token func() string
}

func (a authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context()) // "RoundTrip should not modify the request"
	request.Header.Set("X-Consul-Token", a.token())
	return a.next.RoundTrip(request)
}

// CloseIdleConnections lets the client's own reach the transport.
func (a authorized) CloseIdleConnections() {
	(&http.Client{Transport: a.next}).CloseIdleConnections()
}
