// Before the move: go-zero, with the registry of Consul of zero-contrib.
package main

import (
	"fmt"
	"os"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	"github.com/meshlite-go/meshlite/internal/migratetest/zeroconsul"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func main() { sweets.Main(serve, dial) }

type config struct {
	zrpc.RpcServerConf
	Consul zeroconsul.Conf
}

const settings = `
Name: catalog
ListenOn: ${LISTEN}
Consul:
  Host: ${CONSUL_HTTP_ADDR}
  Key: catalog
`

func serve() error {
	var c config
	if err := conf.LoadFromYamlBytes([]byte(os.ExpandEnv(settings)), &c); err != nil {
		return err
	}
	server, err := zrpc.NewServer(c.RpcServerConf, func(s *grpc.Server) {
		catalogv1.RegisterCatalogServiceServer(s, sweets.Server{})
	})
	if err != nil {
		return err
	}
	if err := zeroconsul.RegisterService(c.ListenOn, c.Consul); err != nil {
		return err
	}
	server.Start()
	return nil
}

func dial() (*grpc.ClientConn, error) {
	target := fmt.Sprintf("consul://%s/catalog?healthy=true", os.Getenv("CONSUL_HTTP_ADDR"))
	client, err := zrpc.NewClientWithTarget(target)
	if err != nil {
		return nil, err
	}
	return client.Conn(), nil
}
