package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
)

const (
	maxClients = 64 // that are asked
	maxAsks    = 8  // at once
	askTimeout = 2 * time.Second
	maxAnswer  = 8 << 20
	adminPath  = "/debug/meshlite"
)

// hostName is what a name in DNS has, and what the hosts file takes.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

// dialable reports whether address is host:port and nothing else.
func dialable(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	_, notIP := netip.ParseAddr(host)
	return err == nil && n > 0 && (notIP == nil || hostName.MatchString(host))
}

// askAll asks each client that may be asked how it calls service, as many as are asked
// at most.
func askAll(ctx context.Context, clients []client, service string) {
	left := maxClients
	for i := range clients {
		if c := &clients[i]; c.Error == "" {
			if left--; left < 0 {
				c.Error = fmt.Sprintf("no more than %d are asked: name others by --client", maxClients)
			}
		}
	}
	asking := newAsker()
	each(len(clients), maxAsks, func(i int) {
		c := &clients[i]
		if c.Error != "" {
			return
		}
		all, err := asking.ask(ctx, c.Address)
		if err != nil {
			c.Error = oneLine(err.Error())
		}
		for _, p := range all {
			c.calls = append(c.calls, p.Service)
			if p.Service == service {
				c.Targets = append(c.Targets, p)
			}
		}
	})
}

// asker reads admin pages. Where they are is told by whoever has registered
// something: it sends nothing but the question, through no proxy, follows no redirect,
// and reads no more than a page can have.
type asker struct{ http *http.Client }

func newAsker() asker {
	return asker{&http.Client{
		Timeout:       askTimeout,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// ask reads how the program calls, whose admin page is at address.
func (a asker) ask(ctx context.Context, address string) ([]balancer.Picks, error) {
	page := url.URL{Scheme: "http", Host: address, Path: adminPath}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return nil, noAnswer(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%d %s for %s: is it a program of meshlite?", response.StatusCode, http.StatusText(response.StatusCode), adminPath)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, noAnswer(err)
	}
	return readPage(text)
}

func readPage(text []byte) ([]balancer.Picks, error) {
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("an answer of more than %d MiB", maxAnswer>>20)
	}
	var page struct{ Endpoints *[]balancer.Picks }
	if err := json.Unmarshal(text, &page); err != nil {
		return nil, errors.New("an answer that is not the JSON of this version of meshlite")
	}
	if page.Endpoints == nil {
		return nil, errors.New("an answer without endpoints: is it built with an older meshlite?")
	}
	return *page.Endpoints, nil
}

// noAnswer is err in the words of who reads it.
func noAnswer(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused: has it ended?")
	case errors.As(err, &dns):
		return errors.New("its host is not known here")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", askTimeout)
	default:
		return err
	}
}

// tellUnasked says in one line for each reason who could not be asked.
func tellUnasked(stderr io.Writer, clients []client) {
	alike := map[string][]client{}
	for _, c := range clients {
		if c.Error != "" {
			alike[c.Error] = append(alike[c.Error], c)
		}
	}
	for _, c := range clients {
		same := alike[c.Error]
		if c.Error == "" || same == nil {
			continue
		}
		delete(alike, c.Error)
		who := c.name()
		if n := len(same) - 1; n > 0 {
			who += fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(stderr, "cannot ask %s: %s\n", who, c.Error)
	}
}

// name is the client for people.
func (c client) name() string {
	if c.ID == "" {
		return oneLine(c.Address)
	}
	return name(attempt.Instance{ID: c.ID, Address: c.Address})
}
