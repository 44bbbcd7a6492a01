package main

import (
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// asService are credentials of a service, of the agent that the environment names.
func asService(t *testing.T, service string) *identity.Credentials {
	t.Helper()
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	source, err := directory.Identity(service)
	if err != nil {
		t.Fatal(err)
	}
	mtls, err := identity.New(source, identity.WithLogger(silent))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mtls.Close(); directory.Close() })
	return mtls
}

// Every command that calls servers does so over mutual TLS, as the service that --identity
// names, and refuses a server that is another.
func TestCommandsCallAsAService(t *testing.T) {
	for name, open := range map[string]func(*testing.T){"stand-in": func(t *testing.T) { openAgent(t) }, "consul": func(t *testing.T) { openConsul(t) }} {
		t.Run(name, func(t *testing.T) {
			open(t)
			openReflectingShop(t, "catalog", 1, meshlite.WithTransportCredentials(asService(t, "catalog")))
			const method = "sweetshop.catalog.v1.CatalogService/GetSweet"
			runTool(t, "call", "--identity", "web", "consul:///catalog", method).want(t, 0, "{", "")
			runTool(t, "call", "--identity", "web", "--servername", "catalog", addressOf(t, "catalog"), method).want(t, 0, "{", "")
			runTool(t, "call", "--identity", "web", "consul:///catalog", method, "-n", "20", "-c", "2").want(t, 0, "20", "")
			runTool(t, "explain", "--identity", "web", "consul:///catalog", method).want(t, 0, "catalog must prove spiffe://", "")
			runTool(t, "call", "--identity", "web", "--servername", "prices", addressOf(t, "catalog"), method).want(t, 1, "", "wrong_service")
			runTool(t, "call", "--plaintext", "consul:///catalog", method).want(t, 1, "", "leave --plaintext out")
			runTool(t, "probe", "--identity", "web", "--servername", "catalog", addressOf(t, "catalog")).want(t, 0, "SERVING", "")
			runTool(t, "probe", "--identity", "web", "--servername", "prices", addressOf(t, "catalog")).want(t, 1, "", "wrong_service")
			runTool(t, "probe", "--identity", "web", addressOf(t, "catalog")).want(t, 2, "", "say which one must listen there by --servername")
			runTool(t, "check", "--identity", "web").want(t, 0, "SERVING in", "")
			runTool(t, "check").want(t, 1, "but was called in plaintext", "")
			runTool(t, "check", "--cacert", rootsFile(t)).want(t, 1, "call as a service by --identity", "")
			runTool(t, "call", "--identity", "web", "--plaintext", "consul:///catalog", method).want(t, 2, "", "leave one out")
			runTool(t, "call", "--identity", "we b", "consul:///catalog", method).want(t, 2, "", "letters, digits")
		})
	}
}

// A server with an identity serves its pages by HTTPS beside HTTP. What Consul lists is read so
// with --identity, by those alone whom MESHLITE_ADMIN_IDENTITIES names; /metrics is for all.
//
// Case I13
func TestPagesInConsulAreReadAsAService(t *testing.T) {
	agent := openAgent(t)
	ops, _, err := consulClient(t).Agent().ConnectCALeaf("ops", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("MESHLITE_ADMIN_IDENTITIES", "spiffe://elsewhere.consul/ns/default/dc/dc1/svc/ops, "+ops.ServiceURI)
	openReflectingShop(t, "catalog", 1, meshlite.WithTransportCredentials(asService(t, "catalog")), meshlite.WithMetricsAddress("127.0.0.1:0"))
	page := pageOf(t, "catalog")
	for _, command := range [][]string{{"cache", "stats"}, {"cache", "clear", "--all"}, {"limits"}} {
		runTool(t, append(command, "--identity", "ops")...).want(t, 0, "", "")
		runTool(t, append(command, "--identity", "web")...).want(t, 1, "", "is not one of the program's MESHLITE_ADMIN_IDENTITIES")
		runTool(t, command...).want(t, 1, "", "call by https with the client certificate of one of the program's MESHLITE_ADMIN_IDENTITIES")
		runTool(t, append(command, "--client", "https://"+page, "--identity", "ops", "--servername", "catalog")...).want(t, 0, "", "")
	}
	runTool(t, "top", "--once", "--interval", "100ms", "--identity", "ops").want(t, 0, "catalog", "")
	runTool(t, "top", "--once", "--interval", "100ms").want(t, 0, "catalog", "") // /metrics, in plaintext

	// Another name of the server is proven by its own; another service is not.
	if err := agent.Register(consultest.Service{ID: "shop-1", Name: "shop", Address: "127.0.0.1", Port: 81,
		Meta: map[string]string{"metrics_address": page, "metrics_service": "catalog"}}); err != nil {
		t.Fatal(err)
	}
	runTool(t, "limits", "shop", "--identity", "ops").want(t, 0, "", "")
	enlistClient(t, agent, "sweets", "sweets-1", "127.0.0.1:81", page)
	runTool(t, "limits", "sweets", "--identity", "ops").want(t, 1, "", "wrong_service")
	openReflectingShop(t, "plain", 1, meshlite.WithMetricsAddress("127.0.0.1:0"))
	runTool(t, "limits", "plain", "--identity", "ops").want(t, 1, "", "it speaks plaintext alone")
}

// pageOf is the metrics address of the only instance of a service.
func pageOf(t *testing.T, service string) string {
	t.Helper()
	entries, _, err := consulClient(t).Health().Service(service, "", true, nil)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d instances of %s, %v", len(entries), service, err)
	}
	return entries[0].Service.Meta["metrics_address"]
}

// addressOf is where the only instance of a service listens.
func addressOf(t *testing.T, service string) string {
	t.Helper()
	entries, _, err := consulClient(t).Health().Service(service, "", true, nil)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d instances of %s, %v", len(entries), service, err)
	}
	return net.JoinHostPort(entries[0].Service.Address, strconv.Itoa(entries[0].Service.Port))
}

// rootsFile has the roots of Consul's CA.
func rootsFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "roots.pem")
	roots, _, err := consulClient(t).Agent().ConnectCARoots(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(roots.Roots[0].RootCertPEM), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Files of a service's certificate are verified as the library does: by SPIFFE ids.
func TestCommandsCallByTheFilesOfAService(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1, meshlite.WithTransportCredentials(asService(t, "catalog")))
	leaf, _, err := consulClient(t).Agent().ConnectCALeaf("web", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"tls.crt": leaf.CertPEM, "tls.key": leaf.PrivateKeyPEM} {
		if block, _ := pem.Decode([]byte(text)); block == nil {
			t.Fatalf("%s is no PEM", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{"--cert", filepath.Join(dir, "tls.crt"), "--key", filepath.Join(dir, "tls.key"), "--cacert", rootsFile(t)}
	runTool(t, append([]string{"call", "consul:///catalog", "sweetshop.catalog.v1.CatalogService/GetSweet"}, files...)...).want(t, 0, "{", "")
	runTool(t, append([]string{"check"}, files...)...).want(t, 0, "SERVING in", "")
	runTool(t, append([]string{"probe", "--servername", "catalog", addressOf(t, "catalog")}, files...)...).want(t, 0, "SERVING", "")
	runTool(t, append([]string{"probe", "--servername", "prices", addressOf(t, "catalog")}, files...)...).want(t, 1, "", "wrong_service")
}

// certs shows who each service is, until when and by which roots, and fails when one is close
// to its end.
func TestCerts(t *testing.T) {
	for name, open := range map[string]func(*testing.T){"stand-in": func(t *testing.T) { openAgent(t) }, "consul": func(t *testing.T) { openConsul(t) }} {
		t.Run(name, func(t *testing.T) {
			open(t)
			r := runTool(t, "certs", "catalog", "web")
			r.want(t, 0, "✓ catalog: until ", "")
			r.want(t, 0, "/ns/default/dc/dc1/svc/catalog\n", "")
			r.want(t, 0, "(signed it): until ", "")
			runTool(t, "certs", "we b").want(t, 1, "✗ we b: no certificate\n", "1 of 1 certificates are not good")
			var output struct {
				Certificates []struct {
					Service, ID, Result string
					DaysLeft            float64 `json:"days_left"`
					Roots               []struct{ Signed bool }
				}
			}
			r = runTool(t, "certs", "catalog", "-o", "json")
			if err := json.Unmarshal([]byte(r.out), &output); err != nil || len(output.Certificates) != 1 || output.Certificates[0].DaysLeft <= 0 || !output.Certificates[0].Roots[0].Signed {
				t.Errorf("%v: %s", err, r.out)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		openAgent(t)
		runTool(t, "certs").want(t, 1, "", "has no service: name those")
		runTool(t, "certs", "catalog", "--http-addr", closedPort(t)).want(t, 1, "refused the connection", "1 of 1 certificates are not good")
	})
}

// Consul's own checks cannot call a server that demands certificates, over TLS or not: the
// agent has none of the mesh. check says so, with what to set instead; what meshlite.NewServer
// registers works.
func TestCheckOfConsulsOwnChecksWithMutualTLS(t *testing.T) {
	openConsul(t)
	server := grpc.NewServer(grpc.Creds(asService(t, "prices")))
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	host, port := splitAddress(t, serveGRPC(t, server))
	agent := consulClient(t)
	for id, overTLS := range map[string]bool{"plain": false, "tls": true} {
		check := &api.AgentServiceCheck{GRPC: net.JoinHostPort(host, strconv.Itoa(port)), GRPCUseTLS: overTLS, TLSSkipVerify: true, Interval: "200ms", Timeout: "2s", Status: "passing"}
		if err := agent.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: id, Address: host, Port: port, Check: check}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"plain", "tls"} { // what the agent says of it depends on which end is first
		eventually(t, func() bool {
			checks, _, err := agent.Health().Checks(id, nil)
			return err == nil && len(checks) == 1 && checks[0].Status == "critical" && checks[0].Output != ""
		})
		r := runTool(t, "check", id, "--identity", "web", "--servername", "prices")
		r.want(t, 1, "meshlite.WithHealthListener", "")
	}
	for service, option := range map[string]meshlite.ServerOption{"catalog": meshlite.WithMetricsAddress(""), "inventory": meshlite.WithHealthListener("")} {
		openShop(t, service, 1, meshlite.WithTransportCredentials(asService(t, service)), option)
		runTool(t, "check", service, "--identity", "web").want(t, 0, "SERVING in", "") // openShop waits for Consul
	}
}
