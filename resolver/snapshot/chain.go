package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// chainContent is the content of a file with a discovery chain. One with a field that is not here
// is of a later version, and could mean something else.
type chainContent struct {
	Directory  string       `json:"directory"`
	Service    string       `json:"service"`
	Datacenter string       `json:"datacenter"` // as it was asked for
	Time       time.Time    `json:"time"`       // of saving, for people
	Chain      *route.Chain `json:"chain"`
}

// LoadChain returns the discovery chain of service that was saved last, as it is compiled for
// datacenter, nil if there is none, or an error that says why the file cannot be used. The chain
// is checked as one that Consul answers.
func (d Dir) LoadChain(directory, service, datacenter string) (*route.Chain, error) {
	return load(d.chainFile(directory, service, datacenter), func(data []byte) (*route.Chain, error) {
		return decodeChain(data, directory, service, datacenter)
	})
}

// SaveChain atomically replaces the discovery chain that was saved for service and datacenter, and
// returns once it is on disk. nil, plain discovery, removes it. Chains count among the 1024
// snapshots. A chain that could not be loaded again is an error, and what was saved before stays.
func (d Dir) SaveChain(directory, service, datacenter string, chain *route.Chain) error {
	path := d.chainFile(directory, service, datacenter)
	if chain == nil {
		return d.removeFile(path)
	}
	data, err := encodeChain(chainContent{directory, service, datacenter, time.Now().UTC(), chain})
	return d.save(path, data, err)
}

func (d Dir) chainFile(directory, service, datacenter string) string {
	key := url.Values{"chain": {service}, "dc": {datacenter}}.Encode() // no query has "chain"
	return filepath.Join(d.path, fileName(service, directory, key))
}

func (d Dir) removeFile(path string) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = syncDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("snapshot %s cannot be removed: %w", path, err)
	}
	return nil
}

func encodeChain(c chainContent) ([]byte, error) {
	if err := checkChain(c.Chain, c.Service); err != nil {
		return nil, err
	}
	inner, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return seal(inner)
}

// decodeChain returns the chain in a file that is intact, and that directory answered.
func decodeChain(data []byte, directory, service, datacenter string) (*route.Chain, error) {
	inner, err := open(data)
	if err != nil {
		return nil, err
	}
	var c chainContent
	strict := json.NewDecoder(bytes.NewReader(inner))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&c); err != nil {
		return nil, fmt.Errorf("its content is not a discovery chain: %.200s", err)
	}
	switch {
	case c.Directory != directory:
		return nil, fmt.Errorf("it belongs to the directory %.80q, want %.80q", c.Directory, directory)
	case c.Service != service || c.Datacenter != datacenter:
		return nil, fmt.Errorf("it is the discovery chain of %.80q for %.80q, want that of %.80q for %.80q", c.Service, c.Datacenter, service, datacenter)
	}
	return c.Chain, checkChain(c.Chain, service)
}

// checkChain returns why c is no chain of service that calls can go by.
func checkChain(c *route.Chain, service string) error {
	if c == nil {
		return errors.New("it has no discovery chain")
	}
	if !strings.EqualFold(c.Service, service) { // Consul does not mind the case
		return fmt.Errorf("its discovery chain is that of %.80q, want that of %.80q", c.Service, service)
	}
	if err := c.Check(); err != nil {
		return err
	}
	if parts := c.HTTPOnly(); len(parts) > 0 {
		return errors.New(strings.Join(parts, "; "))
	}
	return nil
}
