package cli

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consul"
)

// dialAgent is the agent at address, or the one that the environment names.
func dialAgent(address string) (*consul.Directory, error) {
	// An address with a password in it is refused below, which does not repeat it.
	if address != "" && !strings.Contains(address, "://") && !strings.Contains(address, "@") {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, Usagef("--http-addr %q: write host:port, such as 127.0.0.1:8500", address)
		}
	}
	// What goes wrong comes back with the answer, in one line.
	return consul.New(consul.Config{Address: address, Logger: slog.New(slog.DiscardHandler)})
}

// completionTimeout is how long a person waits after pressing a key.
const completionTimeout = time.Second

// ServiceNames are the services that are registered, for completion: none if the
// agent does not answer within a second.
func ServiceNames(ctx context.Context, address string) []string {
	directory, err := dialAgent(address)
	if err != nil {
		return nil
	}
	defer directory.Close()
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	names, _ := directory.ServiceNames(ctx, "")
	return names
}

// cell is untrusted text, from a registration, for a table.
func cell(text string) string { return cmp.Or(oneLine(text), "-") }
