package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

func TestOneValueSecuresBothEnds(t *testing.T) {
	authority := certtest.New(t)
	shop := of(t, authority, "storefront")
	s := serve(t, of(t, authority, "catalog"))
	if err := check(t, dial(t, s, shop)); err != nil {
		t.Fatal(err)
	}
	if got, want := s.lastCaller(), idOf("storefront").String(); got != want {
		t.Errorf("the caller is %q, want %q", got, want)
	}
	if stats := shop.Stats(); stats.Clients != 1 || stats.Connections != 1 || stats.ID != idOf("storefront").String() || stats.Roots != 1 || len(stats.Refused) != 0 {
		t.Errorf("stats: %+v", stats)
	}
}

// raw is a server or client with plain crypto/tls and a certificate that somebody else made.
func raw(leaf tls.Certificate, change func(*tls.Config)) credentials.TransportCredentials {
	settings := &tls.Config{ClientAuth: tls.RequestClientCert, InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	if leaf.Certificate != nil {
		settings.Certificates = []tls.Certificate{leaf}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &leaf, nil }
	}
	if change != nil {
		change(settings)
	}
	return credentials.NewTLS(settings)
}

// faults are certificates that either end refuses, with the reason.
func faults(t *testing.T, authority *certtest.Authority) map[identity.Reason]credentials.TransportCredentials {
	id := idOf("catalog").String()
	early := certtest.IDTemplate(t, 2*time.Hour, id)
	early.NotBefore = time.Now().Add(time.Hour)
	self := certtest.IDTemplate(t, time.Hour, id)
	other := idOf("catalog")
	other.TrustDomain = "other.consul"
	use := certtest.IDTemplate(t, time.Hour, id)
	use.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	return map[identity.Reason]credentials.TransportCredentials{
		identity.Expired:          raw(authority.IssueID(t, -time.Minute, id), nil),
		identity.NotYetValid:      raw(authority.Sign(t, early), nil),
		identity.SelfSigned:       raw(certtest.SelfSigned(t, self), nil),
		identity.UnknownAuthority: raw(certtest.New(t).IssueID(t, time.Hour, id), nil),
		identity.WrongTrustDomain: raw(authority.IssueID(t, time.Hour, other.String()), nil),
		identity.BadID:            raw(authority.IssueID(t, time.Hour, id, id), nil),
		identity.BadCertificate:   raw(authority.Sign(t, use), nil),
		identity.OldTLS:           raw(authority.IssueID(t, time.Hour, id), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
	}
}

// Case I1: A server with a valid certificate of another service, namespace, datacenter or
// trust domain is refused by the client, by name, before any byte of the call.
func TestAClientRefusesAnotherServer(t *testing.T) {
	authority := certtest.New(t)
	servers := faults(t, authority)
	valid := func(change func(*identity.ID)) credentials.TransportCredentials {
		id := idOf("catalog")
		change(&id)
		return raw(authority.IssueID(t, time.Hour, id.String()), nil)
	}
	servers[identity.WrongService] = valid(func(id *identity.ID) { id.Service = "inventory" })
	servers[identity.WrongNamespace] = valid(func(id *identity.ID) { id.Namespace = "other" })
	servers[identity.WrongDatacenter] = valid(func(id *identity.ID) { id.Datacenter = "dc2" })
	servers[identity.WrongPartition] = valid(func(id *identity.ID) { id.Partition = "other" })
	for reason, creds := range servers {
		t.Run(string(reason), func(t *testing.T) {
			log := &logged{}
			client := of(t, authority, "storefront", identity.WithLogger(log.logger()))
			s := serve(t, creds)
			err := check(t, dial(t, s, client))
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "identity: "+string(reason)) {
				t.Errorf("the call gets %v, want Unavailable with %s", err, reason)
			}
			if n := s.calls.Load(); n != 0 {
				t.Errorf("the handler ran %d times", n)
			}
			if n := client.Stats().Refused[reason]; n == 0 {
				t.Errorf("refused: %v", client.Stats().Refused)
			}
			if text := log.String(); !strings.Contains(text, "reason="+string(reason)) || !strings.Contains(text, "side=client") || !strings.Contains(text, s.address) {
				t.Errorf("the log has no line of it: %s", text)
			}
		})
	}
	if err := check(t, dial(t, serve(t, servers[identity.WrongDatacenter]), of(t, authority, "storefront", identity.WithDatacenters("dc2")))); err != nil {
		t.Errorf("another datacenter that is accepted: %v", err)
	}
}

// A caller without a valid certificate runs no handler.
//
// Case X13
func TestAServerRefusesCallersWithoutAValidCertificate(t *testing.T) {
	authority := certtest.New(t)
	clients := faults(t, authority)
	clients[identity.NoCertificate] = raw(tls.Certificate{}, nil)
	for reason, creds := range clients {
		t.Run(string(reason), func(t *testing.T) {
			log := &logged{}
			mine := of(t, authority, "catalog", identity.WithLogger(log.logger()))
			s := serve(t, mine)
			if err := check(t, dial(t, s, creds)); status.Code(err) != codes.Unavailable {
				t.Errorf("the call gets %v, want Unavailable", err)
			}
			if n := s.calls.Load(); n != 0 {
				t.Errorf("the handler ran %d times", n)
			}
			eventually(t, "the refusal is counted", func() bool { return mine.Stats().Refused[reason] > 0 })
			eventually(t, "the refusal is logged", func() bool { return strings.Contains(log.String(), "reason="+string(reason)) })
		})
	}
}

// A channel whose authority is no service never finds out by trying.
func TestAnAuthorityThatNamesNoServiceIsRefused(t *testing.T) {
	authority := certtest.New(t)
	s := serve(t, of(t, authority, "catalog"))
	for _, name := range []string{s.address, "cat%2Falog", "[::1]:443"} {
		if err := check(t, dial(t, s, of(t, authority, "storefront"), grpc.WithAuthority(name))); err == nil || !strings.Contains(err.Error(), string(identity.UnknownService)) {
			t.Errorf("%q gets %v", name, err)
		}
	}
}

func TestALogIsNotFilledByRefusals(t *testing.T) {
	authority := certtest.New(t)
	log := &logged{}
	mine := of(t, authority, "catalog", identity.WithLogger(log.logger()))
	s := serve(t, mine)
	for range 40 {
		conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Read(make([]byte, 1))
		conn.Close()
	}
	eventually(t, "all are counted", func() bool { return mine.Stats().Refused[identity.NoCertificate] == 40 })
	if n := strings.Count(log.String(), "\n"); n == 0 || n > 30 {
		t.Errorf("40 refusals wrote %d lines", n)
	}
}

func TestNewChecksItsOptions(t *testing.T) {
	source := &identity.Feed{}
	for name, made := range map[string]func() (*identity.Credentials, error){
		"source":               func() (*identity.Credentials, error) { return identity.New(nil) },
		"WithExpiryGrace":      func() (*identity.Credentials, error) { return identity.New(source, identity.WithExpiryGrace(-1)) },
		"WithMaxConnectionAge": func() (*identity.Credentials, error) { return identity.New(source, identity.WithMaxConnectionAge(0)) },
	} {
		if _, err := made(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
