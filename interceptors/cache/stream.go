package cache

import (
	"maps"
	"sync"

	"google.golang.org/grpc/metadata"
)

// sentMetadata is what gRPC's own stream tells. It is not wrapped to listen in:
// grpc.SetSendCompressor wants that very type.
type sentMetadata interface {
	Header() (metadata.MD, error)
	Trailer() metadata.MD
}

func metadataOf(s sentMetadata) (header, trailer metadata.MD) {
	if s == nil {
		return nil, nil
	}
	header, _ = s.Header()
	return header, s.Trailer()
}

// added is what of after was not in before, to which values are only appended.
func added(before, after metadata.MD) metadata.MD {
	for key, values := range after {
		if values = values[len(before[key]):]; len(values) == 0 {
			delete(after, key)
		} else {
			after[key] = values
		}
	}
	return after
}

// nobody is who a handler answers that runs for the cache alone.
type nobody struct {
	method string

	mu              sync.Mutex
	header, trailer metadata.MD
}

// Method is that of the call which the handler was first run for.
func (n *nobody) Method() string { return n.method }

// SetHeader writes down md.
func (n *nobody) SetHeader(md metadata.MD) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.header = metadata.Join(n.header, md)
	return nil
}

// SendHeader writes down md.
func (n *nobody) SendHeader(md metadata.MD) error { return n.SetHeader(md) }

// SetTrailer writes down md.
func (n *nobody) SetTrailer(md metadata.MD) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trailer = metadata.Join(n.trailer, md)
	return nil
}

// Header is what was written down.
func (n *nobody) Header() (metadata.MD, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.header), nil
}

// Trailer is what was written down.
func (n *nobody) Trailer() metadata.MD {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.trailer)
}
