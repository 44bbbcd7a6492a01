package mixedtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/internal/shop"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// doors are the gateways that Consul lists, taken in turns, as a proxy in front does.
type doors struct {
	client http.Client
	mu     sync.Mutex
	list   []string
}

// openDoors follows the gateways until the test ends.
func openDoors(t *testing.T, s *shop.Shop) *doors {
	d := &doors{}
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	listed := make(chan struct{})
	first := sync.OnceFunc(func() { close(listed) })
	watch.Go(func() {
		s.Directory().Watch(ctx, catalog.Query{Service: shop.Gateway}, func(snapshot catalog.Snapshot, err error) {
			if err == nil && len(snapshot.Instances) > 0 {
				d.set(snapshot.Instances)
				first()
			}
		})
	})
	t.Cleanup(func() { cancel(); watch.Wait(); d.client.CloseIdleConnections() })
	d.client.Transport = &http.Transport{MaxIdleConnsPerHost: 100}
	<-listed
	return d
}

func (d *doors) set(instances []catalog.Instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = nil
	for _, i := range instances {
		d.list = append(d.list, i.Address)
	}
}

func (d *doors) nth(n int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list[n%len(d.list)]
}

// browse asks a gateway for a page of the storefront as JSON. It is a GET: on a connection
// that a gateway has just closed the transport sends it again.
func (d *doors) browse(ctx context.Context, n int) error {
	to := url.URL{Scheme: "http", Host: d.nth(n), Path: "/sweetshop.storefront.v1.StorefrontService/Browse"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("customer-id", customer(n))
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.300s", response.Status, text)
	}
	var page struct{ Offers []json.RawMessage }
	if err := json.Unmarshal(text, &page); err != nil {
		return err
	}
	if len(page.Offers) == 0 {
		return errors.New("the shop offers nothing")
	}
	return nil
}
