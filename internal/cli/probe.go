package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// ProbeOptions are those of [Probe]. Either Address or URL is given.
type ProbeOptions struct {
	Address  string        // "host:port" of a gRPC server
	Service  string        // that its health service is asked for; "" is the whole server
	URL      string        // of an HTTP server
	Timeout  time.Duration // of one question
	Wait     time.Duration // ask until it is healthy, so long at most; 0 asks once
	Security Security
	Format   Format
}

// askAgain is how long a probe that waits pauses between two questions.
const askAgain = 100 * time.Millisecond

func (o *ProbeOptions) check() error {
	switch {
	case o.Timeout <= 0:
		return Usagef("--timeout %v: write a duration above 0, such as 2s", o.Timeout)
	case o.Wait < 0:
		return Usagef("--wait %v: write a duration from 0 on, such as 30s", o.Wait)
	case o.URL == "" && o.Address == "":
		return Usagef("probe takes host:port, or --http URL")
	case o.URL == "" && (strings.Contains(o.Address, "/") || strings.HasPrefix(o.Address, "unix:")):
		return Usagef("address %q: a probe asks one process: write host:port, or --http URL", o.Address)
	case o.URL == "":
		return checkTarget(o.Address)
	case o.Address != "":
		return Usagef("%q together with --http: leave one out", o.Address)
	case o.Security.Identity != "":
		return Usagef("--identity %q together with --http: a SPIFFE id proves no host, leave one out", o.Security.Identity)
	case o.Service != "":
		return Usagef("--service %q together with --http: it is for gRPC's health, leave one out", o.Service)
	default:
		return o.checkURL()
	}
}

func (o *ProbeOptions) checkURL() error {
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https":
		return Usagef("--http: write a URL such as http://127.0.0.1:8080/readyz")
	case u.Scheme == "http" && o.Security != (Security{Plaintext: o.Security.Plaintext}):
		return Usagef("--http %q together with flags about certificates: write https", o.URL)
	case u.Scheme == "https" && o.Security.Plaintext:
		return Usagef("--http %q together with --plaintext: leave one out", o.URL)
	}
	return nil
}

// probed is what a probe has found, as JSON.
type probed struct {
	Target     string  `json:"target"`
	Healthy    bool    `json:"healthy"`
	Status     string  `json:"status"` // "SERVING", a gRPC code, "200 OK"; "" without an answer
	Message    string  `json:"message,omitempty"`
	DurationMS float64 `json:"duration_ms"`
}

// Probe asks one process whether it is healthy, as an orchestrator does: by gRPC's health
// service, or by a GET that must be answered with 2xx. It goes straight to the address, past
// Consul, policies and proxies of the environment. Whatever is not healthy is an error.
func Probe(ctx context.Context, o ProbeOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	settings, creds, end, err := o.security()
	if err != nil {
		return err
	}
	defer end()
	if err := awaitCertificate(ctx, creds); err != nil {
		return fmt.Errorf("%s: %w", o.Address, err)
	}
	start := time.Now()
	p := probed{Target: cmp.Or(o.URL, o.Address)}
	for {
		p.Status, err = o.ask(ctx, settings, creds)
		if err == nil || ctx.Err() != nil || time.Since(start)+askAgain > o.Wait {
			break
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
	p.Healthy, p.DurationMS = err == nil, milliseconds(time.Since(start))
	if err != nil {
		p.Message = oneLine(err.Error())
	}
	if o.Format == JSON {
		err = errors.Join(WriteJSON(streams.Out, p), err)
	} else if err == nil {
		_, err = fmt.Fprintf(streams.Out, "%s: %s in %s\n", p.Target, oneLine(p.Status), short(time.Since(start)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Target, err)
	}
	return nil
}

// security is that of an HTTP server, where nil settings are plaintext, or of a gRPC server.
func (o *ProbeOptions) security() (settings *tls.Config, creds credentials.TransportCredentials, end func(), err error) {
	switch {
	case strings.HasPrefix(o.URL, "http:"):
		return nil, nil, func() {}, nil
	case o.URL != "":
		settings, err = o.Security.settings()
		return settings, nil, func() {}, err
	case o.Security.Identity == "":
		creds, end, err = o.Security.Credentials(nil, slog.New(slog.DiscardHandler))
		return nil, creds, end, err
	case o.Security.ServerName == "":
		return nil, nil, nil, Usagef("--identity %q: an address names no service: say which one must listen there by --servername", o.Security.Identity)
	}
	creds, end, err = o.Security.ofAgent()
	return nil, creds, end, err
}

// ask asks once.
func (o *ProbeOptions) ask(ctx context.Context, settings *tls.Config, creds credentials.TransportCredentials) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if o.URL != "" {
		return o.askHTTP(ctx, settings)
	}
	return o.askGRPC(ctx, creds)
}

func (o *ProbeOptions) askGRPC(ctx context.Context, security credentials.TransportCredentials) (string, error) {
	conn, err := grpc.NewClient("passthrough:///"+o.Address, grpc.WithTransportCredentials(security),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableHealthCheck())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: o.Service})
	if err != nil {
		return status.Code(err).String(), o.refusal(status.Convert(err))
	}
	if answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return answer.GetStatus().String(), fmt.Errorf("the server is %v", answer.GetStatus())
	}
	return answer.GetStatus().String(), nil
}

// refusal is why the health service did not answer.
func (o *ProbeOptions) refusal(s *status.Status) error {
	fix := o.Security.fix(s.Code(), s.Message(), o.Timeout)
	switch s.Code() {
	case codes.Unimplemented:
		fix = "the server has no gRPC health service: servers of meshlite have it, others register grpc.health.v1"
	case codes.NotFound:
		fix = fmt.Sprintf("its health service has no service %q: without --service the whole server is asked", o.Service)
	}
	if fix != "" {
		fix = ": " + fix
	}
	return fmt.Errorf("%v: %s%s", s.Code(), s.Message(), fix)
}

// maxReason bounds what is shown of an answer.
const maxReason = 512 // bytes

func (o *ProbeOptions) askHTTP(ctx context.Context, settings *tls.Config) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("User-Agent", "meshlite-probe")
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true},
		// What is elsewhere says nothing about this process.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL is named already
		}
		code := codes.Unavailable
		if errors.Is(err, context.DeadlineExceeded) {
			code = codes.DeadlineExceeded
		}
		if fix := o.Security.fix(code, err.Error(), o.Timeout); fix != "" {
			err = fmt.Errorf("%w: %s", err, fix)
		}
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response.Status, nil
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxReason)) // as much as came
	reason := strings.TrimSpace(string(text))
	if location := response.Header.Get("Location"); location != "" {
		reason = fmt.Sprintf("a redirect to %s, which is not followed", location)
	}
	if reason != "" {
		reason = ": " + reason
	}
	return response.Status, fmt.Errorf("%s%s", response.Status, reason)
}
