package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	scrapeTimeout = time.Second
	maxScrape     = 1 << 20
)

// figures are what the demo reads from an instance's /metrics.
type figures struct {
	calls        uint64 // handled by the service itself, whatever the code
	hits, misses uint64 // of its cache
}

// scraper reads /metrics over connections that it keeps.
type scraper struct{ client *http.Client }

func newScraper() *scraper {
	return &scraper{&http.Client{
		Timeout:   scrapeTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 5 * time.Second, DisableCompression: true},
	}}
}

func (s *scraper) close() { s.client.CloseIdleConnections() }

// scrape reads the figures of the instance of service whose metrics are at address.
func (s *scraper) scrape(ctx context.Context, service, address string) (figures, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return figures{}, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return figures{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return figures{}, fmt.Errorf("http://%s/metrics answered %s", address, response.Status)
	}
	return readFigures(io.LimitReader(response.Body, maxScrape), service)
}

// readFigures reads Prometheus's text format, of which it needs two counters.
// Health checks and reflection are served by other gRPC services.
func readFigures(r io.Reader, service string) (figures, error) {
	var f figures
	own := `grpc_service="sweetshop.` + service + `.`
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "grpc_server_handled_total{") && strings.Contains(line, own):
			f.calls += valueOf(line)
		case !strings.HasPrefix(line, "meshlite_cache_requests_total{"):
		case strings.Contains(line, `result="hit"`):
			f.hits += valueOf(line)
		case strings.Contains(line, `result="miss"`):
			f.misses += valueOf(line)
		}
	}
	return f, lines.Err()
}

// valueOf is the value of a sample line; what is no number counts nothing.
func valueOf(line string) uint64 {
	_, value, _ := strings.Cut(line, "} ")
	value, _, _ = strings.Cut(value, " ")
	number, err := strconv.ParseFloat(value, 64)
	if err != nil || number < 0 {
		return 0
	}
	return uint64(number)
}
