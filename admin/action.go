package admin

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
)

const (
	// actionHeader must carry the name of the action.
	actionHeader = "Meshlite-Action"
	statsPath    = "/debug/meshlite"
	maxForm      = 64 << 10
)

// actionName is what stands in a path as it is.
var actionName = regexp.MustCompile(`^[a-z0-9-]+(/[a-z0-9-]+)*$`)

// Action runs on a request of an operator. Values are the request's form: untrusted input
// of anyone who reaches the page. It must be safe for concurrent use. Its result is written
// as JSON; its error is the body of a 400.
type Action func(ctx context.Context, values url.Values) (any, error)

type action struct {
	name, about string
	do          Action
}

// WithAction adds an action at name, such as "cache/clear", below /debug/meshlite/. About
// describes it in a line. The package comment has the rules for its requests.
func WithAction(name, about string, do Action) Option {
	return func(c *config) { c.actions = append(c.actions, action{name, about, do}) }
}

func checkActions(actions []action) error {
	names := map[string]bool{}
	for _, a := range actions {
		switch {
		case !actionName.MatchString(a.name):
			return fmt.Errorf(`admin: WithAction(%q): write small letters, digits and hyphens, such as "cache/clear"`, a.name)
		case a.do == nil:
			return fmt.Errorf("admin: WithAction(%q, nil): leave the option out", a.name)
		case names[a.name]:
			return fmt.Errorf("admin: WithAction(%q) is given twice: give each action a name of its own", a.name)
		}
		names[a.name] = true
	}
	return nil
}

func (a action) path() string { return statsPath + "/" + a.name }

func (a action) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.refuse(r); err != nil {
		plain(w, http.StatusForbidden, err.Error()+"\n")
		return
	}
	values, code, err := form(w, r)
	if err != nil {
		plain(w, code, err.Error()+"\n")
		return
	}
	done, err := a.do(r.Context(), values)
	if err != nil {
		plain(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	writeJSON(w, done)
}

// refuse returns why a request may come from a page in a browser, or nil.
func (a action) refuse(r *http.Request) error {
	switch {
	case r.Header.Get(actionHeader) != a.name:
		return fmt.Errorf("header %s: %q: write %q", actionHeader, r.Header.Get(actionHeader), a.name)
	// Browsers write these on every POST, also under DNS rebinding.
	case r.Header["Origin"] != nil || r.Header["Sec-Fetch-Site"] != nil:
		return errors.New("actions are not for pages in a browser: ask with `meshlite` or curl")
	default:
		return nil
	}
}

// form returns the values of the request, or the status if they cannot be read.
func form(w http.ResponseWriter, r *http.Request) (url.Values, int, error) {
	const fix = "write the values as application/x-www-form-urlencoded"
	if text := r.Header.Get("Content-Type"); text != "" {
		if kind, _, err := mime.ParseMediaType(text); err != nil || kind != "application/x-www-form-urlencoded" {
			return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content type %q: %s", text, fix)
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	var large *http.MaxBytesError
	switch err := r.ParseForm(); {
	case errors.As(err, &large):
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("more than %d KiB: ask for less at once", maxForm>>10)
	case err != nil:
		return nil, http.StatusBadRequest, fmt.Errorf("%w: %s", err, fix)
	}
	return r.Form, 0, nil
}
