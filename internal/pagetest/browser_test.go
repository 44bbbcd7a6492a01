package pagetest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/internal/openapitest"
)

var screenshots = flag.String("screenshots", "", "directory for pictures of each view")

//go:embed testdata/axe/axe.min.js
var axe string

//go:embed testdata/axe/axe.min.js.sha256
var axeSum string

func TestAxeIsWhatWasPublished(t *testing.T) {
	want, _, _ := strings.Cut(axeSum, " ")
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(axe))); got != want {
		t.Errorf("axe.min.js has the sum %s, want %s", got, want)
	}
}

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string
}

// startBrowser opens an empty tab, until the test ends. Where there is no Chromium the test
// is skipped, or fails if CI is set.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal("no chromium on PATH: install one, such as by `apt-get install chromium`")
	default:
		t.Skip("SKIPPED, NOT TESTED: no chromium on PATH: install one, such as by `apt-get install chromium`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(2*time.Minute))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it cannot be had as root
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator)
	ctx, expire := context.WithTimeout(ctx, 5*time.Minute)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // which ends the process
		expire()
		stop()
	})
	b.do()
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	command(b, log.Enable, cdp.Empty{})
	return b
}

// listen notes what the browser's console shows as an error.
func (b *browser) listen(event any) {
	var text string
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type != runtime.ConsoleAPICalledTypeError && e.Type != runtime.ConsoleAPICalledTypeWarning {
			return
		}
		for _, a := range e.Args {
			text += string(a.Value) + " "
		}
	case *log.EventEntryAdded:
		if e.Entry.Level != log.EntryLevelError && e.Entry.Level != log.EntryLevelWarning {
			return
		}
		text = e.Entry.Text + " " + e.Entry.URL
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errors = append(b.errors, text)
}

func (b *browser) noErrors() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.errors {
		b.t.Errorf("on the console: %s", text)
	}
	b.errors = nil
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func command[P, R any](b *browser, c cdp.Command[P, R], params P) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	}))
}

// eval returns what script does, or what it promises.
func eval[T any](b *browser, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

func (b *browser) text(script string) string {
	b.t.Helper()
	return eval[string](b, script)
}

// await waits until script is true. A page that is being replaced cannot be asked.
func (b *browser) await(script string) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+script+")"))
		if err == nil && is {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s never came: %v; the page says: %s", script, err, b.text(`document.body.innerText`))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// screen is how a person looks at the page.
func (b *browser) screen(width, height int64, scheme string) {
	b.t.Helper()
	command(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// open shows a view of the page.
func (b *browser) open(address, hash string) {
	b.t.Helper()
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(address+"/"+hash))
	b.await(`document.querySelector("nav h2") && document.querySelector("main h1")`)
}

func (b *browser) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		b.do(chromedp.KeyEvent(key))
	}
}

// tabTo presses Tab until the element that matches has the focus.
func (b *browser) tabTo(selector string) {
	b.t.Helper()
	for range 300 {
		b.press(kb.Tab)
		there := eval[bool](b, fmt.Sprintf("document.activeElement.matches(%q)", selector))
		if !eval[bool](b, `document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle !== "none"`) {
			b.t.Errorf("the focus does not show on %s", b.text(`document.activeElement.outerHTML.slice(0, 200)`))
		}
		if there {
			return
		}
	}
	b.t.Fatalf("Tab never comes to %s", selector)
}

// picture writes what is shown, if pictures are wanted.
func (b *browser) picture(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	image, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, "h5-"+name+".png"), image, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// accessible runs axe-core on what is shown.
func (b *browser) accessible(view string) {
	b.t.Helper()
	type report struct {
		Passes     int
		Violations []struct{ ID, Impact, Help, Nodes string }
	}
	b.do(chromedp.Evaluate[chromedp.Void](axe + ";0"))
	result := eval[report](b, `axe.run().then((r) => ({Passes: r.passes.length, Violations: r.violations.map((v) =>
		({ID: v.id, Impact: v.impact ?? "", Help: v.help, Nodes: v.nodes.map((n) => n.html + " " + n.failureSummary).join("\n")}))}))`)
	if result.Passes < 10 {
		b.t.Errorf("%s: axe-core has checked %d rules", view, result.Passes)
	}
	for _, v := range result.Violations {
		if v.Impact == "serious" || v.Impact == "critical" {
			b.t.Errorf("%s: %s: %s (%s): %v", view, v.Impact, v.ID, v.Help, v.Nodes)
		} else {
			b.t.Logf("%s: %s: %s (%s): %v", view, v.Impact, v.ID, v.Help, v.Nodes)
		}
	}
}

// gateway serves page, document and methods, and keeps the requests to methods.
type gateway struct {
	*httptest.Server
	mu    sync.Mutex
	calls []*http.Request
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	mux := openapitest.Mux(t, openapitest.Everything(t))
	document, err := openapi.Document(openapi.Info{Title: "Library", Version: "7", Bearer: true, Description: "Books, and everything `else`."}, mux.Bindings())
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{}
	pages := openapi.Page("/openapi.json")
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case openapi.PagePath, openapi.ScriptPath, openapi.StylePath:
			pages.ServeHTTP(w, r)
		case "/openapi.json":
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(document)
		default:
			g.mu.Lock()
			g.calls = append(g.calls, r)
			g.mu.Unlock()
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) lastCall() *http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.calls) == 0 {
		return nil
	}
	return g.calls[len(g.calls)-1]
}

var views = []struct{ name, hash string }{
	{"home", ""},
	{"service", "#service/everything.v1.Library"},
	{"get", "#method/everything.v1.Library.GetShelf"},
	{"post", "#method/everything.v1.Library.Store"},
	{"query", "#method/everything.v1.Library.Search"},
	{"socket", "#method/everything.v1.Library.Talk"},
	{"type", "#type/everything.v1.Everything"},
	{"missing", "#method/nothing"},
}

func TestThePageIsForEveryone(t *testing.T) {
	g := startGateway(t)
	b := startBrowser(t)
	for _, width := range []int64{390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			b.screen(width, 900, scheme)
			for _, view := range views {
				name := fmt.Sprintf("%d-%s-%s", width, scheme, view.name)
				b.open(g.URL, view.hash)
				b.picture(name)
				b.accessible(name)
				if text := b.text(`document.body.innerText`); strings.Contains(text, "[object") || strings.Contains(text, "undefined") {
					t.Errorf("%s shows what is no text: %s", name, text)
				}
			}
		}
	}
	b.noErrors()
}

func TestThePageNeverScrollsSideways(t *testing.T) {
	g := startGateway(t)
	b := startBrowser(t)
	for _, width := range []int64{360, 390, 800, 1280} {
		b.screen(width, 800, "light")
		for _, view := range views {
			b.open(g.URL, view.hash)
			wide := eval[int64](b, `(document.querySelectorAll("details").forEach((d) => { d.open = true; }), document.documentElement.scrollWidth)`)
			if wide > width {
				b.t.Errorf("%s is %d wide on a screen of %d", view.name, wide, width)
			}
		}
	}
	b.noErrors()
}

const status = `document.querySelector(".answer .status").textContent`

func TestACallIsTriedByKeyboardAlone(t *testing.T) {
	for _, width := range []int64{390, 1280} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			g := startGateway(t)
			b := startBrowser(t)
			b.screen(width, 900, "light")
			b.open(g.URL, "")
			b.tabTo(".skip")
			b.tabTo("#filter")
			b.press("GetShelf", kb.Enter)
			b.await(`document.activeElement.matches("main h1")`)
			b.tabTo(`input[data-name="name"]`)
			b.press("1 & 2/<b>")
			b.tabTo("#token")
			b.press("s3cret")
			if curl := b.text(`document.querySelector(".curl").textContent`); strings.Contains(curl, "s3cret") || !strings.Contains(curl, "$TOKEN") {
				t.Errorf("the curl line is %s", curl)
			}
			b.press(kb.Enter)
			b.await(status + `.startsWith("200")`)
			body := b.text(`document.querySelector("[aria-label='Body of the answer']").textContent`)
			var shelf struct{ Name string }
			if err := json.Unmarshal([]byte(body), &shelf); err != nil || !strings.HasSuffix(shelf.Name, "<b>") {
				t.Errorf("the answer is shown as %q: %v", body, err)
			}
			if call := g.lastCall(); call.Header.Get("Authorization") != "Bearer s3cret" {
				t.Errorf("Authorization is %q", call.Header.Get("Authorization"))
			}
			b.tabTo(".answer summary")
			b.press(kb.Enter)
			b.await(`document.querySelector(".answer details pre").textContent.includes("content-type: application/json")`)
			b.picture(fmt.Sprintf("%d-answer", width))
			b.accessible("answer")
			if shown := eval[bool](b, `!document.querySelector(".answer b b") && document.querySelector(".answer").getBoundingClientRect().top < innerHeight`); !shown {
				t.Error("the answer is not where a person sees it")
			}
			if kept := b.text(`JSON.stringify([localStorage, sessionStorage, document.cookie])`); strings.Contains(kept, "s3cret") {
				t.Errorf("the token is kept in %s", kept)
			}
			b.noErrors()
		})
	}
}

func TestABodyIsChecked(t *testing.T) {
	g := startGateway(t)
	b := startBrowser(t)
	b.screen(1280, 900, "light")
	b.open(g.URL, "#method/everything.v1.Library.Store")
	b.tabTo("#body")
	b.press("{")
	b.await(`document.querySelector("#wrong").textContent.startsWith("This is not JSON") && document.querySelector("#body").matches("[aria-invalid=true]")`)
	b.press(kb.Backspace)
	b.await(`document.querySelector("#wrong").textContent === ""`)
	b.noErrors()
	b.press("x")
	b.tabTo("button[type=submit]")
	b.press(kb.Enter)
	b.await(status + `.startsWith("400")`)
	b.picture("1280-problem")
	b.accessible("problem")
}

func TestAStreamIsShownAsItComesAndCancelled(t *testing.T) {
	g := startGateway(t)
	b := startBrowser(t)
	b.screen(1280, 900, "light")
	b.open(g.URL, "#method/everything.v1.Library.Watch")
	b.tabTo(`input[data-name="name"]`)
	b.press("endless", kb.Enter)
	b.await(`document.querySelector("[aria-label='Body of the answer']")?.textContent.includes("endless/3")`)
	b.tabTo(".buttons button[type=button]")
	b.accessible("stream")
	b.picture("1280-stream")
	b.press(kb.Enter)
	b.await(status + `.startsWith("Cancelled")`)
	b.await(`document.activeElement.matches("button[type=submit]")`)
	b.noErrors()
	call := g.lastCall()
	select {
	case <-call.Context().Done():
	case <-time.After(time.Minute):
		t.Error("the call goes on at the gateway")
	}
}

func TestAWebSocketIsTried(t *testing.T) {
	g := startGateway(t)
	b := startBrowser(t)
	b.screen(1280, 900, "light")
	b.open(g.URL, "#method/everything.v1.Library.Talk")
	if docs := b.text(`document.querySelector(".docs").innerText`); !strings.Contains(docs, "Shelf") || strings.Contains(docs, "any value") {
		t.Errorf("the messages are described as %s", docs)
	}
	b.tabTo("button[type=submit]")
	b.press(kb.Enter)
	b.await(status + `.startsWith("Closed")`)
	if text := b.text(status); !strings.Contains(text, "1 message") {
		t.Errorf("the status is %q", text)
	}
	b.noErrors()
}

// A contract of 300 methods is there at once and is filtered by name.
func TestManyMethodsAreFiltered(t *testing.T) {
	var proto strings.Builder
	proto.WriteString(`syntax = "proto3"; package big; message M { string name = 1; }` + "\n")
	for s := range 10 {
		fmt.Fprintf(&proto, "service S%d {", s)
		for m := range 30 {
			fmt.Fprintf(&proto, "rpc Method%d(M) returns (M) {}\n", m)
		}
		proto.WriteString("}\n")
	}
	document, err := openapi.Document(openapi.Info{}, openapitest.Bindings(t, openapitest.Compile(t, proto.String())))
	if err != nil {
		t.Fatal(err)
	}
	pages := openapi.Page("/d")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/d" {
			_, _ = w.Write(document)
			return
		}
		pages.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b := startBrowser(t)
	b.screen(1280, 900, "light")
	b.open(server.URL, "")
	visible := `[...document.querySelectorAll("nav li")].filter((e) => e.checkVisibility()).length`
	b.await(visible + ` === 300`)
	b.tabTo("#filter")
	b.press("s7 method29")
	b.await(visible + ` === 1`)
	b.picture("1280-filter")
	if spoken := b.text(`document.querySelector("#matches").textContent`); spoken != "1 method" {
		t.Errorf("a screen reader hears %q", spoken)
	}
	if home := b.text(`document.querySelector("main").textContent`); !strings.Contains(home, "reflection carries no comments") {
		t.Errorf("nothing says why there are no comments: %s", home)
	}
	b.press(kb.Enter)
	b.await(`location.hash === "#method/big.S7.Method29"`)
	b.noErrors()
}
