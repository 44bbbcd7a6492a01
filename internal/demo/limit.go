package demo

import (
	"errors"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// limit is what the contract of the storefront allows one customer.
type limit struct {
	key    string // metadata key that names the customer
	calls  uint64 // a period
	period time.Duration
	burst  uint64
}

// contractLimit reads the limit from the options of the contract.
func contractLimit() (limit, error) {
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		return limit{}, err
	}
	meta := policies.Call(interceptors.Server, storefrontv1.StorefrontService_Browse_FullMethodName)
	for _, rule := range meta.Policy.GetRateLimits() {
		if rule.GetKey().GetMetadata() == "" || rule.GetDisabled() {
			continue
		}
		period := time.Second
		if rule.GetPeriod() != "" {
			if period, err = interceptors.ParseDuration(rule.GetPeriod()); err != nil {
				return limit{}, fmt.Errorf("limit %q of the contract: %w", rule.GetName(), err)
			}
		}
		l := limit{key: rule.GetKey().GetMetadata(), calls: rule.GetLimit(), period: period, burst: rule.GetLimit()}
		if rule.Burst != nil {
			l.burst = rule.GetBurst()
		}
		return l, nil
	}
	return limit{}, errors.New("the contract of the storefront has no limit by metadata: give Browse one")
}

// allows is how many calls one customer may make in a time.
func (l limit) allows(d time.Duration) uint64 {
	return uint64(float64(l.calls)*d.Seconds()/l.period.Seconds()) + l.burst
}
