package consultest

import "time"

// The states of a check and, by its worst check, of a service.
const (
	HealthPassing  = "passing"
	HealthWarning  = "warning"
	HealthCritical = "critical"
)

// Service is one instance of a service as an agent is told of it.
// The fields carry Consul's names and meanings:
// https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
type Service struct {
	ID                string // unique in the agent; Name if empty
	Name              string // required
	Address           string // empty: clients use the address of the node
	Port              int
	Tags              []string
	Meta              map[string]string
	TaggedAddresses   map[string]ServiceAddress
	Weights           Weights // the zero value means 1 and 1
	EnableTagOverride bool
	Locality          *Locality
	Checks            []Check // a service without checks is passing
}

// ServiceAddress is one of the tagged addresses of a service.
type ServiceAddress struct {
	Address string
	Port    int
}

// Weights are the shares of traffic of an instance by its state.
type Weights struct {
	Passing int // 1 to 65535
	Warning int // 0 to 65535
}

// Locality is where an instance runs.
type Locality struct {
	Region string
	Zone   string
}

// Check says how the agent learns the state of a service. Exactly one of TTL,
// GRPC, HTTP and TCP is set; the last three need Interval.
// https://developer.hashicorp.com/consul/api-docs/agent/check#register-check
type Check struct {
	CheckID string // "service:<service id>", with ":<n>" if there are several, if empty
	Name    string
	Notes   string
	Status  string // the state until the first result: critical if empty

	TTL      time.Duration // critical when not renewed for that long
	Interval time.Duration // between two probes; at least one second
	Timeout  time.Duration // of one probe; ten seconds if zero

	GRPC       string // host:port, or host:port/service
	GRPCUseTLS bool

	HTTP             string // URL: 2xx is passing, 429 is warning, the rest critical
	Method           string // GET if empty
	Header           map[string][]string
	Body             string
	DisableRedirects bool

	TCP       string // host:port
	TCPUseTLS bool

	TLSServerName string
	TLSSkipVerify bool

	SuccessBeforePassing   int // probes in a row before the state improves
	FailuresBeforeWarning  int
	FailuresBeforeCritical int

	// DeregisterCriticalServiceAfter removes the service once the check has been
	// critical for longer. Below one minute it is raised to one minute, and it is
	// looked at every 30 seconds, both as Consul does.
	DeregisterCriticalServiceAfter time.Duration
}

// Query is one request for the health of a service that reached the agent.
type Query struct {
	Time     time.Time
	Service  string
	Index    uint64        // zero: not a blocking query
	Wait     time.Duration // as asked for; zero if the default was left to the agent
	RawQuery string
	HasToken bool // whichever it was
	Refused  bool // made through Transport while the agent was unreachable
}

// clone copies what the caller could change afterwards.
func (s Service) clone() Service {
	s.Tags = append([]string(nil), s.Tags...)
	s.Meta = copyMap(s.Meta)
	s.TaggedAddresses = copyMap(s.TaggedAddresses)
	s.Checks = append([]Check(nil), s.Checks...)
	if s.Locality != nil {
		locality := *s.Locality
		s.Locality = &locality
	}
	return s
}

func copyMap[V any](from map[string]V) map[string]V {
	if from == nil {
		return nil
	}
	to := make(map[string]V, len(from))
	for k, v := range from {
		to[k] = v
	}
	return to
}
