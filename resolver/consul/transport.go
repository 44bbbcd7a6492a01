package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// counted is a transport that counts what is asked and what fails.
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
	return response, err
}

// failed leaves out what we have given up ourselves, what the agent does not know,
// and the health of a service, which it tells by the status.
func failed(request *http.Request, response *http.Response, err error) bool {
	if err != nil {
		return !errors.Is(request.Context().Err(), context.Canceled)
	}
	return response.StatusCode >= http.StatusBadRequest && response.StatusCode != http.StatusNotFound &&
		!strings.HasPrefix(request.URL.Path, "/v1/agent/health/")
}

// CloseIdleConnections lets the client's own reach the transport.
func (c counted) CloseIdleConnections() {
	(&http.Client{Transport: c.next}).CloseIdleConnections()
}

// prepare makes room for all connections of a crowd, and notices within 20 s when
// one has died in silence, before the end of a blocking query would.
func prepare(transport *http.Transport) {
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = maxConnections, maxConnections
	transport.MaxResponseHeaderBytes = 64 << 10
	dialer := &net.Dialer{
		Timeout:         requestTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2},
	}
	transport.DialContext = dialer.DialContext
}

// sameHost follows redirects within a host, as to TLS. Another one would get the token.
func sameHost(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return fmt.Errorf("it redirects to %s: if that is the agent, set CONSUL_HTTP_ADDR to it", request.URL.Host)
	}
	if len(via) > 10 {
		return errors.New("it redirects without end")
	}
	return nil
}
