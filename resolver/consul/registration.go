package consul

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	defaultCheckInterval = 5 * time.Second
	defaultCheckTimeout  = 2 * time.Second
	minDeregisterAfter   = time.Minute
	minTTL               = 3 * time.Second

	// The schemes of endpoints in tagged addresses.
	schemeGRPC, schemeGRPCS = "grpc", "grpcs"

	// Consul's own limits.
	maxWeight        = 65535
	maxMetadata      = 64
	maxMetadataValue = 512
	reservedMetadata = "consul-"
)

var metadataKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// Validate returns what is wrong with r, and which limit of Consul's it breaks, without a
// request to an agent. [Directory.Register] does the same first.
func Validate(r catalog.Registration) error {
	_, err := registration(r)
	return err
}

// registration validates r and converts it.
func registration(r catalog.Registration) (*api.AgentServiceRegistration, error) {
	host, port, addressErr := splitAddress(r.Address)
	if err := cmp.Or(checkNames(r), addressErr, checkCheck(r), checkTimes(r), checkWeights(r), checkMetadata(r.Metadata)); err != nil {
		return nil, err
	}
	service := &api.AgentServiceRegistration{
		ID: r.ID, Name: r.Service, Address: host, Port: port,
		Tags: slices.Clone(r.Tags), Meta: maps.Clone(r.Metadata),
		Weights: &api.AgentWeights{Passing: int(max(r.Weight, 1)), Warning: int(warningWeight(r))},
		Check:   check(r),
	}
	if r.Scheme != "" {
		service.TaggedAddresses = map[string]api.ServiceAddress{r.Scheme: {Address: r.Scheme + "://" + r.Address, Port: port}}
	}
	if r.ConnectNative {
		service.Connect = &api.AgentServiceConnect{Native: true}
	}
	if r.Region != "" {
		service.Locality = &api.Locality{Region: r.Region, Zone: r.Zone}
	}
	return service, nil
}

func check(r catalog.Registration) *api.AgentServiceCheck {
	check := &api.AgentServiceCheck{
		CheckID: "service:" + r.ID,
		// By default the check starts critical, and a gRPC check first runs after a
		// random part of its interval. The self-check has passed already.
		Status: api.HealthPassing,
	}
	if r.TTL > 0 {
		check.Name, check.TTL = "TTL", r.TTL.String()
	} else {
		interval := cmp.Or(r.CheckInterval, defaultCheckInterval)
		check.Name = "gRPC health"
		check.GRPC, check.GRPCUseTLS = cmp.Or(r.CheckAddress, r.Address), r.CheckTLS
		check.TLSServerName, check.TLSSkipVerify = r.CheckServerName, r.CheckSkipVerify
		check.Interval = interval.String()
		check.Timeout = cmp.Or(r.CheckTimeout, min(defaultCheckTimeout, interval)).String()
	}
	if after := cmp.Or(r.DeregisterAfter, minDeregisterAfter); after > 0 {
		check.DeregisterCriticalServiceAfter = after.String()
	}
	return check
}

func splitAddress(address string) (host string, port int, err error) {
	host, portText, err := net.SplitHostPort(address)
	port, portErr := strconv.Atoi(portText)
	if err != nil || portErr != nil || host == "" || port < 1 || port > 65535 || net.ParseIP(host).IsUnspecified() {
		return "", 0, fmt.Errorf("consul: Address %q: write host:port that others can dial, with the port that is listened on", address)
	}
	return host, port, nil
}

func checkNames(r catalog.Registration) error {
	switch {
	case r.Service == "":
		return errors.New("consul: Service is empty: name the service to register")
	case r.ID == "":
		return errors.New("consul: ID is empty: give each instance its own")
	case slices.Contains(r.Tags, ""):
		return fmt.Errorf("consul: Tags %q: one of them is empty: leave it out", r.Tags)
	case r.Scheme != "" && r.Scheme != schemeGRPC && r.Scheme != schemeGRPCS:
		return fmt.Errorf("consul: Scheme %.80q: write grpc, grpcs for a server with TLS, or nothing", r.Scheme)
	case r.Zone != "" && r.Region == "":
		return fmt.Errorf("consul: Zone %q without a Region: Consul accepts a zone only within its region: set Region too", r.Zone)
	}
	return cmp.Or(checkName("Service", r.Service), checkName("ID", r.ID), checkPrintable("Region", r.Region), checkPrintable("Zone", r.Zone),
		checkPrintable("Tags", r.Tags...), checkPrintable("CheckServerName", r.CheckServerName))
}

func checkName(field, name string) error {
	if err := catalog.CheckName(name); err != nil {
		return fmt.Errorf("consul: %s %.80q: %w", field, name, err)
	}
	return nil
}

func checkPrintable(field string, texts ...string) error {
	for _, text := range texts {
		if err := catalog.CheckPrintable(text); err != nil {
			return fmt.Errorf("consul: %s %.80q: %w", field, text, err)
		}
	}
	return nil
}

// checkCheck validates how Consul is to check the health.
func checkCheck(r catalog.Registration) error {
	if r.CheckAddress != "" {
		if _, _, err := splitAddress(r.CheckAddress); err != nil {
			return fmt.Errorf("consul: CheckAddress %q: write host:port that the agent can dial", r.CheckAddress)
		}
	}
	if r.TTL != 0 && (r.CheckAddress != "" || r.CheckTLS || r.CheckServerName != "" || r.CheckSkipVerify) {
		return fmt.Errorf("consul: TTL %v with CheckAddress %q, CheckTLS %t, CheckServerName %q, CheckSkipVerify %t: with a TTL Consul calls nothing: leave out the TTL or all of them",
			r.TTL, r.CheckAddress, r.CheckTLS, r.CheckServerName, r.CheckSkipVerify)
	}
	if !r.CheckTLS && (r.CheckServerName != "" || r.CheckSkipVerify) {
		return fmt.Errorf("consul: CheckServerName %q, CheckSkipVerify %t: a check without TLS verifies nothing: set CheckTLS, or leave them out",
			r.CheckServerName, r.CheckSkipVerify)
	}
	return nil
}

func checkTimes(r catalog.Registration) error {
	interval := cmp.Or(r.CheckInterval, defaultCheckInterval)
	switch {
	case r.DeregisterAfter > 0 && r.DeregisterAfter < minDeregisterAfter:
		return fmt.Errorf("consul: DeregisterAfter %v is below %v, to which Consul would silently raise it: write at least %v, or a negative one for never",
			r.DeregisterAfter, minDeregisterAfter, minDeregisterAfter)
	case interval < time.Second:
		return fmt.Errorf("consul: CheckInterval %v: Consul checks at most once a second: write at least 1s", r.CheckInterval)
	case r.CheckTimeout < 0 || r.CheckTimeout > interval:
		return fmt.Errorf("consul: CheckTimeout %v: write more than 0 and at most the interval, %v, or a dead instance is noticed late", r.CheckTimeout, interval)
	case r.TTL != 0 && r.TTL < minTTL:
		return fmt.Errorf("consul: TTL %v: the health is renewed three times in each, and at most once a second: write at least %v",
			r.TTL, minTTL)
	}
	return nil
}

func warningWeight(r catalog.Registration) uint32 {
	if r.WarningWeight == nil {
		return 1
	}
	return *r.WarningWeight
}

func checkWeights(r catalog.Registration) error {
	if w := max(r.Weight, warningWeight(r)); w > maxWeight {
		return fmt.Errorf("consul: Weight %d: Consul takes weights up to %d: write less", w, maxWeight)
	}
	return nil
}

func checkMetadata(metadata map[string]string) error {
	if len(metadata) > maxMetadata {
		return fmt.Errorf("consul: Metadata has %d keys: Consul accepts at most %d: leave some out", len(metadata), maxMetadata)
	}
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		switch value := metadata[key]; {
		case !metadataKey.MatchString(key):
			return fmt.Errorf("consul: Metadata key %q: write 1 to 128 letters, digits, hyphens and underscores", key)
		case strings.HasPrefix(key, reservedMetadata):
			return fmt.Errorf("consul: Metadata key %q: Consul reserves the prefix %q: write another", key, reservedMetadata)
		case !utf8.ValidString(value):
			return fmt.Errorf("consul: Metadata %q has the value %.80q: JSON carries no bytes that are not UTF-8: encode them", key, value)
		case len(value) > maxMetadataValue:
			return fmt.Errorf("consul: Metadata %q has a value of %d bytes: Consul accepts at most %d: shorten it", key, len(value), maxMetadataValue)
		}
	}
	return nil
}
