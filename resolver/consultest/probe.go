package consultest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// probeNetwork is the Probe that really looks, with the outputs that Consul writes.
func probeNetwork(ctx context.Context, c Check) (status, output string) {
	switch {
	case c.GRPC != "":
		return probeGRPC(ctx, c)
	case c.HTTP != "":
		return probeHTTP(ctx, c)
	default:
		return probeTCP(ctx, c)
	}
}

func (c Check) tlsConfig() *tls.Config {
	// Skipping verification is what the registration asks for.
	return &tls.Config{ServerName: c.TLSServerName, InsecureSkipVerify: c.TLSSkipVerify} //nolint:gosec
}

func probeGRPC(ctx context.Context, c Check) (status, output string) {
	creds := insecure.NewCredentials()
	if c.GRPCUseTLS {
		creds = credentials.NewTLS(c.tlsConfig())
	}
	addr, service, _ := strings.Cut(c.GRPC, "/")
	// A proxy or a user's service config has no business in a health check.
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
	if err != nil {
		return HealthCritical, err.Error()
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return HealthCritical, err.Error()
	}
	if res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return HealthCritical, fmt.Sprintf("gRPC %s serving status: %s", c.GRPC, res.GetStatus())
	}
	return HealthPassing, fmt.Sprintf("gRPC check %s: success", c.GRPC)
}

func probeHTTP(ctx context.Context, c Check) (status, output string) {
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, c.HTTP, strings.NewReader(c.Body))
	if err != nil {
		return HealthCritical, err.Error()
	}
	for k, v := range c.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Host = req.Header.Get("Host")
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "Consul Health Check")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: c.tlsConfig()}}
	if c.DisableRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	res, err := client.Do(req)
	if err != nil {
		return HealthCritical, err.Error()
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	output = fmt.Sprintf("HTTP %s %s: %s Output: %s", method, c.HTTP, res.Status, body)
	switch {
	case res.StatusCode >= 200 && res.StatusCode <= 299:
		return HealthPassing, output
	case res.StatusCode == http.StatusTooManyRequests:
		return HealthWarning, output
	default:
		return HealthCritical, output
	}
}

func probeTCP(ctx context.Context, c Check) (status, output string) {
	var conn net.Conn
	var err error
	if c.TCPUseTLS {
		conn, err = (&tls.Dialer{Config: c.tlsConfig()}).DialContext(ctx, "tcp", c.TCP)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", c.TCP)
	}
	if err != nil {
		return HealthCritical, err.Error()
	}
	_ = conn.Close()
	return HealthPassing, fmt.Sprintf("TCP connect %s: Success", c.TCP)
}
