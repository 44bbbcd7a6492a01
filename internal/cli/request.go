package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxRequest bounds what is read: gRPC servers take 4 MiB by default.
const maxRequest = 16 << 20

// noFields is the request when none was given.
const noFields = "{}"

// readRequest reads the JSON that data is, or the file that "@file" names, or the
// input for "-".
func readRequest(ctx context.Context, data string, in io.Reader) ([]byte, error) {
	switch {
	case data == "-" || data == "@": // "@" is what grpcurl takes
		return readInput(ctx, in)
	case strings.HasPrefix(data, "@"):
		file, err := os.Open(data[1:])
		if err != nil {
			return nil, Usagef("-d: %w", err)
		}
		defer file.Close()
		return readAll(data, file)
	default:
		return notEmpty(data, []byte(data))
	}
}

// readInput gives up waiting when ctx ends. The read itself cannot be called off
// from a terminal: its goroutine ends with the input or the process.
func readInput(ctx context.Context, in io.Reader) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := readAll("-", in)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func readAll(name string, from io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxRequest+1))
	if err != nil {
		return nil, fmt.Errorf("-d %s: %w", name, err)
	}
	if len(text) > maxRequest {
		return nil, Usagef("-d %s: more than %d MiB: gRPC servers take 4 MiB by default", name, maxRequest>>20)
	}
	return notEmpty(name, text)
}

// notEmpty refuses what is mostly a variable or a file that was not filled.
func notEmpty(name string, text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, Usagef("-d %q: the request is empty: write {} for one without fields, or leave -d out", name)
	}
	return text, nil
}
