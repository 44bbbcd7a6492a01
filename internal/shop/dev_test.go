package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// page is a buffer to write and read at once.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// await waits until the page has text.
func (p *page) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is no %q in:\n%s", text, p)
		}
	}
}

// startDev keeps a shop open until the function that it answers is called.
func startDev(t *testing.T, o DevOptions) (stop func() error) {
	t.Helper()
	t.Setenv(behave, "well")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	o.Registry, o.Dir = Embedded, programsDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Dev(ctx, o) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

func TestDevPrintsWhatToType(t *testing.T) {
	out := &page{}
	stop := startDev(t, DevOptions{Command: "./meshlite", Out: out, Progress: io.Discard})
	out.await(t, "ctrl-C closes the shop")
	for _, line := range []string{
		`registry +embedded at http://127\.0\.0\.1:\d+`,
		`catalog-\d+ +127\.0\.0\.1:\d+ +http://127\.0\.0\.1:1/metrics`,
		`\./meshlite call --plaintext consul://127\.0\.0\.1:\d+/storefront sweetshop\.storefront\.v1\.StorefrontService/Browse -d '\{\}'`,
		`\./meshlite call --plaintext -H 'customer-id: ada' consul://127\.0\.0\.1:\d+/storefront sweetshop\.storefront\.v1\.StorefrontService/PlaceOrder -d `,
		`\./meshlite call .*/ListSections -n 1000 -c 10`,
		`\./meshlite call --plaintext consul://127\.0\.0\.1:\d+/storefront\n`,
		`its page, to read and try it, is http://127\.0\.0\.1:\d+/\n`,
		`curl -s 'http://127\.0\.0\.1:\d+/sweetshop\.catalog\.v1\.CatalogService/GetSweet\?id=lemon-sherbet'`,
		`\./meshlite top --http-addr 127\.0\.0\.1:\d+`,
		`\./meshlite check --http-addr 127\.0\.0\.1:\d+`,
		`\./meshlite endpoints catalog --watch --http-addr 127\.0\.0\.1:\d+`,
		`\./meshlite endpoints catalog --picks --http-addr 127\.0\.0\.1:\d+`,
		`\./meshlite cache stats storefront --http-addr 127\.0\.0\.1:\d+`,
		`\./meshlite limits storefront --http-addr 127\.0\.0\.1:\d+`,
		`curl -s http://127\.0\.0\.1:\d+/v1/catalog/services`,
		`export CONSUL_HTTP_ADDR=127\.0\.0\.1:\d+`,
	} {
		if !regexp.MustCompile(line).MatchString(out.String()) {
			t.Errorf("there is no line like %s in:\n%s", line, out)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("an orderly stop answers %v", err)
	}
}

func TestDevReportsWhatEnds(t *testing.T) {
	out, progress := &page{}, &page{}
	stop := startDev(t, DevOptions{Out: out, Progress: progress, JSON: true})
	out.await(t, "]\n}")
	var report struct {
		Registry  string
		Instances []devInstance
	}
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil || report.Registry != "embedded" || len(report.Instances) != 6 {
		t.Fatalf("got %+v, %v, want six instances", report, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	progress.await(t, "closing the shop")
}

func TestWatchEnds(t *testing.T) {
	s := open(t, "well")
	i, err := s.Start(t.Context(), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	progress, done := &page{}, make(chan struct{})
	go func() { defer close(done); watchEnds(ctx, progress, []*Instance{i}) }()
	if err := i.Kill(); err != nil {
		t.Error(err)
	}
	progress.await(t, i.ID+" has ended (signal: killed) and is not restarted")
	cancel()
	<-done
}
