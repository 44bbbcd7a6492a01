package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/meshlite-go/meshlite/internal/reflectcall"
)

// listServices writes what the server offers, a name a line as grpcurl does.
func (c *preparedCall) listServices(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+resolverFirst)
	defer cancel()
	names, err := c.finder.Services(ctx)
	if err := c.unfound(err); err != nil {
		return err
	}
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, map[string][]string{"services": append([]string{}, names...)})
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(c.streams.Out, oneLine(name)); err != nil {
			return err
		}
	}
	return nil
}

// methodEntry is a method as JSON.
type methodEntry struct {
	Method          string   `json:"method"` // package.Service/Method
	Request         string   `json:"request"`
	Fields          []string `json:"request_fields"`
	Response        string   `json:"response"`
	ClientStreaming bool     `json:"client_streaming"`
	ServerStreaming bool     `json:"server_streaming"`
}

// listMethods writes the methods of a service, as they are written to call them.
func (c *preparedCall) listMethods(service *reflectcall.Service) error {
	list := []methodEntry{}
	for _, m := range service.Methods() {
		d := m.Descriptor()
		list = append(list, methodEntry{
			Method: m.Name(), Request: string(d.Input().FullName()), Fields: append([]string{}, m.Fields()...),
			Response: string(d.Output().FullName()), ClientStreaming: d.IsStreamingClient(), ServerStreaming: d.IsStreamingServer(),
		})
	}
	if c.Format == JSON {
		return WriteJSON(c.streams.Out, struct {
			Service string        `json:"service"`
			Methods []methodEntry `json:"methods"`
		}{service.Name(), list})
	}
	g := &grid{fields: []field{{head: "METHOD"}, {head: "REQUEST", least: 10}, {head: "RESPONSE", drop: 1}}}
	for _, m := range list {
		fields := cmp.Or(strings.Join(m.Fields, ", "), "no fields")
		g.add(oneLine(m.Method), oneLine(streamed(m.ClientStreaming, fields)), oneLine(streamed(m.ServerStreaming, m.Response)))
	}
	t := newTables(c.streams.Out)
	if err := t.write(g); err != nil {
		return err
	}
	return t.close()
}

func streamed(stream bool, text string) string {
	if stream {
		return "stream of " + text
	}
	return text
}
