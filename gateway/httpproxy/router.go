package httpproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/route"
)

var (
	errNoRoute = errors.New("httpproxy: no route")
	errPath    = errors.New("the route of the request makes a path that has no one meaning")
)

// router is the http.RoundTripper that chooses where a request goes, outside of the cache: an
// answer is kept for the destination that gave it. Without a chain it passes requests on.
type router struct {
	transport *transport
	next      http.RoundTripper
}

// RoundTrip sends a request where the chain says.
func (r *router) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := r.transport.wait(request.Context()); err != nil {
		return nil, err
	}
	choice, at, err := r.transport.set.Choose(request)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errNoRoute, err)
	case at == nil:
		return r.next.RoundTrip(request)
	}
	if report := r.transport.config.OnRoute; report != nil {
		report(request, choice)
	}
	to := &routed{Choice: choice, first: at}
	out, cancel, err := to.request(request)
	if err != nil {
		return nil, err
	}
	response, err := r.next.RoundTrip(out)
	r.transport.set.Count(to.last(), err == nil && response.StatusCode < http.StatusInternalServerError)
	if err != nil {
		cancel()
		return nil, err
	}
	applyHeaders(choice.Arm.Response, response.Header)
	if at.Timeout > 0 && response.StatusCode != http.StatusSwitchingProtocols { // which has left its context behind
		response.Body = &timedBody{response.Body, cancel}
	}
	return response, nil
}

// routed is where one request goes. A nil one goes by plain discovery.
type routed struct {
	route.Choice
	first *attempt.Route
	moved atomic.Pointer[attempt.Route] // where the last attempt went
}

type routedKey struct{}

// routedOf is where r goes, nil without a chain.
func routedOf(r *http.Request) *routed {
	to, _ := r.Context().Value(routedKey{}).(*routed)
	return to
}

// Destination identifies what answers a request that a [Proxy] forwards: datacenter, service and
// subset, where a discovery chain decides it, else empty. Before the request is sent it is where
// it will go, and afterwards where its last attempt went. A cache in [Config.Wrap] keeps answers
// apart by it.
func Destination(r *http.Request) string {
	if at := routedOf(r).last(); at != nil {
		return at.Destination
	}
	return ""
}

func (to *routed) chosen() *attempt.Route {
	if to == nil {
		return nil
	}
	return to.first
}

// sent records where an attempt goes.
func (to *routed) sent(at *attempt.Route) {
	if to != nil && at != nil {
		to.moved.Store(at)
	}
}

// last is where the last attempt went, or the first will go.
func (to *routed) last() *attempt.Route {
	if to == nil {
		return nil
	}
	return cmp.Or(to.moved.Load(), to.first)
}

// retry is what the route says of retries, or nil.
func (to *routed) retry() *route.Retry {
	if to == nil {
		return nil
	}
	return to.Route.Retry
}

// attempts is how many instances a request is sent to at most; standard is that of the site.
func (to *routed) attempts(standard int) int {
	if to == nil || to.first.Retry == nil || to.first.Retry.Attempts == 0 {
		return standard
	}
	return min(to.first.Retry.Attempts, maxAttempts)
}

// request is r as its route changes it. The caller cancels it when the answer has ended.
func (to *routed) request(r *http.Request) (*http.Request, context.CancelFunc, error) {
	at, err := to.Route.Rewrite(r.URL)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errPath, err)
	}
	ctx, cancel := context.WithValue(r.Context(), routedKey{}, to), context.CancelFunc(func() {})
	if to.first.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, to.first.Timeout)
	}
	out := r.WithContext(ctx)
	out.URL = at
	if len(to.Arm.Request) > 0 {
		out.Header = r.Header.Clone()
		applyHeaders(to.Arm.Request, out.Header)
	}
	return out, cancel, nil
}

// applyHeaders changes header as a chain says, whose keys are in lower case.
func applyHeaders(all []route.Headers, header http.Header) {
	for i := range all {
		one := &all[i]
		for _, key := range one.Remove {
			header.Del(key)
		}
		for key, value := range one.Set {
			if value != "" {
				header.Set(key, value)
			}
		}
		for key, value := range one.Add {
			if value != "" {
				header.Add(key, value)
			}
		}
	}
}

// timedBody is the body of an answer whose request has a timeout.
type timedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close ends the request.
func (b *timedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}
