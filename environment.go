package meshlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// What differs between places and not between programs. It is read when a channel or a
// server is built; docs/settings.md has the table.
const (
	envListenAddress   = "MESHLITE_LISTEN_ADDRESS"
	envMetricsAddress  = "MESHLITE_METRICS_ADDRESS"
	envRegion          = "MESHLITE_REGION"
	envZone            = "MESHLITE_ZONE"
	envLogLevel        = "MESHLITE_LOG_LEVEL"
	envDisable         = "MESHLITE_DISABLE"
	envCallStreams     = "MESHLITE_CALL_STREAMS"
	envAdminToken      = "MESHLITE_ADMIN_TOKEN"
	envAdminTokenFile  = "MESHLITE_ADMIN_TOKEN_FILE"
	envAdminIdentities = "MESHLITE_ADMIN_IDENTITIES"
)

// kill is a concern that [envDisable] turns off.
type kill struct {
	name  string
	stage interceptors.Stage // 0 for a part of the balancer
	// field and value are what turns a part off in the config of our balancing policies.
	field string
	value map[string]any
}

// kills are all there are. Authorization, and the program's own interceptors, which may
// authorize, cannot be turned off so: whoever may set an environment variable may not open
// a door. Nor can recovery and metrics: a panic would end the program, and nobody would see
// what the rest does.
var kills = []kill{
	{name: interceptors.Explained.String(), stage: interceptors.Explained},
	{name: interceptors.Tracing.String(), stage: interceptors.Tracing},
	{name: interceptors.Logging.String(), stage: interceptors.Logging},
	{name: interceptors.Routing.String(), stage: interceptors.Routing},
	{name: interceptors.Deadline.String(), stage: interceptors.Deadline},
	{name: interceptors.Cache.String(), stage: interceptors.Cache},
	{name: interceptors.Mirror.String(), stage: interceptors.Mirror},
	{name: interceptors.Retry.String(), stage: interceptors.Retry},
	{name: interceptors.RateLimit.String(), stage: interceptors.RateLimit},
	{name: interceptors.Concurrency.String(), stage: interceptors.Concurrency},
	{name: "balancer.ejection", field: "ejection", value: map[string]any{"disabled": true}},
	{name: "balancer.slowstart", field: "slowStart", value: map[string]any{"window": "0s"}},
	{name: "balancer.zone", field: "zone", value: map[string]any{"disabled": true}},
}

// readKills returns what the environment turns off.
func readKills() (off []kill, err error) {
	value := os.Getenv(envDisable)
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		i := slices.IndexFunc(kills, func(k kill) bool { return k.name == name })
		if i < 0 {
			var names []string
			for _, k := range kills {
				names = append(names, k.name)
			}
			return nil, optionError(envDisable, value, fmt.Sprintf("%q cannot be turned off: write some of %s, separated by commas", name, strings.Join(names, ", ")))
		}
		off = append(off, kills[i])
	}
	return off, nil
}

func readCallStreams() (bool, error) {
	value := os.Getenv(envCallStreams)
	if value == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, optionError(envCallStreams, value, "write true or false")
	}
	return on, nil
}

// without leaves out the concerns that are turned off. The cache still invalidates what
// calls change, for the processes that share its store.
func without(off []kill, concerns []interceptors.Concern) (left []interceptors.Concern) {
	for _, c := range concerns {
		isOff := slices.ContainsFunc(off, func(k kill) bool { return k.stage == c.Stage() })
		switch cached, ok := c.(unaryConcern); {
		case !isOff:
			left = append(left, c)
		case ok && c.Stage() == interceptors.Cache:
			left = append(left, uncached{cached})
		}
	}
	return left
}

// unaryConcern is the shape of the cache.
type unaryConcern interface {
	interceptors.Concern
	interceptors.UnaryClient
	interceptors.UnaryServer
}

// uncached is a cache that answers nothing.
type uncached struct{ unaryConcern }

func (u uncached) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return u.unaryConcern.UnaryClient(withoutCache(meta))
}

func (u uncached) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return u.unaryConcern.UnaryServer(withoutCache(meta))
}

func withoutCache(meta *interceptors.CallMeta) *interceptors.CallMeta {
	changed := *meta
	changed.Policy = proto.CloneOf(meta.Policy)
	changed.Policy.Cache = &policyv1.CacheRule{Ttl: proto.String("0s")}
	return &changed
}

// withoutParts writes what is turned off of the balancer into a service config. A policy that
// is not of this module has no such parts.
func withoutParts(off []kill, config map[string]any) error {
	if !slices.ContainsFunc(off, func(k kill) bool { return k.field != "" }) {
		return nil
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &config); err != nil { // values of Go become those of JSON
		return err
	}
	if name, ok := config["loadBalancingPolicy"].(string); ok && config["loadBalancingConfig"] == nil && ours(name) {
		delete(config, "loadBalancingPolicy")
		config["loadBalancingConfig"] = []any{map[string]any{name: map[string]any{}}}
	}
	list, _ := config["loadBalancingConfig"].([]any)
	for _, item := range list {
		policies, _ := item.(map[string]any)
		for name, settings := range policies {
			fields, ok := settings.(map[string]any)
			if !ok || !ours(name) {
				continue
			}
			for _, k := range off {
				if k.field == "" {
					continue
				}
				part, _ := fields[k.field].(map[string]any)
				part = maps.Clone(part)
				if part == nil {
					part = map[string]any{}
				}
				maps.Copy(part, k.value)
				fields[k.field] = part
			}
		}
	}
	return nil
}

// ours reports whether a balancing policy is of this module.
func ours(policy string) bool { return strings.HasPrefix(policy, "meshlite_") }

// turnedOff is what the environment has turned off of what a runtime has made, for its
// metrics and its admin page.
type turnedOff struct {
	mu  sync.Mutex
	off map[string]bool
}

// note logs what was not off before.
func (t *turnedOff) note(off []kill, log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range off {
		if t.off == nil {
			t.off = map[string]bool{}
		}
		if !t.off[k.name] {
			t.off[k.name] = true
			log.Warn("turned off by the environment", "concern", k.name, "variable", envDisable)
		}
	}
}

func (t *turnedOff) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string{}, slices.Sorted(maps.Keys(t.off))...)
}

var disabledDesc = prometheus.NewDesc("meshlite_disabled", "1 if MESHLITE_DISABLE has turned the concern off.", []string{"concern"}, nil)

// Describe implements [prometheus.Collector].
func (t *turnedOff) Describe(to chan<- *prometheus.Desc) { to <- disabledDesc }

// Collect implements [prometheus.Collector].
func (t *turnedOff) Collect(to chan<- prometheus.Metric) {
	off := t.names()
	for _, k := range kills {
		value := 0.0
		if slices.Contains(off, k.name) {
			value = 1
		}
		to <- prometheus.MustNewConstMetric(disabledDesc, prometheus.GaugeValue, value, k.name)
	}
}

// environment sets what no option has set.
func (c *config) environment() (err error) {
	if c.region == "" && c.zone == "" {
		c.region, c.zone = os.Getenv(envRegion), os.Getenv(envZone)
		if c.zone != "" && c.region == "" {
			return optionError(envZone, c.zone, "Consul takes a zone only within its region: set "+envRegion+", too")
		}
	}
	if c.log, err = levelled(c.log); err != nil {
		return err
	}
	if c.off, err = readKills(); err != nil {
		return err
	}
	if c.callStreams, err = readCallStreams(); err != nil {
		return err
	}
	c.callStreams = c.callStreams || c.runtime.callStreams
	c.runtime.off.note(c.off, c.log)
	return nil
}

// environment sets the addresses that no option has set, and checks what the admin page
// will need.
func (c *serverConfig) environment() error {
	if c.listen == "" {
		c.listen, c.listenBy = os.Getenv(envListenAddress), envListenAddress
	}
	if c.metricsBy == "" {
		c.metrics, c.metricsBy = cmp.Or(os.Getenv(envMetricsAddress), defaultMetricsAddress), envMetricsAddress
	}
	if c.metrics == "" {
		return nil
	}
	options, err := adminAccess()
	if err == nil {
		_, err = admin.New(options...)
	}
	if err != nil {
		return fmt.Errorf("meshlite: %w", err)
	}
	return nil
}

// adminAccess is what opens the admin page to others than loopback, none by default.
func adminAccess() (options []admin.Option, _ error) {
	for id := range strings.FieldsFuncSeq(os.Getenv(envAdminIdentities), isSeparator) {
		options = append(options, admin.WithIdentities(id))
	}
	token, file := os.Getenv(envAdminToken), os.Getenv(envAdminTokenFile)
	switch {
	case token != "" && file != "":
		return nil, optionError(envAdminTokenFile, file, "together with "+envAdminToken+": leave one out")
	case token != "":
		options = append(options, admin.WithToken(token))
	case file != "":
		options = append(options, admin.WithTokenFile(file))
	}
	return options, nil
}

func isSeparator(r rune) bool { return r == ',' || unicode.IsSpace(r) }

// levelled returns log with the level that the environment sets for the mesh's own lines,
// whatever the level of the program's handler.
func levelled(log *slog.Logger) (*slog.Logger, error) {
	value := os.Getenv(envLogLevel)
	if value == "" {
		return log, nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(value)); err != nil {
		return nil, optionError(envLogLevel, value, "write debug, info, warn or error")
	}
	return slog.New(leveller{log.Handler(), level}), nil
}

// leveller replaces the level of a handler.
type leveller struct {
	slog.Handler
	level slog.Level
}

// Enabled reports whether level is that of the environment or above.
func (l leveller) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

// WithAttrs keeps the level.
func (l leveller) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveller{l.Handler.WithAttrs(attrs), l.level}
}

// WithGroup keeps the level.
func (l leveller) WithGroup(name string) slog.Handler {
	return leveller{l.Handler.WithGroup(name), l.level}
}
