package consultest

import (
	"net/http"
	"strings"
)

// serviceHealthJSON is how the agent shows the health of one of its instances.
// Its checks have another shape than elsewhere, as in Consul.
type serviceHealthJSON struct {
	AggregatedStatus string
	Service          *agentServiceJSON
	Checks           []agentCheckJSON
}

type agentCheckJSON struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	ExposedPort int
	Definition  checkDefinitionJSON
	CreateIndex uint64
	ModifyIndex uint64
}

type checkDefinitionJSON struct {
	Interval                       string
	Timeout                        string
	DeregisterCriticalServiceAfter string
	HTTP                           string
	Header                         map[string][]string
	Method                         string
	Body                           string
	TLSServerName                  string
	TLSSkipVerify                  bool
	TCP                            string
	TCPUseTLS                      bool
	UDP                            string
	GRPC                           string
	OSService                      string
	GRPCUseTLS                     bool
}

func (s *Server) agentHealthByID(w http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/health/service/id/")
	if id == "" {
		return nil, badRequest("Missing serviceID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.own(id)
	if in == nil {
		return nil, sayHealth(w, r, http.StatusNotFound, HealthCritical, "ServiceId "+id+" not found",
			serviceHealthJSON{AggregatedStatus: HealthCritical})
	}
	if err := s.require(r, "service:read", in.Name); err != nil {
		return nil, err
	}
	health := s.healthOf(in)
	return nil, sayHealth(w, r, healthCode(health.AggregatedStatus), health.AggregatedStatus, health.AggregatedStatus, health)
}

func (s *Server) agentHealthByName(w http.ResponseWriter, r *http.Request) (any, error) {
	name := after(r, "/v1/agent/health/service/name/")
	if name == "" {
		return nil, badRequest("Missing service Name")
	}
	if err := s.require(r, "service:read", name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all, worst := []serviceHealthJSON{}, HealthPassing
	for _, in := range s.st.instancesOf(name) {
		if in.catalogOnly {
			continue
		}
		health := s.healthOf(in)
		all, worst = append(all, health), worse(worst, health.AggregatedStatus)
	}
	if len(all) == 0 {
		return nil, sayHealth(w, r, http.StatusNotFound, HealthCritical, "ServiceName "+name+" Not Found", all)
	}
	return nil, sayHealth(w, r, healthCode(worst), worst, worst, all)
}

// sayHealth answers in the code of the status, and in one word if asked for text.
func sayHealth(w http.ResponseWriter, r *http.Request, code int, status, reason string, body any) error {
	w.Header().Set("X-Consul-Reason", reason)
	if strings.HasPrefix(r.Header.Get("Accept"), "text/plain") || r.URL.Query().Get("format") == "text" {
		write(w, code, "text/plain", []byte(status))
	} else {
		writeJSON(w, r, code, body)
	}
	return errAnswered
}

func healthCode(status string) int {
	switch status {
	case HealthPassing:
		return http.StatusOK
	case HealthWarning:
		return http.StatusTooManyRequests
	default:
		return http.StatusServiceUnavailable
	}
}

// worse is the state of two checks together. Maintenance is critical here.
func worse(a, b string) string {
	if a == HealthCritical || b == HealthPassing {
		return a
	}
	return b
}

// healthOf sums up the agent's checks on in. The caller holds s.mu.
func (s *Server) healthOf(in *instance) serviceHealthJSON {
	health := serviceHealthJSON{AggregatedStatus: HealthPassing, Service: in.agentJSON(s.datacenter), Checks: []agentCheckJSON{}}
	for _, c := range s.st.checksOf(in, s.st.nodeChecks()) {
		if c.catalogOnly {
			continue
		}
		status := c.status
		if c.kind == "maintenance" {
			status = "maintenance"
		}
		if health.AggregatedStatus != "maintenance" {
			health.AggregatedStatus = worse(health.AggregatedStatus, status)
		}
		health.Checks = append(health.Checks, agentCheckJSON{
			Node: s.nodeName, CheckID: c.id, Name: c.Name, Status: c.status, Notes: c.Notes, Output: c.output,
			ServiceID: c.serviceID, ServiceName: c.serviceName, ServiceTags: c.serviceTags,
			Definition: checkDefinitionJSON{Interval: "0s", Timeout: "0s", DeregisterCriticalServiceAfter: "0s"},
		})
	}
	return health
}
