package shop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
)

// Customers is which service customers are, where callers have an identity.
const Customers = "customers"

// callers are who may call whom; nobody else may call anybody.
var callers = map[string][]string{
	"catalog":    {"storefront", Gateway, Customers},
	"inventory":  {"storefront", Gateway, Customers},
	"storefront": {Gateway, Customers},
	"*":          {},
}

// Security is that of the channels of customers.
func (s *Shop) Security() meshlite.ClientOption {
	if s.mutual == nil {
		return meshlite.WithPlaintext()
	}
	return meshlite.WithTransportCredentials(s.mutual)
}

func (s *Shop) gatewaySecurity() []string {
	if s.mutual == nil {
		return []string{"--plaintext"}
	}
	return []string{"--identity", Gateway}
}

// identify writes the intentions, and follows the certificate of customers.
func (s *Shop) identify(log *slog.Logger) error {
	if s.registry.Hint != "" {
		return errors.New("identity needs a real Consul: run `make consul`, or put one on PATH, and use --registry=consul")
	}
	for service, sources := range callers {
		if err := s.allow(service, sources); err != nil {
			return fmt.Errorf("the intentions about %s: %w", service, err)
		}
	}
	source, err := s.directory.Identity(Customers)
	if err != nil {
		return err
	}
	s.mutual, err = identity.New(source, identity.WithLogger(log))
	return err
}

type intentionSource struct{ Name, Action string }

// allow writes the intentions about a service: all but sources are denied.
func (s *Shop) allow(service string, sources []string) error {
	entry := struct {
		Kind, Name string
		Sources    []intentionSource
	}{"service-intentions", service, nil}
	for _, source := range sources {
		entry.Sources = append(entry.Sources, intentionSource{source, "allow"})
	}
	entry.Sources = append(entry.Sources, intentionSource{"*", "deny"})
	text, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPut, "http://"+s.registry.Address+"/v1/config", bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer, _ := io.ReadAll(io.LimitReader(response.Body, 512)); response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, answer)
	}
	return nil
}
