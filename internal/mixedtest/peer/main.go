// Command peer asks the catalog for one sweet as a program would that keeps snapshots on
// disk and answers in Redis, and prints what came of it as JSON. It is built from two trees,
// so it uses only what both have: what outlives a process is to be read by another release.
//
//	peer -snapshots DIR -redis redis://127.0.0.1:6379
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// patience is for one call, and for the connection to Redis.
const patience = 10 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

// run makes one call, or invalidates the answers of its method.
func run() (err error) {
	snapshots := flag.String("snapshots", "", "keep the catalog's instances in this `folder`")
	url := flag.String("redis", "", "keep answers in the Redis at this `URL`")
	invalidate := flag.Bool("invalidate", false, "invalidate what is kept of the method instead of calling it")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	ttl := "1h"
	options := []meshlite.ClientOption{meshlite.WithPlaintext(), meshlite.WithPolicy(&policyv1.ServicePolicy{
		Default: &policyv1.MethodPolicy{Timeout: proto.String("5s"), Cache: &policyv1.CacheRule{Ttl: &ttl}},
	})}
	if *snapshots != "" {
		dir, err := snapshot.Open(*snapshots)
		if err != nil {
			return err
		}
		options = append(options, meshlite.WithResolver(resolver.WithSnapshots(dir)))
	}
	if *url != "" {
		answers, closeAll, err := openCache(ctx, *url)
		if err != nil {
			return err
		}
		defer closeAll()
		if *invalidate {
			subject := cache.Method(catalogv1.CatalogService_GetSweet_FullMethodName)
			return answers.Invalidate(ctx, subject)
		}
		options = append(options, meshlite.WithCache(answers))
	}
	return call(ctx, options)
}

// openCache opens a cache on a Redis that it waits for.
func openCache(ctx context.Context, url string) (_ *cache.Cache, closeAll func(), err error) {
	shared, err := redis.New(redis.WithURL(url))
	if err != nil {
		return nil, nil, err
	}
	answers, err := cache.New(cache.WithStore(shared))
	if err != nil {
		shared.Close()
		return nil, nil, err
	}
	for !shared.Stats().Connected && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return answers, func() { answers.Close(); shared.Close() }, ctx.Err()
}

// call prints {"code": "OK", "sweet": {...}}, or the code of the failure.
func call(ctx context.Context, options []meshlite.ClientOption) error {
	conn, err := meshlite.NewClient("consul:///catalog", options...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
	result := struct {
		Code  string          `json:"code"`
		Error string          `json:"error,omitempty"`
		Sweet json.RawMessage `json:"sweet,omitempty"`
	}{Code: status.Code(err).String()}
	if err != nil {
		result.Error = err.Error()
	} else if result.Sweet, err = protojson.Marshal(answer); err != nil {
		return errors.Join(err, conn.Close())
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(result), conn.Close())
}
