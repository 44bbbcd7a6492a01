package concurrency

import "sync"

const (
	// maxMethods caps the methods with a limit of their own. A contract has tens; with
	// an unknown-service handler, peers can make up any number, which share one.
	maxMethods = 1024
	// maxName is the length from which a peer has made the name up.
	maxName = 1024
	other   = "other"
)

// methods are those that have been called.
type methods struct {
	mu    sync.Mutex
	known map[string]*method
}

// of is asked once for each method and policy, not for each call.
func (m *methods) of(fullMethod string, in bounds) *method {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.known[fullMethod]; known != nil {
		return known
	}
	if len(m.known) >= maxMethods || len(fullMethod) > maxName {
		fullMethod = other
	}
	if m.known[fullMethod] == nil {
		if m.known == nil {
			m.known = map[string]*method{}
		}
		m.known[fullMethod] = newMethod(fullMethod, in)
	}
	return m.known[fullMethod]
}

func (m *methods) all() []*method {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*method, 0, len(m.known))
	for _, one := range m.known {
		all = append(all, one)
	}
	return all
}
