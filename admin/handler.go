package admin

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// New makes the handler. Options without a value and a name given twice are errors.
func New(opts ...Option) (http.Handler, error) {
	c := &config{gatherer: prometheus.DefaultGatherer, health: func() error { return nil }, hosts: map[string]bool{}, access: access{identities: map[string]bool{}}}
	for _, opt := range opts {
		opt(c)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c.handler(), nil
}

// page is one line of the index.
type page struct {
	path, about string
	handler     http.Handler
}

func (c *config) handler() http.Handler {
	pages := []page{
		{metricsPath, "metrics for Prometheus", promhttp.HandlerFor(c.gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true})},
		{healthPath, "200 while the process is alive, 503 with the reasons when it should be restarted", answers(c.health)},
		{readyPath, "200 while it can be called, 503 with the reasons when not", answers(c.readiness())},
		{statsPath, "statistics of each part, as JSON", http.HandlerFunc(c.stats)},
	}
	if c.pprof {
		pages = append(pages, page{"/debug/pprof/", "profiles: go tool pprof http://ADDRESS/debug/pprof/profile", profiles()})
	}
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.Handle("GET "+p.path, p.handler)
	}
	for _, a := range c.actions {
		mux.Handle("POST "+a.path(), a)
		pages = append(pages, page{path: a.path(), about: "POST: " + a.about})
	}
	mux.Handle("GET /{$}", index(pages))
	return c.protect(mux)
}

func index(pages []page) http.Handler {
	var text strings.Builder
	for _, p := range pages {
		text.WriteString(p.path + "\t" + p.about + "\n")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, text.String())
	})
}

// answers is ok, or why it is not.
func answers(ask func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := ask(); err != nil {
			plain(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		plain(w, http.StatusOK, "ok\n")
	})
}

func (c *config) stats(w http.ResponseWriter, _ *http.Request) {
	all := make(map[string]any, len(c.parts))
	for _, p := range c.parts {
		all[p.name] = p.stats()
	}
	writeJSON(w, all)
}

func writeJSON(w http.ResponseWriter, value any) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		plain(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(text, '\n')) // a client that is gone needs no answer
}

// profiles is what net/http/pprof registers on the default mux.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // a client that is gone needs no answer
}
