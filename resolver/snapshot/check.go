package snapshot

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// check says what keeps a list from being what [catalog.Snapshot] promises.
func check(list []instance) error {
	if len(list) == 0 {
		return errors.New("instances is empty, want one at least")
	}
	seen := make(map[string]int, len(list))
	for n, i := range list {
		if err := i.check(); err != nil {
			return fmt.Errorf("instances[%d].%w", n, err)
		}
		if first, twice := seen[i.Address]; twice {
			return fmt.Errorf("instances[%d].address is %.80q as of instances[%d], want one instance an address", n, i.Address, first)
		}
		seen[i.Address] = n
	}
	return nil
}

func (i instance) check() error {
	_, known := statusOf(i.Status)
	switch {
	case !isHostPort(i.Address):
		return fmt.Errorf("address is %.80q, want host:port", i.Address)
	case i.Weight == 0:
		return errors.New("weight is 0, want 1 at least")
	case !known:
		return fmt.Errorf("status is %.80q, want passing, warning, critical or maintenance", i.Status)
	}
	return nil
}

func isHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	n, numeric := strconv.ParseUint(port, 10, 16)
	return err == nil && numeric == nil && host != "" && n > 0
}

// statusOf reads Consul's word for a status.
func statusOf(word string) (status catalog.Status, known bool) {
	for _, s := range []catalog.Status{catalog.Passing, catalog.Warning, catalog.Critical, catalog.Maintenance} {
		if s.String() == word {
			return s, true
		}
	}
	return 0, false
}
