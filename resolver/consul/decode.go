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

// maxItem caps the bytes of one instance or check in a list.
const maxItem = 1 << 20

// The messages hold what is read of Consul's, and no more: consul/api's take up to a
// hundred times the bytes that they are decoded from, and some panic at a null. Every
// pointer may be nil.

// entry is an instance, with its node and the checks of both.
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
	}
	Checks []*healthCheck
}

type weights struct{ Passing, Warning int }

// registered is an instance and its checks as its agent has them.
type registered struct {
	Service *struct {
		Service, Address  string
		Port              int
		Tags              []string
		EnableTagOverride bool
		Meta              map[string]string
		Weights           api.AgentWeights
		Locality          *api.Locality
	}
	Checks []*healthCheck
}

type healthCheck struct {
	Node, ServiceID, CheckID, Name, Status, Output, Notes string
}

// anything is a value that is not read.
type anything struct{}

func (anything) UnmarshalJSON([]byte) error { return nil }

// eachItem decodes a list one item at a time, so that no more than one of them is in
// memory. Items that are null are left out.
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

// eachName decodes the names of an object's members.
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
			return notConsul(err)
		}
		take(name.(string)) // the decoder takes no other
	}
	return items.end()
}

// items is a decoder of a list or an object.
type items struct {
	*json.Decoder
	from *itemReader
}

// openItems reads the first delimiter; ok is false for a null, which is empty.
func openItems(body io.Reader, want json.Delim) (_ items, ok bool, err error) {
	from := &itemReader{body, maxItem}
	i := items{json.NewDecoder(from), from}
	first, err := i.Token()
	switch {
	case err != nil:
		return i, false, notConsul(err)
	case first == nil:
		return i, false, nil
	case first != want:
		return i, false, notConsul(fmt.Errorf("want %q first", want.String()))
	}
	return i, true, nil
}

func (i items) next(item any) error {
	i.from.left = maxItem
	if err := i.Decode(item); err != nil {
		return notConsul(err)
	}
	i.from.left = maxItem // for what is between two
	return nil
}

// end reads the last delimiter, or returns why there is none.
func (i items) end() error {
	if _, err := i.Token(); err != nil {
		return notConsul(err)
	}
	return nil
}

func notConsul(err error) error { return fmt.Errorf("its answer cannot be read: %w", err) }

// itemReader ends an item that is too large.
type itemReader struct {
	io.Reader
	left int
}

func (r *itemReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, tooLargeError{"an item of its answer", maxItem, "See what is registered."}
	}
	n, err := r.Reader.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// decodeKey is the context key of a func(io.Reader) error that decodes the answer.
type decodeKey struct{}

// decoding returns a context whose request has its answer decoded by decode.
func decoding(ctx context.Context, decode func(io.Reader) error) context.Context {
	return context.WithValue(ctx, decodeKey{}, decode)
}

// decoder is a transport that decodes an answer while it is read, where the context of
// the request says how. consul/api would hold all of it first; it is left with "null".
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
	if _, err := io.Copy(io.Discard, response.Body); err != nil { // else the connection is not used again
		return nil, err
	}
	read := *response
	read.Body, read.ContentLength = io.NopCloser(strings.NewReader("null")), -1
	return &read, nil
}

const (
	defaultMaxBody = 64 << 20
	minMaxBody     = 1 << 10
	maxMaxBody     = 1 << 30
	// maxSmallBody caps what is no list, and errors, which consul/api holds whole.
	maxSmallBody = 4 << 20
)

// bounded is a transport that ends an answer beyond its bound. The transport below
// inflates gzip, so that what counts is what would be decoded.
type bounded struct {
	next http.RoundTripper
	most int64
}

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	large := tooLargeError{"its answer", b.most, "If its lists are that long, raise MaxBodyBytes of consul.Config."}
	if response.StatusCode != http.StatusOK || !isList(request.URL.Path) {
		large = tooLargeError{"its answer", min(b.most, maxSmallBody), "Set CONSUL_HTTP_ADDR to one."}
	}
	response.Body = &boundedBody{response.Body, large.most, large}
	return response, nil
}

func isList(path string) bool {
	return strings.Contains(path, "/v1/health/") || strings.Contains(path, "/v1/catalog/")
}

type boundedBody struct {
	io.ReadCloser
	left     int64
	tooLarge tooLargeError
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.tooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)]) // one more shows that there is more
	if b.left -= int64(n); b.left < 0 {
		return n - 1, b.tooLarge
	}
	return n, err
}

// tooLargeError is what was larger than most bytes.
type tooLargeError struct {
	what string
	most int64 // bytes
	fix  string
}

func (e tooLargeError) Error() string {
	return fmt.Sprintf("%s has more than %d bytes", e.what, e.most)
}

func checkMaxBody(bytes int64) error {
	if bytes != 0 && (bytes < minMaxBody || bytes > maxMaxBody) {
		return fmt.Errorf("consul: MaxBodyBytes %d is not in %d (1 KiB) to %d (1 GiB): 0 is %d (64 MiB)", bytes, minMaxBody, maxMaxBody, defaultMaxBody)
	}
	return nil
}
