package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	version = 1
	// mostBytes is what is read into memory at most. 10,000 instances are about 3 MB.
	mostBytes = 64 << 20
)

// envelope is a file. Its two members beside the content must be understood
// before the content is.
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

// instance is a [catalog.Instance]. What is nil is left out and what is empty is
// not, so that a loaded instance equals the one that the directory tells again.
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
	data, err := json.Marshal(envelope{version, checksum(inner), inner})
	if len(data) > mostBytes {
		return nil, fmt.Errorf("it has %d bytes, want %d at most", len(data), mostBytes)
	}
	return data, err
}

// decode gives the snapshot of a file that is whole, and is what directory
// answered to query.
func decode(data []byte, directory, query string) (catalog.Snapshot, error) {
	c, err := open(data)
	switch {
	case err != nil:
		return catalog.Snapshot{}, err
	case c.Directory != directory:
		return catalog.Snapshot{}, fmt.Errorf("it is of the directory %.80q, want %.80q", c.Directory, directory)
	case c.Query != query:
		return catalog.Snapshot{}, fmt.Errorf("it answers the query %.400q, want %.400q", c.Query, query)
	}
	if err := check(c.Instances); err != nil {
		return catalog.Snapshot{}, err
	}
	return c.snapshot(), nil
}

// open takes the content out of its envelope, if that is whole.
func open(data []byte) (content, error) {
	if len(data) == 0 {
		return content{}, errors.New("it is empty")
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return content{}, fmt.Errorf("it is damaged: %.200s", err) // which may repeat a number of any length
	}
	if e.Version != version {
		return content{}, fmt.Errorf("its format has the version %d, want %d", e.Version, version)
	}
	if sum := checksum(e.Content); sum != e.SHA256 {
		return content{}, fmt.Errorf("it is damaged: sha256 is %.64q, want %q", e.SHA256, sum)
	}
	var c content
	if err := json.Unmarshal(e.Content, &c); err != nil {
		return content{}, fmt.Errorf("its content is not a snapshot: %.200s", err)
	}
	return c, nil
}

func (c content) snapshot() catalog.Snapshot {
	s := catalog.Snapshot{Time: c.Time, Index: c.Index, Instances: make([]catalog.Instance, len(c.Instances))}
	for n, i := range c.Instances {
		status, _ := statusOf(i.Status) // it was checked
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
