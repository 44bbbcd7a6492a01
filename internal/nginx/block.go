package nginx

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// The methods of [Block].
const (
	RoundRobin = "round_robin"
	LeastConn  = "least_conn"
)

// Block describes what stands in the file.
type Block struct {
	// Service and Directory are named in the comment at the top.
	Service, Directory string
	// Upstream is the name of the upstream. Empty renders server lines alone, for an
	// include within an upstream of the user's own; Balance and Keepalive are then ignored.
	Upstream string
	Balance  string // RoundRobin, also if empty, or LeastConn
	// Keepalive is how many idle connections each worker keeps; 0 is none.
	Keepalive int
	// Server is what each server line has at its end, such as "max_fails=1 fail_timeout=5s".
	Server string
}

var (
	upstreamName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	parameters   = regexp.MustCompile(`^[a-z_]+(=[a-z0-9]+)?( [a-z_]+(=[a-z0-9]+)?)*$`)
	hostName     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$`)
)

// Validate returns which flag of the command is wrong, and the fix.
func (b Block) Validate() error {
	switch {
	case b.Upstream != "" && !upstreamName.MatchString(b.Upstream):
		return fmt.Errorf("--upstream %q: write letters, digits, dots, hyphens and underscores, at most 128", b.Upstream)
	case b.Balance != "" && b.Balance != RoundRobin && b.Balance != LeastConn:
		return fmt.Errorf("--balance %q: write %s or %s; for another method leave out --upstream, and include the file in an upstream of your own", b.Balance, RoundRobin, LeastConn)
	case b.Upstream == "" && (b.Balance != "" || b.Keepalive != 0):
		return errors.New("--balance and --keepalive belong to the upstream that --upstream names: give it, or write both in the upstream that includes the file")
	case b.Keepalive < 0:
		return fmt.Errorf("--keepalive %d: write how many idle connections a worker keeps, or 0 for none", b.Keepalive)
	case b.Server != "" && !parameters.MatchString(b.Server):
		return fmt.Errorf("--server %q: write parameters of NGINX's server directive, such as 'max_fails=1 fail_timeout=5s'", b.Server)
	}
	return nil
}

// noServer makes an upstream that answers 502 at once, since NGINX accepts none without a
// server.
const noServer = "server 127.0.0.1:1 down; # no instance is known"

// Render returns the text of the file. What the directory says is not trusted: an instance
// whose address is no plain host and port is left out, and its error returned. Without an
// instance, the only server is one that is down.
func (b Block) Render(instances []catalog.Instance) (text string, refused []error) {
	indent := ""
	var s strings.Builder
	fmt.Fprintf(&s, "# Written by `meshlite nginx` and overwritten: service %q of %s.\n", b.Service, b.Directory)
	if b.Upstream != "" {
		indent = "    "
		// The workers share counts and failures in the zone: about 1000 servers fit.
		fmt.Fprintf(&s, "upstream %s {\n%szone %s 512k;\n", b.Upstream, indent, b.Upstream)
		if b.Balance == LeastConn {
			fmt.Fprintf(&s, "%sleast_conn;\n", indent)
		}
	}
	servers := 0
	for _, i := range instances {
		line, err := b.server(i)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		servers++
		fmt.Fprintf(&s, "%s%s\n", indent, line)
	}
	if servers == 0 {
		fmt.Fprintf(&s, "%s%s\n", indent, noServer)
	}
	if b.Upstream != "" {
		if b.Keepalive > 0 {
			fmt.Fprintf(&s, "%skeepalive %d;\n", indent, b.Keepalive)
		}
		s.WriteString("}\n")
	}
	return s.String(), refused
}

func (b Block) server(i catalog.Instance) (string, error) {
	host, port, err := net.SplitHostPort(i.Address)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || !plainHost(host) {
		return "", fmt.Errorf("instance %.80q has the address %.80q, which NGINX cannot be given: register it with host:port", i.ID, i.Address)
	}
	line := "server " + i.Address
	if i.Weight > 1 {
		line += fmt.Sprintf(" weight=%d", i.Weight)
	}
	if b.Server != "" {
		line += " " + b.Server
	}
	return line + ";", nil
}

// plainHost reports whether host is an IP address without a zone, or a name.
func plainHost(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Zone() == "" || err != nil && len(host) <= 253 && hostName.MatchString(host)
}
