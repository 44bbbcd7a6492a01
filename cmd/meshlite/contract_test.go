package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// openGreeter runs a server as the README's, without reflection, whose contract this
// program does not have, and is the .proto file of it.
func openGreeter(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "proto", "greet", "v1", "greet.proto")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := `syntax = "proto3";
package greet.v1;
import "meshlite/policy/v1/policy.proto";
service GreetService {
  rpc Greet(GreetRequest) returns (GreetResponse) { option (meshlite.policy.v1.method) = {timeout: "2s"}; }
  rpc Watch(GreetRequest) returns (stream GreetResponse);
}
message GreetRequest { string name = 1; }
message GreetResponse { Greeting greeting = 1; }
message Greeting { string text = 1; }
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	openShop(t, "greet", 1, meshlite.WithServerOptions(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); method != "/greet.v1.GreetService/Greet" {
			return status.Error(codes.Unimplemented, "unknown")
		}
		request := &catalogv1.GetSweetRequest{} // of one string, too
		if err := stream.RecvMsg(request); err != nil {
			return err
		}
		return stream.SendMsg(&catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: "hello " + request.GetId()}})
	})))
	return file
}

func TestCallOfAServerWithoutReflection(t *testing.T) {
	openAgent(t)
	file := openGreeter(t)
	const target, greet = "consul:///greet", "greet.v1.GreetService/Greet"
	dir := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	for name, test := range map[string]struct {
		args     []string
		code     int
		out, err string
	}{
		"health":                     {[]string{target, "grpc.health.v1.Health/Check"}, 0, `"status": "SERVING"`, ""},
		"its health's methods":       {[]string{target, "grpc.health.v1.Health"}, 0, "grpc.health.v1.Health/Watch  service    stream of ", ""},
		"a source":                   {[]string{target, greet, "--proto", file, "-d", `{"name": "ada"}`}, 0, `"text": "hello ada"`, "OK from greet-"},
		"a source below a folder":    {[]string{target, greet, "--proto", "greet/v1/greet.proto", "--proto-path", dir, "-d", `{"name": "ada"}`}, 0, `"text": "hello ada"`, ""},
		"its services":               {[]string{target, "--proto", file}, 0, "greet.v1.GreetService\n", ""},
		"its methods":                {[]string{target, "greet.v1.GreetService", "--proto", file}, 0, "greet.v1.GreetService/Greet  name     greet.v1.GreetResponse\n", ""},
		"often":                      {[]string{target, greet, "--proto", file, "-n", "10", "-c", "2"}, 0, " 10 ", "10 calls in "},
		"neither":                    {[]string{target, greet}, 1, "", "consul:///greet: the server does not answer reflection: name its contract by --proto or --descriptor-set, or let it call reflection.Register(server.GRPC()); grpc.health.v1.Health/Check needs neither"},
		"no list":                    {[]string{target}, 1, "", "the server does not answer reflection: name its contract by --proto"},
		"another service":            {[]string{target, "greet.v1.Gret/Greet", "--proto", file}, 1, "", `the files that were given have no service "greet.v1.Gret": they have greet.v1.GreetService`},
		"a field that it lacks":      {[]string{target, greet, "--proto", file, "-d", `{"nam": "ada"}`}, 2, "", `unknown field "nam" (GreetRequest has name)`},
		"a service that is called":   {[]string{target, "greet.v1.GreetService", "--proto", file, "-n", "3"}, 1, "", `"greet.v1.GreetService" is a service: write greet.v1.GreetService/ and one of Greet, Watch`},
		"a method, and a typo in it": {[]string{target, greet + "s", "--proto", file}, 1, "", `has no method "Greets": it has Greet, Watch`},
	} {
		t.Run(name, func(t *testing.T) {
			r := call(t, test.args...)
			r.want(t, test.code, test.out, test.err)
			if r.code != 0 && strings.Count(r.err, "\n") != 1 {
				t.Errorf("stderr %q, want one line", r.err)
			}
		})
	}
}

func TestListsOfAServerWithReflection(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	const service = "sweetshop.catalog.v1.CatalogService"
	r := call(t, "consul:///catalog")
	r.want(t, 0, "\n"+service+"\n", "")
	if !strings.HasPrefix(r.out, "grpc.health.v1.Health\n") || strings.Contains(r.out, " ") {
		t.Errorf("got %s, want a name a line", r.out)
	}
	for _, name := range []string{service, service + "/", "/" + service} {
		call(t, "consul:///catalog", name).want(t, 0, service+"/ListSweets    section, pageSize, pageToken  sweetshop.catalog.v1.ListSweetsResponse\n", "")
	}
	call(t, "consul:///catalog", "CatalogServce").want(t, 1, "", `no service "CatalogServce": it offers `+service)

	var services struct{ Services []string }
	if err := json.Unmarshal([]byte(call(t, "consul:///catalog", "-o", "json").out), &services); err != nil || len(services.Services) < 3 {
		t.Errorf("got %v, %v", services, err)
	}
	var methods struct {
		Service string
		Methods []struct {
			Method, Request, Response string
			Fields                    []string `json:"request_fields"`
			Client                    bool     `json:"client_streaming"`
			Server                    bool     `json:"server_streaming"`
		}
	}
	out := call(t, "consul:///catalog", "grpc.health.v1.Health", "-o", "json").out
	if err := json.Unmarshal([]byte(out), &methods); err != nil || methods.Service != "grpc.health.v1.Health" {
		t.Fatalf("got %s, %v", out, err)
	}
	for _, m := range methods.Methods {
		if m.Server != (m.Method == "grpc.health.v1.Health/Watch") || m.Client || m.Fields == nil || !strings.HasPrefix(m.Request, "grpc.health.v1.") {
			t.Errorf("got %+v", m)
		}
	}
}

// A server that cannot be reached is no server without reflection, whatever files are given.
func TestFilesDoNotHideThatNobodyListens(t *testing.T) {
	openAgent(t)
	file := openGreeter(t)
	for _, args := range [][]string{{"127.0.0.1:1", "greet.v1.GreetService/Greet"}, {"127.0.0.1:1"}} {
		call(t, append(args, "--proto", file)...).want(t, 1, "", "connection refused\": is a server running there?")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	call(t, silent.Addr().String(), "--timeout", "100ms").want(t, 1, "", "is --timeout 100ms enough?")
}
