package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Registry serves the stand-in for a Consul agent on listen until ctx ends,
// which is no error.
func Registry(ctx context.Context, listen string, format Format, out io.Writer) error {
	if err := checkListen(listen); err != nil {
		return err
	}
	agent := consultest.New()
	defer agent.Close()
	address, err := agent.Listen(listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("--listen %q: another program listens there, perhaps a Consul agent: stop it or use it, or take a free port by --listen 127.0.0.1:0", listen)
	}
	if err != nil {
		return fmt.Errorf("--listen %q: %w", listen, err)
	}
	if err := announce(address, format, out); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// checkListen keeps the agent on loopback: it requires no token, and anyone who reaches
// it can make it open connections.
func checkListen(listen string) error {
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return Usagef("--listen %q: write host:port, such as 127.0.0.1:8500", listen)
	}
	address, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return Usagef("--listen %q: %w: write host:port, such as 127.0.0.1:8500", listen, err)
	}
	if !address.IP.IsLoopback() {
		return Usagef("--listen %q is not loopback: the stand-in requires no token and must stay on this machine: write 127.0.0.1:%d", listen, address.Port)
	}
	return nil
}

func announce(address string, format Format, out io.Writer) error {
	if format == JSON {
		return WriteJSON(out, map[string]string{"address": address})
	}
	_, err := fmt.Fprintf(out, `stand-in for a Consul agent at http://%s: in memory, until ctrl-C
in another terminal: export CONSUL_HTTP_ADDR=%s
`, address, address)
	return err
}
