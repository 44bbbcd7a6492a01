package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"
)

// maxItem bounds one instance or check in a list, in bytes.
const maxItem = 1 << 20

// These messages have only the fields that are used: those of consul/api take up to a hundred
// times the bytes that they are decoded from, and some panic at a null. Any pointer may
// be nil.

// entry is an instance in the catalog, with its node and the checks of both.
type entry struct {
	Node *struct {
		Node, Address, Datacenter string
	}
	Service *struct {
		ID, Service, Address string
		Port                 int
		Tags                 []string
		Meta                 map[string]string
		Weights              *weights // nil is 1 and 1, as Consul has it
		Locality             *struct{ Region, Zone string }
		TaggedAddresses      map[string]taggedAddress
	}
	Checks []*healthCheck
}

type weights struct{ Passing, Warning int }

type taggedAddress struct {
	Address string
	Port    int
}

// agentService is an instance and its checks as the agent itself has them.
type agentService struct {
	Service *struct {
		Service, Address  string
		Port              int
		Tags              []string
		EnableTagOverride bool
		Meta              map[string]string
		Weights           api.AgentWeights
		Locality          *api.Locality
		TaggedAddresses   map[string]taggedAddress
		Connect           struct{ Native bool }
	}
	Checks []*healthCheck
}

type healthCheck struct {
	Node, ServiceID, CheckID, Name, Status, Output, Notes string
}

// anything is a value of any type, which is ignored.
type anything struct{}

func (anything) UnmarshalJSON([]byte) error { return nil }

// eachItem decodes a list one item at a time, so that only one is in memory. It skips null
// items.
func eachItem[T any](body io.Reader, take func(*T)) error {
	items, ok, err := openItems(body, '[')
	if !ok {
		return err
	}
	for items.More() {
		var item *T
		if err := items.next(&item); err != nil {
			return err
		}
		if item != nil {
			take(item)
		}
	}
	return items.end()
}

// eachName decodes the keys of an object.
func eachName(body io.Reader, take func(string)) error {
	items, ok, err := openItems(body, '{')
	if !ok {
		return err
	}
	for items.More() {
		name, err := items.Token()
		if err == nil {
			err = items.next(&anything{})
		}
		if err != nil {
			return unreadable(err)
		}
		take(name.(string)) // the decoder accepts no other key
	}
	return items.end()
}

// items decodes a list or an object.
type items struct {
	*json.Decoder
	from *itemReader
}

// openItems reads the first delimiter; ok is false for a null, which means empty.
func openItems(body io.Reader, want json.Delim) (_ items, ok bool, err error) {
	from := &itemReader{body, maxItem}
	i := items{json.NewDecoder(from), from}
	first, err := i.Token()
	switch {
	case err != nil:
		return i, false, unreadable(err)
	case first == nil:
		return i, false, nil
	case first != want:
		return i, false, unreadable(fmt.Errorf("want %q first", want.String()))
	}
	return i, true, nil
}

func (i items) next(item any) error {
	i.from.left = maxItem
	if err := i.Decode(item); err != nil {
		return unreadable(err)
	}
	i.from.left = maxItem // for whitespace between two
	return nil
}

// end reads the last delimiter.
func (i items) end() error {
	if _, err := i.Token(); err != nil {
		return unreadable(err)
	}
	return nil
}

func unreadable(err error) error { return fmt.Errorf("its answer cannot be read: %w", err) }

// itemReader fails in an item that is too large.
type itemReader struct {
	io.Reader
	left int
}

func (r *itemReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, tooLargeError{"an item of its answer", maxItem, "Check what is registered."}
	}
	n, err := r.Reader.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// decodeKey is the context key of a func(io.Reader) error that decodes an answer.
type decodeKey struct{}

// decoding returns a context whose request has its answer decoded by decode.
func decoding(ctx context.Context, decode func(io.Reader) error) context.Context {
	return context.WithValue(ctx, decodeKey{}, decode)
}

// decodingInto returns a context whose request has its whole answer decoded into out.
func decodingInto(ctx context.Context, out any) context.Context {
	return decoding(ctx, func(body io.Reader) error {
		if err := json.NewDecoder(body).Decode(out); err != nil {
			return unreadable(err)
		}
		return nil
	})
}

// decoder is a transport that decodes an answer while it is read, by the function in the
// request's context. consul/api would buffer all of it first; it gets "null" instead.
type decoder struct{ next http.RoundTripper }

func (d decoder) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	decode, ok := request.Context().Value(decodeKey{}).(func(io.Reader) error)
	if err != nil || !ok || response.StatusCode != http.StatusOK {
		return response, err
	}
	defer response.Body.Close()
	if err := decode(response.Body); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil { // otherwise the connection cannot be reused
		return nil, err
	}
	read := *response
	read.Body, read.ContentLength = io.NopCloser(strings.NewReader("null")), -1
	return &read, nil
}
