// Command onecall runs single calls of a client and a server in one process and writes
// which code each of them ran, for the house's measure of what a reader of one call
// meets. Build it with -cover -covermode=atomic -coverpkg over the module.
//
//	onecall DIR
//
// It writes coverage data to DIR/miss, DIR/hit and DIR/server: a unary call whose answer
// is not cached, the same call again, and a call of a plain grpc-go client.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/coverage"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/services/catalog"
)

// quiet is how long nothing else may run before a call is measured: registration and
// connections have settled, and no heartbeat is due.
const quiet = 300 * time.Millisecond

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: onecall DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "onecall:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	agent := consultest.New()
	defer agent.Close()
	consulAddress, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	directory, err := consul.New(consul.Config{Address: consulAddress, Heartbeat: time.Minute, Logger: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	common := meshlite.Options{meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(log)}

	address, ended, err := serve(ctx, common)
	if err != nil {
		return err
	}
	defer func() { stop(); <-ended }()
	conn, err := meshlite.NewClient("consul:///catalog", common)
	if err != nil {
		return err
	}
	defer conn.Close()
	plain, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer plain.Close()
	for _, c := range []struct {
		name, sweet string
		warm        string // another sweet, so that what is made once per method is made
		conn        *grpc.ClientConn
	}{
		{"miss", "lemon-sherbet", "aniseed-balls", conn},
		{"hit", "lemon-sherbet", "lemon-sherbet", conn},
		{"server", "lemon-sherbet", "aniseed-balls", plain},
	} {
		if err := measure(ctx, filepath.Join(dir, c.name), c.conn, c.warm, c.sweet); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// serve runs the catalog until ctx ends.
func serve(ctx context.Context, common meshlite.Options) (address string, ended chan error, err error) {
	if address, err = freeport.Address(); err != nil {
		return "", nil, err
	}
	server, err := meshlite.NewServer("catalog", common, meshlite.WithDrain(0, time.Second), meshlite.WithListenAddress(address))
	if err != nil {
		return "", nil, err
	}
	sweets, err := catalog.New()
	if err != nil {
		return "", nil, err
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets)
	ended = make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	return address, ended, nil
}

// measure makes one call after another and writes what the second one ran.
func measure(ctx context.Context, dir string, conn *grpc.ClientConn, warm, sweet string) error {
	client := catalogv1.NewCatalogServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: warm}, grpc.WaitForReady(true)); err != nil {
		return err
	}
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
	time.Sleep(quiet)
	if err := coverage.ClearCounters(); err != nil {
		return err
	}
	if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: sweet}); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := coverage.WriteMetaDir(dir); err != nil {
		return err
	}
	return coverage.WriteCountersDir(dir)
}
