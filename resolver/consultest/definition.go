//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// duration reads "10s" or a number of nanoseconds, and is shown as the former.
type duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		parsed, err := time.ParseDuration(v)
		*d = duration(parsed)
		return err
	case float64:
		*d = duration(v)
	}
	return nil
}

// serviceDefinition is the body of a registration, with every field that Consul has: it
// rejects the others.
type serviceDefinition struct {
	ID, Name, Address, Namespace, Partition, Token, Kind, SocketPath string
	Port                                                             int
	Tags                                                             []string
	Meta                                                             map[string]string
	TaggedAddresses                                                  map[string]ServiceAddress
	TaggedAddressesSnake                                             map[string]ServiceAddress `json:"tagged_addresses"`
	Weights                                                          *Weights
	EnableTagOverride                                                bool
	EnableTagOverrideSnake                                           bool `json:"enable_tag_override"`
	Locality                                                         *Locality
	Check                                                            *serviceCheckDefinition
	Checks                                                           []serviceCheckDefinition
	Connect                                                          *connectDefinition
	Proxy, Ports                                                     json.RawMessage
}

type connectDefinition struct {
	Native         bool
	SidecarService json.RawMessage
}

// checkFields are the fields of a check, in a service or alone.
type checkFields struct {
	Name, Status, Notes                                       string
	TTL, Interval, Timeout                                    duration
	DeregisterCriticalServiceAfter                            duration
	DeregisterCriticalServiceAfterSnake                       duration `json:"deregister_critical_service_after"`
	GRPC, HTTP, Method, Body, TCP                             string
	Header                                                    map[string][]string
	GRPCUseTLS, TCPUseTLS, TLSSkipVerify                      bool
	DisableRedirects                                          bool
	GRPCUseTLSSnake                                           bool   `json:"grpc_use_tls"`
	TCPUseTLSSnake                                            bool   `json:"tcp_use_tls"`
	TLSSkipVerifySnake                                        bool   `json:"tls_skip_verify"`
	TLSServerNameSnake                                        string `json:"tls_server_name"`
	TLSServerName                                             string
	SuccessBeforePassing                                      int
	FailuresBeforeWarning                                     int
	FailuresBeforeCritical                                    int
	OutputMaxSize                                             int
	H2PING, UDP, OSService, AliasNode, AliasService           string
	DockerContainerID, Shell, ServiceID, Namespace, Partition string
	ServiceIDSnake                                            string `json:"service_id"`
	H2PingUseTLS                                              bool
	ScriptArgs, Args                                          []string
}

type serviceCheckDefinition struct {
	CheckID string
	checkFields
}

type checkDefinition struct {
	ID, CheckID, Token string
	checkFields
}

func (d checkFields) check(id string) Check {
	return Check{
		CheckID: id, Name: d.Name, Notes: d.Notes, Status: d.Status,
		TTL: time.Duration(d.TTL), Interval: time.Duration(d.Interval), Timeout: time.Duration(d.Timeout),
		GRPC: d.GRPC, GRPCUseTLS: d.GRPCUseTLS || d.GRPCUseTLSSnake,
		HTTP: d.HTTP, Method: d.Method, Header: d.Header, Body: d.Body, DisableRedirects: d.DisableRedirects,
		TCP: d.TCP, TCPUseTLS: d.TCPUseTLS || d.TCPUseTLSSnake,
		TLSServerName: d.TLSServerName + d.TLSServerNameSnake, TLSSkipVerify: d.TLSSkipVerify || d.TLSSkipVerifySnake,
		SuccessBeforePassing: d.SuccessBeforePassing, FailuresBeforeWarning: d.FailuresBeforeWarning,
		FailuresBeforeCritical:         d.FailuresBeforeCritical,
		DeregisterCriticalServiceAfter: time.Duration(max(d.DeregisterCriticalServiceAfter, d.DeregisterCriticalServiceAfterSnake)),
	}
}

// unsupported returns an error for a kind of check that only a real agent runs.
func (d checkFields) unsupported() error {
	kinds := map[string]bool{"script": len(d.ScriptArgs)+len(d.Args) > 0, "Docker": d.DockerContainerID != "", "UDP": d.UDP != "",
		"H2PING": d.H2PING != "", "OS service": d.OSService != "", "alias": d.AliasNode+d.AliasService != ""}
	for kind, used := range kinds {
		if used {
			return badRequest("Invalid check: consultest runs TTL, GRPC, HTTP and TCP checks, no %s checks", kind)
		}
	}
	return nil
}

// service converts the definition, or returns what is wrong with it.
func (d serviceDefinition) service() (Service, error) {
	svc := Service{
		ID: d.ID, Name: d.Name, Address: d.Address, Port: d.Port, Tags: d.Tags, Meta: d.Meta,
		TaggedAddresses: d.TaggedAddresses, EnableTagOverride: d.EnableTagOverride || d.EnableTagOverrideSnake, Locality: d.Locality,
	}
	if svc.TaggedAddresses == nil {
		svc.TaggedAddresses = d.TaggedAddressesSnake
	}
	if d.Weights != nil {
		if d.Weights.Passing < 1 { // the zero Weights of a Service would mean the default
			return svc, badRequest("Invalid Weights: Passing must be greater than 0")
		}
		svc.Weights = *d.Weights
	}
	var connect connectDefinition
	if d.Connect != nil {
		connect = *d.Connect
	}
	svc.ConnectNative = connect.Native
	for name, raw := range map[string]json.RawMessage{"Proxy": d.Proxy, "SidecarService": connect.SidecarService, "Ports": d.Ports} {
		if raw = bytes.TrimSpace(raw); len(raw) > 0 && !strings.Contains("null {} []", string(raw)) {
			return svc, badRequest("consultest does not support %s: register without it", name)
		}
	}
	if d.Kind != "" || d.SocketPath != "" {
		return svc, badRequest("consultest does not support services with a Kind or a SocketPath: register without")
	}
	defs := d.Checks
	if d.Check != nil && !d.Check.empty() {
		defs = append([]serviceCheckDefinition{*d.Check}, defs...)
	}
	for _, def := range defs {
		if err := def.unsupported(); err != nil {
			return svc, err
		}
		svc.Checks = append(svc.Checks, def.check(def.CheckID))
	}
	return svc, nil
}

func (d serviceCheckDefinition) empty() bool {
	bare, err := json.Marshal(d.check(d.CheckID))
	none, _ := json.Marshal(Check{})
	return err == nil && bytes.Equal(bare, none) && d.unsupported() == nil
}

// normalize sets the defaults that Consul sets and rejects what Consul rejects.
func (s Service) normalize() (Service, error) {
	s = s.clone()
	if s.Name == "" {
		return s, badRequest("Missing service name")
	}
	ip, err := netip.ParseAddr(s.Address)
	if err == nil && ip.IsUnspecified() {
		return s, badRequest("Invalid service address")
	}
	if s.ID == "" {
		s.ID = s.Name
	}
	if s.Weights == (Weights{}) {
		s.Weights = Weights{Passing: 1, Warning: 1}
	}
	if err := s.Weights.validate(); err != nil {
		return s, badRequest("Invalid Weights: %v", err)
	}
	if err := validateMeta(s.Meta); err != nil {
		return s, badRequest("Invalid Service Meta: %v", err)
	}
	for _, c := range s.Checks {
		if err := c.validate(); err != nil {
			return s, badRequest("Invalid check: %v", err)
		}
		if !validStatus(c.Status) && c.Status != "" {
			return s, badRequest("Status for checks must 'passing', 'warning', 'critical'")
		}
	}
	s.tagAddress(ip)
	return s, nil
}

// tagAddress adds the tagged addresses that follow from an address that is an IP.
func (s *Service) tagAddress(ip netip.Addr) {
	if !ip.IsValid() {
		return
	}
	family := "_ipv6"
	if ip.Unmap().Is4() {
		family = "_ipv4"
	}
	if s.TaggedAddresses == nil {
		s.TaggedAddresses = make(map[string]ServiceAddress)
	}
	for _, tag := range []string{"lan" + family, "wan" + family} {
		if _, ok := s.TaggedAddresses[tag]; !ok {
			s.TaggedAddresses[tag] = ServiceAddress{Address: s.Address, Port: s.Port}
		}
	}
}

func (w Weights) validate() error {
	switch {
	case w.Passing < 1:
		return fmt.Errorf("Passing must be greater than 0") //nolint:staticcheck // Consul's text
	case w.Warning < 0:
		return fmt.Errorf("Warning must be greater or equal than 0") //nolint:staticcheck // Consul's text
	case w.Passing > 65535, w.Warning > 65535:
		return fmt.Errorf("DNS Weight must be between 0 and 65535") //nolint:staticcheck // Consul's text
	}
	return nil
}

var metaKey = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

func validateMeta(meta map[string]string) error {
	if len(meta) > 64 {
		return fmt.Errorf("Node metadata cannot contain more than 64 key/value pairs") //nolint:staticcheck // Consul's text
	}
	for key, value := range meta {
		var problem string
		switch {
		case key == "":
			problem = "Key cannot be blank"
		case !metaKey.MatchString(key):
			problem = "Key contains invalid characters"
		case len(key) > 128:
			problem = "Key is too long (limit: 128 characters)"
		case strings.HasPrefix(key, "consul-"):
			problem = "Key prefix 'consul-' is reserved for internal use"
		case len(value) > 512:
			problem = "Value is too long (limit: 512 characters)"
		default:
			continue
		}
		return fmt.Errorf("Couldn't load metadata pair ('%s', '%s'): %s", key, value, problem) //nolint:staticcheck // Consul's text
	}
	return nil
}

func (c Check) validate() error {
	probes := c.GRPC != "" || c.HTTP != "" || c.TCP != ""
	var problem string
	switch {
	case c.Interval > 0 && c.TTL > 0:
		problem = "Interval and TTL cannot both be specified"
	case probes && c.Interval <= 0:
		problem = "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
	case !probes && c.TTL <= 0:
		problem = "TTL must be > 0 for TTL checks"
	case c.FailuresBeforeWarning > c.FailuresBeforeCritical:
		problem = "FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
	default:
		return nil
	}
	return fmt.Errorf("%s", problem)
}

func (c Check) kind() string {
	switch {
	case c.GRPC != "":
		return "grpc"
	case c.HTTP != "":
		return "http"
	case c.TTL > 0:
		return "ttl"
	case c.TCP != "":
		return "tcp"
	}
	return ""
}

func validStatus(status string) bool {
	return status == HealthPassing || status == HealthWarning || status == HealthCritical
}
