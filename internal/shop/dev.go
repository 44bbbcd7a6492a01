package shop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
)

// DevOptions are those of [Dev].
type DevOptions struct {
	Options
	Registry Choice
	// Command is how this program is called, for the lines to type.
	Command string
	// Out receives addresses and example commands; Progress receives events.
	Out, Progress io.Writer
	// JSON writes one object to Out instead.
	JSON bool
	// Customers call the shop until ctx ends, so that there is load to see. Nil is none.
	Customers func(ctx context.Context, s *Shop) error
}

// Dev opens the shop, prints its addresses, and keeps it open until ctx ends, which is
// no error. A process that ends by itself is reported and not restarted.
func Dev(ctx context.Context, o DevOptions) error {
	err := dev(ctx, o)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func dev(ctx context.Context, o DevOptions) error {
	if err := Installed(o.Dir); err != nil {
		return err
	}
	if o.Identity {
		o.Registry = Consul // the stand-in has no intentions that programs write
	}
	fmt.Fprintln(o.Progress, "starting a registry and the sweet shop")
	registry, err := StartRegistry(ctx, o.Registry)
	if err != nil {
		return err
	}
	defer registry.Stop()
	s, err := Open(registry, o.Options)
	if err != nil {
		return err
	}
	defer s.Close()
	instances, err := s.openForDev(ctx)
	if err != nil {
		return err
	}
	if err := writeAddresses(o, registry, instances); err != nil {
		return err
	}
	var customers sync.WaitGroup
	customers.Go(func() { o.invite(ctx, s) })
	watchEnds(ctx, o.Progress, instances)
	customers.Wait() // they end with ctx, too
	fmt.Fprintln(o.Progress, "closing the shop")
	return nil
}

// invite lets customers in until ctx ends.
func (o DevOptions) invite(ctx context.Context, s *Shop) {
	if o.Customers == nil {
		return
	}
	if err := o.Customers(ctx, s); err != nil && ctx.Err() == nil {
		fmt.Fprintf(o.Progress, "no customers come: %v\n", err)
	}
}

func (s *Shop) openForDev(ctx context.Context) ([]*Instance, error) {
	var instances []*Instance
	for _, service := range []string{"catalog", "catalog", "inventory", "inventory", "storefront"} {
		i, err := s.Start(ctx, service, "--reflection", "--trust=127.0.0.0/8")
		if err != nil {
			return nil, err
		}
		instances = append(instances, i)
	}
	door, err := s.Start(ctx, Gateway, "catalog", "inventory", "storefront", "--forward-header=customer-id")
	return append(instances, door), err
}

// watchEnds reports each instance that ends, until ctx ends.
func watchEnds(ctx context.Context, w io.Writer, instances []*Instance) {
	var all sync.WaitGroup
	for _, i := range instances {
		all.Go(func() {
			select {
			case <-ctx.Done():
			case <-i.Exited():
				fmt.Fprintf(w, "%s has ended (%s) and is not restarted; it said last:\n%s\n", i.ID, i.State(), i.LastLines(3))
			}
		})
	}
	all.Wait()
	<-ctx.Done()
}

func writeAddresses(o DevOptions, registry *Registry, instances []*Instance) error {
	if o.JSON {
		return writeJSON(o.Out, registry, instances)
	}
	t := tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nregistry\t%s at http://%s\n", registry.Name, registry.Address)
	if registry.Hint == "" {
		fmt.Fprintf(t, "\tits pages: http://%s/ui\n", registry.Address)
	} else {
		fmt.Fprintf(t, "\t%s\n", registry.Hint)
	}
	fmt.Fprintf(t, "\ninstance\taddress\tmetrics\n")
	for _, i := range instances {
		fmt.Fprintf(t, "%s\t%s\thttp://%s/metrics\n", i.ID, i.Address, i.Metrics)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if o.Customers != nil {
		fmt.Fprintf(o.Out, "\ncustomers call the storefront 8 times a second, one now and then too often\n(dev --quiet leaves them out)\n")
	}
	n := len(instances)
	storefront, door := instances[n-2].Metrics, instances[n-1].Address
	text := fmt.Sprintf(`
see what there is to call, and call it:
  %[1]s call --plaintext consul://%[2]s/storefront
  %[1]s call --plaintext consul://%[2]s/storefront sweetshop.storefront.v1.StorefrontService/Browse -d '{}'
  %[1]s call --plaintext -H 'customer-id: ada' consul://%[2]s/storefront sweetshop.storefront.v1.StorefrontService/PlaceOrder -d '{"sweetId": "lemon-sherbet", "grams": 100}'
  %[1]s call --plaintext consul://%[2]s/catalog sweetshop.catalog.v1.CatalogService/ListSections -n 1000 -c 10

the same as JSON over HTTP, through the gateway; its page, to read and try it, is http://%[4]s/
  curl -s http://%[4]s/openapi.json
  curl -s 'http://%[4]s/sweetshop.catalog.v1.CatalogService/GetSweet?id=lemon-sherbet'
  curl -s -H 'customer-id: ada' --json '{"sweetId": "lemon-sherbet", "grams": 100}' http://%[4]s/sweetshop.storefront.v1.StorefrontService/PlaceOrder

see what it counts:
  curl -s http://%[3]s/metrics | grep ^grpc_server_handled_total

see how much is called, how well and how fast:
  %[1]s top --http-addr %[2]s

see what happens to a call at each service behind it:
  %[1]s call --plaintext --explain consul://%[2]s/storefront sweetshop.storefront.v1.StorefrontService/Browse -d '{"section": "boiled"}'

look for what is wrong, and watch who comes and goes:
  %[1]s check --http-addr %[2]s
  %[1]s endpoints catalog --watch --http-addr %[2]s

see how clients pick, what caches save and who is near a limit:
  %[1]s endpoints catalog --picks --http-addr %[2]s
  %[1]s cache stats storefront --http-addr %[2]s
  %[1]s limits storefront --http-addr %[2]s

ask the registry:
  curl -s http://%[2]s/v1/catalog/services
  curl -s 'http://%[2]s/v1/health/service/catalog?passing'

let your own programs find it:
  export CONSUL_HTTP_ADDR=%[2]s

ctrl-C closes the shop.
`, o.Command, registry.Address, storefront, door)
	if o.Identity {
		// The tool asks the agent for its certificate.
		text = strings.ReplaceAll(text, o.Command+" call --plaintext consul://"+registry.Address, "CONSUL_HTTP_ADDR="+registry.Address+" "+o.Command+" call --identity "+Customers+" consul://")
		text = strings.ReplaceAll(text, o.Command+" call --plaintext", "CONSUL_HTTP_ADDR="+registry.Address+" "+o.Command+" call --identity "+Customers)
		text = strings.ReplaceAll(text, o.Command+" check ", o.Command+" check --identity "+Customers+" ")
	}
	_, err := io.WriteString(o.Out, text)
	return err
}

// devInstance is an instance in JSON.
type devInstance struct {
	ID      string `json:"id"`
	Service string `json:"service"`
	Address string `json:"address"`
	Metrics string `json:"metrics"`
}

func writeJSON(w io.Writer, registry *Registry, instances []*Instance) error {
	report := struct {
		Registry  string        `json:"registry"`
		Address   string        `json:"address"`
		Instances []devInstance `json:"instances"`
	}{Registry: registry.Name, Address: registry.Address}
	for _, i := range instances {
		report.Instances = append(report.Instances, devInstance{i.ID, i.Service, i.Address, "http://" + i.Metrics + "/metrics"})
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}
