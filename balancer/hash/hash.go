// Package hash is the policy meshlite_hash: calls with the same value of a metadata key go to
// the same endpoint while it can be used.
//
// The endpoint is chosen by weighted rendezvous hashing of the value and the endpoints' IDs.
// Consul's ring_hash and maglev approximate it with tables: here shares are those of the
// weights whatever the number of endpoints, and when one of n leaves, exactly its 1/n of the
// values move, each to the endpoint where every other client sends it, too. It compares all
// endpoints, 100 in about a microsecond. A retry goes to the value's second choice. Calls
// without the key go to an endpoint at random.
//
//	{"loadBalancingConfig": [{"meshlite_hash": {"metadataKey": "x-customer"}}]}
package hash

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/random"
)

// Name is the policy's name in service configs.
const Name = "meshlite_hash"

// Config is the policy's part of a service config.
type Config struct {
	// MetadataKey is the key of outgoing metadata whose value is hashed. It has no default.
	MetadataKey string `json:"metadataKey"`
}

func init() {
	balancer.Register(balancer.Policy[Config]{
		Name: Name, Parse: parseConfig,
		New:     func(_ Config, view balancer.View) balancer.Picker { return random.NewPicker(view) },
		HashKey: func(c Config) string { return c.MetadataKey },
	})
}

func parseConfig(text json.RawMessage) (Config, error) {
	var config Config
	if err := json.Unmarshal(text, &config); err != nil {
		return Config{}, err
	}
	config.MetadataKey = strings.ToLower(config.MetadataKey)
	if key := config.MetadataKey; key == "" || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, ":") {
		return Config{}, fmt.Errorf(`metadataKey %q: write the key of metadata whose value is hashed, such as "x-customer"`, key)
	}
	return config, nil
}
