package redisconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/redis/rueidis"
)

// Explain turns an error of the client into one that names the address and what to do. To
// contain no secret, it wraps only errors that have none.
func (c *Conn) Explain(err error) error {
	var redis *rueidis.RedisError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s did not answer in time: %w", c.name, context.DeadlineExceeded)
	case errors.As(err, &redis):
		return fmt.Errorf("%s answered %q%s", c.name, c.brief(redis.Error()), c.hint(redis.Error()))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refused the connection: is a server running there? %w", c.name, syscall.ECONNREFUSED)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: there is no such host: %w", c.name, dns)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%s closed the connection: was it stopped, or does it want TLS? %w", c.name, io.ErrUnexpectedEOF)
	default:
		return fmt.Errorf("%s: %s", c.name, c.brief(err.Error()))
	}
}

// brief makes one line of a text without the secrets in it. Servers repeat the arguments
// of an unknown command, which may be a password.
func (c *Conn) brief(text string) string {
	const most = 200
	text, _, _ = strings.Cut(text, ", with args beginning with")
	for _, secret := range c.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// hint is what to do about an error of the server.
func (c *Conn) hint(text string) string {
	switch code, _, _ := strings.Cut(text, " "); code {
	case "WRONGPASS", "NOAUTH":
		return ": give a user and a password that it accepts"
	case "NOPERM":
		return ": allow the user " + c.Commands
	case "OOM":
		return ": set maxmemory-policy to " + c.Eviction
	case "READONLY":
		return ": name the primary, not a replica"
	default:
		return ""
	}
}
