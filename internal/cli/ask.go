package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/internal/scrape"
	"github.com/meshlite-go/meshlite/resolver"
)

const (
	maxClients = 64 // processes asked
	maxAsks    = 8  // at once
	askTimeout = 2 * time.Second
	maxAnswer  = 8 << 20
	adminPath  = "/debug/meshlite"

	metricsPath = "/metrics"
)

// hostName matches the characters of names in DNS and in the hosts file.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

// dialable reports whether address is host:port and nothing else.
func dialable(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	_, notIP := netip.ParseAddr(host)
	return err == nil && n > 0 && (notIP == nil || hostName.MatchString(host))
}

// askAll asks at most maxClients processes, and records in each why it could not be asked.
func askAll(ctx context.Context, asking asker, processes []process, ask func(a asker, i int) error) {
	left := maxClients
	for i := range processes {
		if p := &processes[i]; p.Error == "" {
			if left--; left < 0 {
				p.Error = fmt.Sprintf("only the first %d are asked: name others by --client", maxClients)
			}
		}
	}
	each(len(processes), maxAsks, func(i int) {
		p := &processes[i]
		if p.Error != "" || ctx.Err() != nil {
			return
		}
		if err := ask(asking.of(*p), i); err != nil {
			p.Error = oneLine(err.Error())
		}
	})
}

// asker reads admin pages. Anyone who can register in Consul chooses their addresses, so
// it uses no proxy, follows no redirect and bounds what it reads. The credentials that it
// shows are the operator's: a certificate, to pages over TLS alone, and the token for admin
// pages, to those that demand one and may have it.
type asker struct {
	settings func(process) *tls.Config // for pages over TLS
	token    tokenTo

	http     *http.Client // for one process
	withheld bool         // whether it may not have the token
}

// of is the asker for one process.
func (a asker) of(p process) asker {
	a.http = &http.Client{
		Timeout:       askTimeout,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10, TLSClientConfig: a.settings(p)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a.withheld = !a.token.maySend(p)
	return a
}

// picks reads the picks of the program from the admin page at address.
func (a asker) picks(ctx context.Context, address string) ([]resolver.Picks, error) {
	var page struct{ Endpoints *[]resolver.Picks }
	if err := a.read(ctx, address, &page); err != nil {
		return nil, err
	}
	if page.Endpoints == nil {
		return nil, without("endpoints")
	}
	return *page.Endpoints, nil
}

// read reads the page at address.
func (a asker) read(ctx context.Context, address string, page any) error {
	request, err := ask(ctx, http.MethodGet, address, adminPath, nil)
	if err != nil {
		return err
	}
	return a.do(request, page)
}

// scrape reads the metrics in Prometheus's text format. In the protobuf format, a page
// could declare a length that makes the reader allocate without bound.
func (a asker) scrape(ctx context.Context, address string) (*scrape.Sample, error) {
	request, err := ask(ctx, http.MethodGet, address, metricsPath, nil)
	if err != nil {
		return nil, err
	}
	request.URL.RawQuery = url.Values{"name[]": scrape.Names()}.Encode()
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	at := time.Now()
	text, err := a.fetch(request)
	if err != nil {
		return nil, err
	}
	return scrape.Read(bytes.NewReader(text), at)
}

// act runs an action of the admin page at address.
func (a asker) act(ctx context.Context, address, action string, values url.Values, done any) error {
	request, err := ask(ctx, http.MethodPost, address, adminPath+"/"+action, strings.NewReader(values.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Meshlite-Action", action)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return a.do(request, done)
}

func ask(ctx context.Context, method, address, path string, body io.Reader) (*http.Request, error) {
	page := url.URL{Scheme: "http", Host: address, Path: path}
	if host, secured := strings.CutPrefix(address, https); secured {
		page.Scheme, page.Host = "https", host
	}
	return http.NewRequestWithContext(ctx, method, page.String(), body)
}

func (a asker) do(request *http.Request, answer any) error {
	text, err := a.fetch(request)
	switch {
	case err != nil:
		return err
	case json.Unmarshal(text, answer) != nil:
		return errors.New("an answer that is not the JSON of this version of meshlite")
	default:
		return nil
	}
}

// fetch is the answer as it is.
func (a asker) fetch(request *http.Request) ([]byte, error) {
	response, err := a.send(request)
	if err != nil {
		return nil, noAnswer(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, noAnswer(err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("an answer of more than %d MiB", maxAnswer>>20)
	default:
		return text, nil
	}
}

// errWithheld does not name the page, so that those of many processes are one line.
var errWithheld = errors.New("it demands the token, which is sent unencrypted only to this host and to what is named: " +
	"name pages by --client, or a network that is trusted by --send-token-to, such as 10.0.0.0/8")

// send sends the request, and again with the token if that is what the page demands.
func (a asker) send(request *http.Request) (*http.Response, error) {
	response, err := a.http.Do(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized || a.token.secret == "" || !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Bearer") {
		return response, err
	}
	_ = response.Body.Close()
	if a.withheld {
		return nil, errWithheld
	}
	again := request.Clone(request.Context())
	if request.GetBody != nil {
		if again.Body, err = request.GetBody(); err != nil {
			return nil, err
		}
	}
	again.Header.Set("Authorization", "Bearer "+a.token.secret)
	return a.http.Do(again)
}

// without is the error of a page that lacks what this version publishes.
func without(what string) error {
	return fmt.Errorf("an answer without %s: is it built with an older meshlite?", what)
}

// refusal returns the error of an HTTP status. For an action, the body has the reason.
func refusal(r *http.Response) error {
	status := fmt.Sprintf("%d %s for %s", r.StatusCode, http.StatusText(r.StatusCode), r.Request.URL.Path)
	if r.Request.Method == http.MethodGet && r.StatusCode != http.StatusForbidden && r.StatusCode != http.StatusUnauthorized {
		return errors.New(status + ": is it a meshlite program?")
	}
	switch r.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnauthorized:
		text, _ := io.ReadAll(io.LimitReader(r.Body, maxLine))
		return errors.New(cmp.Or(oneLine(string(text)), status))
	default:
		return errors.New(status + ": is it built with an older meshlite?")
	}
}

// noAnswer explains an err of the connection.
func noAnswer(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var dns *net.DNSError
	var timeout net.Error
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused: has it ended?")
	case errors.As(err, &dns):
		return errors.New("its host is not known here")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", askTimeout)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"): // net/http has no other sign
		return errors.New("it speaks plaintext alone: leave --identity or https:// out, or start it with an identity")
	case errors.As(err, &unverified):
		return fmt.Errorf("%w: %s", err, cmp.Or(Security{}.fix(codes.Unavailable, err.Error(), askTimeout), "is it the page that you mean?"))
	default:
		return err
	}
}

// writeUnasked writes a line for each reason, with the processes that could not be asked.
func writeUnasked(stderr io.Writer, processes []process) {
	alike := map[string][]process{}
	for _, p := range processes {
		if p.Error != "" {
			alike[p.Error] = append(alike[p.Error], p)
		}
	}
	for _, p := range processes {
		same := alike[p.Error]
		if p.Error == "" || same == nil {
			continue
		}
		delete(alike, p.Error)
		who := p.name()
		if n := len(same) - 1; n > 0 {
			who += fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(stderr, "cannot ask %s: %s\n", who, p.Error)
	}
}
