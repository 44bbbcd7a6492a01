package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/identity"
)

// PageAccess is what opens admin pages that are not open to everybody, and to which of them
// it goes. The zero value sends MESHLITE_ADMIN_TOKEN to pages that the user has named, and to
// those of this host.
type PageAccess struct {
	// SendTokenTo are the networks ("10.0.0.0/8") and addresses of pages found in Consul that
	// receive the token as well, in plaintext.
	SendTokenTo []string
	// Security is of pages that are named by https://. With an Identity, pages found in Consul
	// are read by HTTPS as well, and must be of their service.
	Security Security
}

const https = "https://"

// check refuses clients that are no addresses, and what contradicts them.
func (o PageAccess) check(clients []string) error {
	secured := false
	for _, address := range clients {
		host, overTLS := strings.CutPrefix(address, https)
		if !dialable(host) {
			return Usagef("--client %q: write host:port, such as 127.0.0.1:9090, or https://host:port", address)
		}
		secured = secured || overTLS
	}
	switch {
	case len(clients) == 0 && o.Security == Security{Identity: o.Security.Identity}:
		// pages in Consul, whose services are known
	case !secured && o.Security != Security{}:
		return Usagef("--cacert, --cert, --key, --servername, or --identity beside a --client, without a --client https://host:port: pages in Consul are read in plaintext, or by --identity alone")
	case o.Security.Identity != "" && o.Security.ServerName == "":
		return Usagef("--identity %q: an address names no service: say which one must listen there by --servername", o.Security.Identity)
	case len(clients) > 0 && len(o.SendTokenTo) > 0:
		return Usagef("--send-token-to together with --client: pages that are named receive the token without it, leave one out")
	}
	_, err := o.networks()
	return err
}

func (o PageAccess) networks() (list []netip.Prefix, err error) {
	for _, text := range o.SendTokenTo {
		network, err := netip.ParsePrefix(text)
		if address, notAddress := netip.ParseAddr(text); notAddress == nil && address.Zone() == "" {
			address = address.Unmap()
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return nil, Usagef("--send-token-to %q: write a network or an address, such as 10.0.0.0/8 or 10.0.0.7", text)
		}
		list = append(list, network)
	}
	return list, nil
}

// asker is what reads the pages, until it is ended.
func (o PageAccess) asker(ctx context.Context) (_ asker, end func(), _ error) {
	networks, err := o.networks()
	if err != nil {
		return asker{}, nil, err
	}
	settings, end, err := o.tls(ctx)
	if err != nil {
		return asker{}, nil, err
	}
	return asker{settings: settings, token: tokenTo{adminToken(), networks, ownAddresses()}}, end, nil
}

// tls returns the settings for the page of a process by https, where files prove names of hosts,
// and an identity that of a service.
func (o PageAccess) tls(ctx context.Context) (_ func(process) *tls.Config, end func(), _ error) {
	if o.Security.Identity == "" {
		settings, err := o.Security.settings()
		return func(process) *tls.Config { return settings }, func() {}, err
	}
	creds, end, err := o.Security.ofAgent()
	if err != nil {
		return nil, nil, err
	}
	if err := awaitCertificate(ctx, creds); err != nil {
		end()
		return nil, nil, err
	}
	mtls := creds.(*identity.Credentials)
	return func(p process) *tls.Config { return mtls.ClientTLS(cmp.Or(o.Security.ServerName, p.proves)) }, end, nil
}

// tokenTo is the token for admin pages, and which pages of Consul receive it.
type tokenTo struct {
	secret   string // "" is none
	networks []netip.Prefix
	own      own
}

// maySend reports whether the page may receive the token. Whoever can register in Consul
// chooses the addresses there, and their connections are in plaintext: only those that do not
// leave this host are trusted, and the networks that the user trusts. A name is not, since
// another may resolve it.
func (t tokenTo) maySend(p process) bool {
	if p.named {
		return true
	}
	host := hostOf(strings.TrimPrefix(p.Address, https))
	address, err := netip.ParseAddr(host)
	if err != nil {
		return loopback(host)
	}
	address = address.Unmap()
	return loopback(host) || t.own[address.String()] ||
		slices.ContainsFunc(t.networks, func(network netip.Prefix) bool { return network.Contains(address) })
}

// adminToken is MESHLITE_ADMIN_TOKEN, or the first token of MESHLITE_ADMIN_TOKEN_FILE. A file
// that cannot be read is no token: pages that demand one then say so.
func adminToken() string {
	token := os.Getenv("MESHLITE_ADMIN_TOKEN")
	if path := os.Getenv("MESHLITE_ADMIN_TOKEN_FILE"); token == "" && path != "" {
		text, _ := os.ReadFile(path)
		token, _, _ = strings.Cut(strings.TrimSpace(string(text)), "\n")
	}
	return strings.TrimSpace(token)
}
