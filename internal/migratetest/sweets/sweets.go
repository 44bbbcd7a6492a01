// Package sweets is what the programs have in common, whatever they are built with: the
// service that they serve, and how they call it.
package sweets

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// Server answers with the name of the instance, which is in the environment.
type Server struct {
	catalogv1.UnimplementedCatalogServiceServer
}

// GetSweet implements the contract.
func (Server) GetSweet(_ context.Context, in *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: in.GetId(), Description: os.Getenv("INSTANCE")}}, nil
}

// Main serves or, with the argument "call", calls until its input ends.
func Main(serve func() error, dial func() (*grpc.ClientConn, error)) {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		if err := serve(); err != nil {
			log.Fatal(err)
		}
		return
	}
	conn, err := dial()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if err := call(conn, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// Counts are of all calls of a process so far.
type Counts struct {
	Calls, Failed int
	LastError     string
	Answers       map[string]int // by the name of the instance
}

// call calls every 5 ms, each call with ten seconds to end, and writes Counts ten times a
// second, and when in ends.
func call(conn grpc.ClientConnInterface, in io.Reader, out io.Writer) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	client := catalogv1.NewCatalogServiceClient(conn)
	counts, report := Counts{Answers: map[string]int{}}, json.NewEncoder(out)
	calls, reports := time.NewTicker(5*time.Millisecond), time.NewTicker(100*time.Millisecond)
	defer calls.Stop()
	defer reports.Stop()
	for {
		select {
		case <-calls.C:
			counts.add(getSweet(client))
		case <-reports.C:
			if err := report.Encode(counts); err != nil {
				return err
			}
		case <-ended:
			return report.Encode(counts)
		}
	}
}

func getSweet(client catalogv1.CatalogServiceClient) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "fudge"})
	return answer.GetSweet().GetDescription(), err
}

func (c *Counts) add(instance string, err error) {
	c.Calls++
	if err != nil {
		c.Failed++
		c.LastError = err.Error()
		return
	}
	c.Answers[instance]++
}
