package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	version = 1
	// maxBytes bounds a file. 10,000 instances are about 3 MB.
	maxBytes = 64 << 20
)

// envelope is a file. Version and checksum are verified before the content is
// decoded.
type envelope struct {
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"` // of the bytes of Content
	Content json.RawMessage `json:"snapshot"`
}

type content struct {
	Directory string     `json:"directory"`
	Query     string     `json:"query"` // its key
	Time      time.Time  `json:"time"`
	Index     uint64     `json:"index"`
	Instances []instance `json:"instances"`
}

// instance is a [catalog.Instance]. Nil is omitted and empty is not, so that a loaded
// instance equals the one that the directory reports later.
type instance struct {
	ID         string            `json:"id"`
	Service    string            `json:"service"`
	Node       string            `json:"node,omitzero"`
	Datacenter string            `json:"datacenter,omitzero"`
	Address    string            `json:"address"`
	Tags       []string          `json:"tags,omitzero"`
	Metadata   map[string]string `json:"metadata,omitzero"`
	Weight     uint32            `json:"weight"`
	Status     string            `json:"status"`
	Region     string            `json:"region,omitzero"`
	Zone       string            `json:"zone,omitzero"`
}

func encode(directory, query string, s catalog.Snapshot) ([]byte, error) {
	c := content{Directory: directory, Query: query, Time: s.Time.UTC(), Index: s.Index, Instances: make([]instance, len(s.Instances))}
	for n, i := range s.Instances {
		c.Instances[n] = instance{
			ID: i.ID, Service: i.Service, Node: i.Node, Datacenter: i.Datacenter,
			Address: i.Address, Tags: i.Tags, Metadata: i.Metadata,
			Weight: i.Weight, Status: i.Status.String(), Region: i.Region, Zone: i.Zone,
		}
	}
	if err := check(c.Instances); err != nil {
		return nil, err
	}
	inner, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return seal(inner)
}

// seal returns an envelope.
func seal(content []byte) ([]byte, error) {
	data, err := json.Marshal(envelope{version, checksum(content), content})
	if len(data) > maxBytes {
		return nil, fmt.Errorf("it has %d bytes, want at most %d", len(data), maxBytes)
	}
	return data, err
}

// decode returns the snapshot in a file that is intact, and that directory answered to
// query.
func decode(data []byte, directory, query string) (catalog.Snapshot, error) {
	var c content
	inner, err := open(data)
	if err == nil {
		err = json.Unmarshal(inner, &c)
	}
	switch {
	case inner != nil && err != nil:
		return catalog.Snapshot{}, fmt.Errorf("its content is not a snapshot: %.200s", err)
	case err != nil:
		return catalog.Snapshot{}, err
	case c.Directory != directory:
		return catalog.Snapshot{}, fmt.Errorf("it belongs to the directory %.80q, want %.80q", c.Directory, directory)
	case c.Query != query:
		return catalog.Snapshot{}, fmt.Errorf("it answers the query %.400q, want %.400q", c.Query, query)
	}
	if err := check(c.Instances); err != nil {
		return catalog.Snapshot{}, err
	}
	return c.snapshot(), nil
}

// open returns the content of an envelope that is intact.
func open(data []byte) (json.RawMessage, error) {
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("it is damaged: %.200s", err) // it may repeat a number of any length
	}
	if e.Version != version {
		return nil, fmt.Errorf("its format version is %d, want %d", e.Version, version)
	}
	if sum := checksum(e.Content); sum != e.SHA256 {
		return nil, fmt.Errorf("it is damaged: sha256 is %.64q, want %q", e.SHA256, sum)
	}
	return e.Content, nil
}

func (c content) snapshot() catalog.Snapshot {
	s := catalog.Snapshot{Time: c.Time, Index: c.Index, Instances: make([]catalog.Instance, len(c.Instances))}
	for n, i := range c.Instances {
		status, _ := statusOf(i.Status) // check has validated it
		s.Instances[n] = catalog.Instance{
			ID: i.ID, Service: i.Service, Node: i.Node, Datacenter: i.Datacenter,
			Address: i.Address, Tags: i.Tags, Metadata: i.Metadata,
			Weight: i.Weight, Status: status, Region: i.Region, Zone: i.Zone,
		}
	}
	return s
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// check returns how a list breaks the contract of [catalog.Snapshot].
func check(list []instance) error {
	if len(list) == 0 {
		return errors.New("instances is empty, want at least one")
	}
	seen := make(map[string]int, len(list))
	for n, i := range list {
		if err := i.check(); err != nil {
			return fmt.Errorf("instances[%d].%w", n, err)
		}
		if first, duplicate := seen[i.Address]; duplicate {
			return fmt.Errorf("instances[%d].address is %.80q, as is that of instances[%d]: want one instance per address", n, i.Address, first)
		}
		seen[i.Address] = n
	}
	return nil
}

func (i instance) check() error {
	_, valid := statusOf(i.Status)
	switch {
	case !isHostPort(i.Address):
		return fmt.Errorf("address is %.80q, want host:port", i.Address)
	case i.Weight == 0:
		return errors.New("weight is 0, want at least 1")
	case !valid:
		return fmt.Errorf("status is %.80q, want passing, warning, critical or maintenance", i.Status)
	}
	return nil
}

func isHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	n, numeric := strconv.ParseUint(port, 10, 16)
	return err == nil && numeric == nil && host != "" && n > 0
}

// statusOf parses Consul's name of a status.
func statusOf(name string) (status catalog.Status, valid bool) {
	for _, s := range []catalog.Status{catalog.Passing, catalog.Warning, catalog.Critical, catalog.Maintenance} {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}
