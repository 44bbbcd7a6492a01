package consultest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// after is the part of the path behind prefix: an id, which may contain slashes.
func after(r *http.Request, prefix string) string { return strings.TrimPrefix(r.URL.Path, prefix) }

// agentAPI answers /v1/agent/.
type agentAPI struct{ *Server }

func (s agentAPI) serviceRegister(_ http.ResponseWriter, r *http.Request) (any, error) {
	var def serviceDefinition
	if err := decode(r, &def); err != nil {
		return nil, err
	}
	svc, err := def.service()
	if def.Name == "" || err != nil {
		return nil, firstError(err, badRequest("Missing service name"))
	}
	if err := s.require(r, "service:write", def.Name); err != nil {
		return nil, err
	}
	replace := r.URL.Query()["replace-existing-checks"]
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.register(svc, len(replace) > 0 && (replace[0] == "" || replace[0] == "true"))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// mayChange finds the agent's instance and checks that the request may change it.
// The caller holds s.mu.
func (s agentAPI) mayChange(r *http.Request, id string) (*instance, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	in := s.own(id)
	if in == nil {
		return nil, unknownService(id)
	}
	return in, s.require(r, "service:write", in.Name)
}

func (s agentAPI) serviceDeregister(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/service/deregister/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.mayChange(r, id); err != nil {
		return nil, err
	}
	return nil, s.deregister(id)
}

func (s agentAPI) serviceMaintenance(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, q := after(r, "/v1/agent/service/maintenance/"), r.URL.Query()
	if id == "" {
		return nil, badRequest("Missing service ID")
	}
	if !q.Has("enable") {
		return nil, badRequest("Missing value for enable")
	}
	enable, err := strconv.ParseBool(q.Get("enable"))
	if err != nil {
		return nil, badRequest("Invalid value for enable: %q", q.Get("enable"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.mayChange(r, id)
	if err != nil {
		return nil, err
	}
	s.maintain(in, enable, q.Get("reason"))
	return nil, nil
}

// service shows one instance. With ?hash it blocks until the hash of what
// it shows is another one.
func (s agentAPI) service(w http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/service/")
	opts, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	var timeout time.Duration
	hash := r.URL.Query().Get("hash")
	if hash != "" {
		timeout = opts.timeout()
	}
	var shown *agentServiceJSON
	again := s.block(r.Context(), timeout, func(*state) bool {
		shown, err = s.showService(r, id)
		return err != nil || shown.ContentHash != hash
	})
	if err := firstError(again, err); err != nil {
		return nil, err
	}
	w.Header().Set("X-Consul-ContentHash", shown.ContentHash)
	return shown, nil
}

func (s agentAPI) showService(r *http.Request, id string) (*agentServiceJSON, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	in := s.own(id)
	if in == nil {
		return nil, httpError{http.StatusNotFound, "unknown service ID: " + id}
	}
	if err := s.require(r, "service:read", in.Name); err != nil {
		return nil, err
	}
	shown := in.agentJSON(s.datacenter)
	body, err := json.Marshal(shown)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	shown.ContentHash = fmt.Sprintf("%x", sum[:8])
	return shown, nil
}

func (s agentAPI) services(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := noFilter(r); err != nil {
		return nil, err
	}
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*agentServiceJSON)
	for id, in := range s.st.instances {
		if !in.catalogOnly {
			all[id] = in.agentJSON(s.datacenter)
		}
	}
	if s.filter(w, r, len(all)) {
		clear(all)
	}
	return all, nil
}

func (s agentAPI) self(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.require(r, "agent:read", s.nodeName); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node()
	return map[string]any{
		"Config": map[string]any{
			"Datacenter": s.datacenter, "PrimaryDatacenter": s.datacenter, "NodeName": s.nodeName, "NodeID": s.nodeID,
			"Revision": "consultest", "Server": true, "Version": version, "BuildDate": "1970-01-01T00:00:01Z", "BindAddr": s.nodeAddress,
		},
		"DebugConfig": map[string]any{"ACLsEnabled": s.aclEnabled, "BindAddr": s.nodeAddress, "Datacenter": s.datacenter,
			"DevMode": true, "NodeName": s.nodeName, "Version": version,
			"DefaultIntentionPolicy": s.intentionPolicy, "ACLResolverSettings": map[string]any{"ACLsEnabled": s.aclEnabled, "ACLDefaultPolicy": s.defaultPolicy()}},
		"Coord":  map[string]any{"Vec": make([]float64, 8), "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
		"Member": s.member(),
		"Stats": map[string]any{
			"agent": map[string]string{"checks": strconv.Itoa(len(s.st.checks) - 1), "services": strconv.Itoa(len(s.st.instances) - 1)},
			"build": map[string]string{"version": version, "revision": "consultest"},
			"raft":  map[string]string{"applied_index": strconv.FormatUint(s.st.index, 10), "state": "Leader"},
		},
		"Meta": n.Meta,
	}, nil
}

func (s agentAPI) members(w http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	if s.filter(w, r, 1) {
		return []any{}, nil
	}
	return []any{s.member()}, nil
}

func (s agentAPI) member() map[string]any {
	acls := "0"
	if s.aclEnabled {
		acls = "1"
	}
	return map[string]any{
		"Name": s.nodeName, "Addr": s.nodeAddress, "Port": 8301, "Status": 1,
		"Tags": map[string]string{"acls": acls, "build": version + ":", "dc": s.datacenter, "id": s.nodeID,
			"port": "8300", "role": "consul", "raft_vsn": "3", "segment": "", "vsn": "2"},
		"ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
	}
}

// newCheck makes the check of an instance, or of the node if in is nil.
func newCheck(def Check, in *instance, id string, show func(time.Duration) string) *check {
	c := &check{Check: def, id: id, kind: def.kind(), status: HealthCritical,
		interval: show(def.Interval), timeout: show(def.Timeout)}
	if def.Status != "" {
		c.status = def.Status
	}
	if in != nil {
		c.serviceID, c.serviceName, c.serviceTags = in.ID, in.Name, in.Tags
		if c.Name == "" {
			c.Name = fmt.Sprintf("Service '%s' check", in.Name)
		}
	}
	return c
}

func unknownCheck(id string) error {
	return httpError{http.StatusNotFound, fmt.Sprintf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id)}
}

func (s agentAPI) checks(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := noFilter(r); err != nil {
		return nil, err
	}
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]checkJSON)
	for id, c := range s.st.checks {
		if !c.catalogOnly {
			all[id] = c.agentJSON(s.nodeName)
		}
	}
	if s.filter(w, r, len(all)) {
		clear(all)
	}
	return all, nil
}

func (s agentAPI) checkRegister(_ http.ResponseWriter, r *http.Request) (any, error) {
	var body checkDefinition
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	id := body.ID
	if id == "" {
		id = body.Name
	}
	def, serviceID := body.check(id), body.ServiceID+body.ServiceIDSnake
	switch {
	case body.Name == "":
		return nil, badRequest("Missing check name")
	case def.Status != "" && !validStatus(def.Status):
		return nil, badRequest("Bad check status")
	}
	if err := body.unsupported(); err != nil {
		return nil, err
	}
	if err := def.validate(); err != nil {
		return nil, badRequest("Invalid check: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.own(serviceID)
	if in == nil && serviceID != "" {
		return nil, httpError{http.StatusNotFound, fmt.Sprintf("ServiceID %q does not exist", serviceID)}
	}
	if err := s.mayWriteCheck(r, in); err != nil {
		return nil, err
	}
	if old := s.st.checks[id]; old != nil && old.catalogOnly {
		return nil, badRequest("check ID %q is Consul's own: take another", id)
	}
	if full := s.st.full(0, 1); full != "" {
		return nil, httpError{http.StatusInsufficientStorage, full}
	}
	s.addCheck(newCheck(def, in, id, time.Duration.String))
	return nil, nil
}

func (s agentAPI) mayWriteCheck(r *http.Request, in *instance) error {
	if in == nil {
		return s.require(r, "node:write", s.nodeName)
	}
	return s.require(r, "service:write", in.Name)
}

// findCheck finds an agent's check that the request may change. The caller holds s.mu.
func (s agentAPI) findCheck(r *http.Request, id string) (*check, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	c := s.st.checks[id]
	if c == nil || c.catalogOnly {
		return nil, unknownCheck(id)
	}
	return c, s.mayWriteCheck(r, s.own(c.serviceID))
}

func (s agentAPI) checkDeregister(_ http.ResponseWriter, r *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findCheck(r, after(r, "/v1/agent/check/deregister/"))
	if err != nil {
		return nil, err
	}
	s.removeCheck(c)
	return nil, nil
}

// checkUpdate renews a TTL check: pass, warn, fail or update.
func (s agentAPI) checkUpdate(_ http.ResponseWriter, r *http.Request) (any, error) {
	verb, id, _ := strings.Cut(after(r, "/v1/agent/check/"), "/")
	update := struct{ Status, Output string }{Output: r.URL.Query().Get("note")}
	switch verb {
	case "pass":
		update.Status = HealthPassing
	case "warn":
		update.Status = HealthWarning
	case "fail":
		update.Status = HealthCritical
	default:
		if err := decode(r, &update); err != nil {
			return nil, err
		}
	}
	if !validStatus(update.Status) {
		return nil, badRequest("Invalid check status: '%s'", update.Status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findCheck(r, id)
	if err != nil {
		return nil, err
	}
	if c.TTL <= 0 {
		return nil, httpError{http.StatusInternalServerError, fmt.Sprintf("CheckID %q does not have associated TTL", id)}
	}
	s.renew(c, update.Status, update.Output)
	return nil, nil
}

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

func (s agentAPI) healthByID(w http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/health/service/id/")
	if id == "" {
		return nil, badRequest("Missing serviceID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.own(id)
	if in == nil {
		return nil, writeHealth(w, r, http.StatusNotFound, HealthCritical, "ServiceId "+id+" not found",
			serviceHealthJSON{AggregatedStatus: HealthCritical})
	}
	if err := s.require(r, "service:read", in.Name); err != nil {
		return nil, err
	}
	health := s.healthOf(in)
	return nil, writeHealth(w, r, healthCode(health.AggregatedStatus), health.AggregatedStatus, health.AggregatedStatus, health)
}

func (s agentAPI) healthByName(w http.ResponseWriter, r *http.Request) (any, error) {
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
		return nil, writeHealth(w, r, http.StatusNotFound, HealthCritical, "ServiceName "+name+" Not Found", all)
	}
	return nil, writeHealth(w, r, healthCode(worst), worst, worst, all)
}

// writeHealth answers with the code of the status, and as one word if text is requested.
func writeHealth(w http.ResponseWriter, r *http.Request, code int, status, reason string, body any) error {
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
func (s agentAPI) healthOf(in *instance) serviceHealthJSON {
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
