package httpproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

var (
	errBusy       = errors.New("httpproxy: too many requests in flight")
	errNoInstance = errors.New("httpproxy: no instance can be reached")
)

// firstListTimeout is how long the first requests wait for the directory.
const firstListTimeout = 5 * time.Second

// transport is the http.RoundTripper that chooses an instance for each attempt.
type transport struct {
	config  *Config
	set     *routes.Set
	targets map[string]target // by address, of a fixed list; nil for a directory
	http    *http.Transport
	reach   *reach
	budget  budget
	counts  counters

	listed     chan struct{} // closed when there is a list, empty or not
	listedOnce sync.Once
	inFlight   chan struct{} // holds one for each request
	waiting    chan struct{} // holds one for each that waits for the first list
}

func newTransport(c *Config) (*transport, error) {
	t := &transport{config: c, listed: make(chan struct{}), inFlight: make(chan struct{}, c.MaxInFlight), waiting: make(chan struct{}, c.MaxInFlight)}
	list, targets, err := parseURLs(c.URLs)
	if err != nil {
		return nil, fmt.Errorf("httpproxy: site %q: %w", c.Name, err)
	}
	if t.set, err = c.newSet(); err != nil {
		return nil, err
	}
	t.budget.ratio = c.RetryRatio
	t.budget.tokens = maxTokens
	t.reach = newReach(c, t.set)
	t.http = &http.Transport{
		DialContext: t.reach.dial, DialTLSContext: t.reach.dialTLS,
		MaxConnsPerHost: c.MaxConnections, MaxIdleConnsPerHost: c.MaxIdleConnections, IdleConnTimeout: c.IdleTimeout,
		ResponseHeaderTimeout: c.HeaderTimeout, ExpectContinueTimeout: time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // the body passes as it is
	}
	if len(list) > 0 {
		t.targets = targets
		t.update(listOf(list))
	}
	return t, nil
}

// listOf is plain discovery.
func listOf(list []catalog.Instance) routes.Snapshot {
	return routes.Snapshot{Targets: []routes.Target{{Instances: list, Known: len(list)}}}
}

// update takes new instances, and where requests go.
func (t *transport) update(to routes.Snapshot) {
	if err := t.set.Update(to); err != nil {
		t.config.Log.Error("the discovery chain is not used: requests go where they did before", "site", t.config.Name, "error", err)
		return
	}
	t.reach.keep(to.Targets)
	t.listedOnce.Do(func() { close(t.listed) })
}

func (t *transport) close() {
	t.reach.close()
	t.set.Close()
	t.http.CloseIdleConnections()
}

// RoundTrip sends a request to an instance, and to others if that fails, as the package comment
// says. The URL of request needs no host.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	body := newRequestBody(request, t.config.MaxReplay)
	select {
	case t.inFlight <- struct{}{}:
	default:
		t.counts.rejected.Add(1)
		return nil, errBusy
	}
	t.counts.requests.Add(1)
	t.budget.earn()
	response, err := t.send(request, body)
	if err != nil {
		<-t.inFlight
		t.counts.failed.Add(1)
		return nil, err
	}
	return response, nil
}

// send makes attempts until one has an answer.
func (t *transport) send(request *http.Request, body *requestBody) (*http.Response, error) {
	if err := body.load(); err != nil {
		return nil, err
	}
	var last error
	to, record := routedOf(request), attempt.New()
	record.SetRoute(to.chosen())
	for ; ; record = record.Next() {
		choice, err := t.set.Pick(record, request, methodLabel(request.Method))
		to.sent(record.Route())
		if err != nil {
			if last != nil {
				return nil, last // all others went away meanwhile
			}
			return nil, errNoInstance
		}
		response, end := t.attempt(request, body, choice)
		switch {
		case end != nil:
			if last = end.err; !t.again(request, body, record, end) {
				return nil, last
			}
		case to.retry().OnStatus(response.StatusCode) && t.again(request, body, record, &failure{sent: true}):
			last = discard(response)
		default:
			return response, nil
		}
	}
}

// wait waits for the first list of instances, before anything is decided of a request.
func (t *transport) wait(ctx context.Context) error {
	select {
	case <-t.listed:
		return nil
	default:
	}
	select {
	case t.waiting <- struct{}{}:
		defer func() { <-t.waiting }()
	default:
		t.counts.rejected.Add(1)
		return errBusy
	}
	timer := time.NewTimer(firstListTimeout)
	defer timer.Stop()
	select {
	case <-t.listed:
		return nil
	case <-timer.C:
		return errNoInstance
	case <-ctx.Done():
		return ctx.Err()
	}
}

// methodLabel bounds the methods whose answers are compared.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	default:
		return "other"
	}
}

// again reports whether a request whose attempt failed is sent to another instance.
func (t *transport) again(request *http.Request, body *requestBody, record *attempt.Record, end *failure) bool {
	if record.Number() >= routedOf(request).attempts(t.config.Attempts) || !record.HasUntried() || request.Context().Err() != nil || body.failed() != nil || !body.rewind() {
		return false
	}
	if !end.sent {
		t.counts.moved.Add(1)
		return true
	}
	if !slices.Contains(idempotent, request.Method) {
		return false
	}
	if !t.budget.spend() {
		t.counts.unbudgeted.Add(1)
		return false
	}
	t.counts.retries.Add(1)
	return true
}

// idempotent methods may be sent again (RFC 9110, section 9.2.2).
var idempotent = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete}

// failure is the end of an attempt without an answer.
type failure struct {
	err  error
	sent bool // the instance may have the request
}

// attempt sends a request to one instance. The body of its response ends the choice.
func (t *transport) attempt(request *http.Request, body *requestBody, choice *balancer.Choice) (*http.Response, *failure) {
	var sent atomic.Bool
	ctx, cancel := context.WithCancelCause(request.Context())
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}
	out := request.WithContext(httptrace.WithClientTrace(ctx, trace))
	out.URL = t.urlAt(choice.Instance().Address, request.URL)
	if t.config.InstanceHost {
		out.Host = out.URL.Host
	}
	out.Body = body.reader()
	response, err := t.http.RoundTrip(out)
	if err != nil {
		cancel(nil)
		choice.Done(resultOf(err, sent.Load(), errors.Is(request.Context().Err(), context.Canceled) || body.failed() != nil))
		if failed := body.failed(); failed != nil {
			err = failed
		}
		return nil, &failure{err, sent.Load()}
	}
	response.Request = request
	response.Body = t.follow(response, choice, cancel)
	return response, nil
}

// maxDiscard is how many bytes of an answer are read so that its connection can be used again.
const maxDiscard = 4 << 10

// discard ends an answer instead of which another attempt is made. The result is its error, if no
// other instance is left.
func discard(response *http.Response) error {
	if body, ok := response.Body.(*responseBody); ok {
		body.holds = nil
	}
	if response.ContentLength >= 0 && response.ContentLength <= maxDiscard {
		_, _ = io.Copy(io.Discard, response.Body)
	}
	_ = response.Body.Close()
	return fmt.Errorf("httpproxy: an instance answered %s", response.Status)
}

// urlAt is u at an instance.
func (t *transport) urlAt(address string, u *url.URL) *url.URL {
	at := *u
	target, fixed := t.targets[address]
	if !fixed {
		target.scheme, target.host = "http", address
		if t.config.HTTPS {
			target.scheme = "https"
		}
	}
	at.Scheme, at.Host = target.scheme, target.host
	if target.path != "" {
		escaped := target.path + u.EscapedPath()
		if path, err := url.PathUnescape(escaped); err == nil {
			at.Path, at.RawPath = path, escaped
		}
	}
	return &at
}

// resultOf classifies an attempt without an answer. excused is one whose caller has ended it.
func resultOf(err error, sent, excused bool) balancer.Result {
	result := balancer.Result{Outcome: balancer.Failed, End: attempt.Over, TimedOut: sent && isTimeout(err)}
	if sent {
		result.End |= attempt.Sent
	}
	var connect *connectError
	if excused || errors.As(err, &connect) && connect.local {
		result.Outcome, result.TimedOut = balancer.Ignored, false
	}
	return result
}

// outcomeOf classifies an answer by its status.
func outcomeOf(status int) balancer.Outcome {
	switch {
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return balancer.Failed
	case status == http.StatusTooManyRequests:
		return balancer.Overloaded
	case status >= http.StatusBadRequest:
		return balancer.Refused
	default:
		return balancer.Succeeded
	}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// follow returns the body of a response, which ends the choice and the request when it ends.
func (t *transport) follow(response *http.Response, choice *balancer.Choice, cancel context.CancelCauseFunc) io.ReadCloser {
	outcome := outcomeOf(response.StatusCode)
	if outcome == balancer.Succeeded || outcome == balancer.Refused {
		choice.Responded()
	}
	b := &responseBody{ReadCloser: response.Body, ctx: response.Request.Context(), holds: t.inFlight}
	b.done = func(err error) {
		if err != nil && b.ctx.Err() == nil {
			outcome = balancer.Failed // the answer broke off
		}
		choice.Done(balancer.Result{Outcome: outcome, End: attempt.Over | attempt.Sent | attempt.Received | attempt.Answer})
		cancel(nil)
	}
	if connection, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols {
		return &upgraded{b, connection}
	}
	b.timeout = t.config.BodyTimeout
	b.timer = time.AfterFunc(b.timeout, func() { cancel(errBodyTimeout) })
	return b
}
