package route

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Retry is what a route says of retries. Only calls that may run twice are retried, whatever
// a route says.
type Retry struct {
	Attempts uint32 `json:"attempts,omitempty"` // after the first; 0 is the policy's
	// Codes are names of gRPC's, such as UNAVAILABLE, that are retried beside the policy's.
	Codes []string `json:"codes,omitempty"`
	// OnConnectFailure retries attempts that found no connection.
	OnConnectFailure bool `json:"on_connect_failure,omitempty"`
	// On and Statuses are Envoy's conditions and HTTP's status codes, as they are written. Requests
	// of HTTP are retried by them; for gRPC they are in the fields above.
	On       []string `json:"on,omitempty"`
	Statuses []uint32 `json:"statuses,omitempty"`
}

// retriedOn is what the conditions of Envoy for retries mean to a client of gRPC: codes, or
// that the server has processed nothing.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on
var retriedOn = map[string]struct {
	code           string
	connectFailure bool
}{
	"cancelled":          {code: "CANCELLED"},
	"deadline-exceeded":  {code: "DEADLINE_EXCEEDED"},
	"internal":           {code: "INTERNAL"},
	"resource-exhausted": {code: "RESOURCE_EXHAUSTED"},
	"unavailable":        {code: "UNAVAILABLE"},
	// An answer of HTTP without gRPC's status, and a connection that is lost.
	"5xx":             {code: "UNAVAILABLE", connectFailure: true},
	"gateway-error":   {code: "UNAVAILABLE"},
	"reset":           {code: "UNAVAILABLE"},
	"connect-failure": {connectFailure: true},
	"refused-stream":  {connectFailure: true},
}

var (
	// conditionsOfGRPC and conditionsOfHTTP are those of Envoy that each can mean. A request that
	// was not sent is sent elsewhere without a condition.
	conditionsOfGRPC = slices.Sorted(maps.Keys(retriedOn))
	conditionsOfHTTP = []string{"5xx", "connect-failure", "gateway-error", "refused-stream", "reset", "reset-before-request", "retriable-4xx"}
	// unavailable are the answers of HTTP that are UNAVAILABLE to a client of gRPC.
	// https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
	unavailable = []uint32{429, 502, 503, 504}
)

// NewRetry is what a route says of retries in the words of Consul; nil is nothing.
func NewRetry(attempts uint32, onConnectFailure bool, on []string, statuses []uint32) *Retry {
	if attempts == 0 && !onConnectFailure && len(on)+len(statuses) == 0 {
		return nil
	}
	r := &Retry{Attempts: attempts, OnConnectFailure: onConnectFailure, On: on, Statuses: statuses}
	for _, condition := range on {
		meaning := retriedOn[condition]
		r.OnConnectFailure = r.OnConnectFailure || meaning.connectFailure
		if meaning.code != "" {
			r.Codes = append(r.Codes, meaning.code)
		}
	}
	if len(statuses) > 0 {
		r.Codes = append(r.Codes, "UNAVAILABLE")
	}
	slices.Sort(r.Codes)
	r.Codes = slices.Compact(r.Codes)
	return r
}

// OnStatus reports whether a request of HTTP that is answered with status is retried. r may be
// nil.
func (r *Retry) OnStatus(status int) bool {
	if r == nil {
		return false
	}
	return slices.Contains(r.Statuses, uint32(status)) || slices.ContainsFunc(r.On, func(condition string) bool {
		switch condition {
		case "5xx":
			return status >= http.StatusInternalServerError
		case "gateway-error":
			return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
		case "retriable-4xx":
			return status == http.StatusConflict
		default:
			return false
		}
	})
}

// codes are those of gRPC that a route may retry.
var codes = []string{"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}

func (r *Retry) check() error {
	if r.Attempts > maxRetries {
		return fmt.Errorf("%d retries: write %d at most", r.Attempts, maxRetries)
	}
	for _, code := range r.Codes {
		if !slices.Contains(codes, code) {
			return fmt.Errorf("retries %q: write some of %s", code, strings.Join(codes, ", "))
		}
	}
	for _, status := range r.Statuses {
		if status < 400 || status > 599 {
			return fmt.Errorf("RetryOnStatusCodes %d: only errors are retried: write some of 400 to 599", status)
		}
	}
	return nil
}

// refusedBy names what r has that is not among conditions and statuses; nil statuses are all.
func (r *Retry) refusedBy(protocol string, conditions []string, statuses []uint32) (parts []string) {
	if r == nil {
		return nil
	}
	for _, condition := range r.On {
		if !slices.Contains(conditions, condition) {
			parts = append(parts, fmt.Sprintf("RetryOn %q: %s has no such condition: write some of %s", condition, protocol, strings.Join(conditions, ", ")))
		}
	}
	for _, status := range r.Statuses {
		if statuses != nil && !slices.Contains(statuses, status) {
			parts = append(parts, fmt.Sprintf("RetryOnStatusCodes %d: %s has no such code: write some of %v, or a condition of RetryOn", status, protocol, statuses))
		}
	}
	return parts
}
