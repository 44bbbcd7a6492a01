package cli_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func ExampleReport() {
	ctx := context.Background()
	fmt.Println(cli.Report(ctx, nil, os.Stdout))
	fmt.Println(cli.Report(ctx, errors.New("nobody answered"), os.Stdout))
	fmt.Println(cli.Report(ctx, cli.Usagef("--color %q: write always or never", "blue"), os.Stdout))
	// Output:
	// 0
	// meshlite: nobody answered
	// 1
	// meshlite: --color "blue": write always or never
	// 2
}
