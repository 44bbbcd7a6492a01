package reflectcall_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/reflectcall"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const getSweet = "sweetshop.catalog.v1.CatalogService/GetSweet"

// shop registers what a lookup is made of: a service, health, reflection.
func shop(s *grpc.Server) {
	catalogv1.RegisterCatalogServiceServer(s, catalogv1.UnimplementedCatalogServiceServer{})
	healthv1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
}

func TestLookupSays(t *testing.T) {
	conn := serve(t, shop)
	for name, says := range map[string]string{
		"sweetshop.catalog.v1.CatalogService/GetSweets": `has no method "GetSweets": it has GetSweet, `,
		"sweetshop.catalog.v1.CatalogService":           `is a service: write sweetshop.catalog.v1.CatalogService/ and one of ListSections, ListSweets, GetSweet`,
		"sweetshop.catalog.CatalogService/GetSweet":     `no service "sweetshop.catalog.CatalogService": it offers sweetshop.catalog.v1.CatalogService, grpc.health.v1.Health`,
		"sweetshop.catalog.v1.Sweet/GetSweet":           `no service "sweetshop.catalog.v1.Sweet"`, // a message
		"CatalogServce":                                 `no service "CatalogServce": it offers sweetshop.catalog.v1.CatalogService, `,
		"a..b/GetSweet":                                 `method "a..b/GetSweet": write package.Service/Method, or package.Service to list its methods`,
	} {
		_, err := reflectcall.Lookup(t.Context(), conn, name)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Lookup(%q): got %v, want an error with %q", name, err, says)
		}
	}
}

func TestLookupOfAServerThatSendsOneFileAtATime(t *testing.T) {
	server := &frugal{}
	conn := serve(t, func(s *grpc.Server) { reflectionv1.RegisterServerReflectionServer(s, server) })
	method, err := reflectcall.Lookup(t.Context(), conn, getSweet)
	if err != nil {
		t.Fatal(err)
	}
	if method.Name() != getSweet || method.FullMethod() != "/"+getSweet {
		t.Errorf("got %q and %q", method.Name(), method.FullMethod())
	}
	want := []string{"sweetshop.catalog.v1.CatalogService", "meshlite/policy/v1/policy.proto", "google/protobuf/descriptor.proto"}
	if !slices.Equal(server.asked, want) {
		t.Errorf("asked %q, want %q: each once", server.asked, want)
	}
}

// Servers older than 2023 know only the alpha version.
func TestLookupOfAnOldServer(t *testing.T) {
	conn := serve(t, func(s *grpc.Server) {
		catalogv1.RegisterCatalogServiceServer(s, catalogv1.UnimplementedCatalogServiceServer{})
		reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(reflection.ServerOptions{Services: s}))
	})
	if _, err := reflectcall.Lookup(t.Context(), conn, getSweet); err != nil {
		t.Error(err)
	}
}

func TestLookupFails(t *testing.T) {
	for name, test := range map[string]struct {
		register func(*grpc.Server)
		code     codes.Code
		says     string
	}{
		"an import is missing": {func(s *grpc.Server) {
			reflectionv1.RegisterServerReflectionServer(s, &frugal{lacks: "meshlite/policy/v1/policy.proto"})
		}, codes.Internal, `imports "meshlite/policy/v1/policy.proto": no such thing`},
		"imports without end": {func(s *grpc.Server) {
			reflectionv1.RegisterServerReflectionServer(s, &frugal{spam: true})
		}, codes.Internal, "larger than 4096 files or 64 MiB"},
		"the server ends the stream": {func(s *grpc.Server) {
			reflectionv1.RegisterServerReflectionServer(s, quitter{})
		}, codes.Internal, "ended the reflection stream without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := reflectcall.Lookup(ctx, serve(t, test.register), getSweet)
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %v with %q", err, test.code, test.says)
			}
		})
	}
}

type quitter struct {
	reflectionv1.UnimplementedServerReflectionServer
}

func (quitter) ServerReflectionInfo(grpc.BidiStreamingServer[reflectionv1.ServerReflectionRequest, reflectionv1.ServerReflectionResponse]) error {
	return nil
}
