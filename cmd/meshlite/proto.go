package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newProtoCommand() *cobra.Command {
	var o cli.ProtoOptions
	cmd := &cobra.Command{
		Use:   "proto",
		Short: "Print the contract of call policies, to import it into yours",
		Long: `Print meshlite/policy/v1/policy.proto, or write it below the folder of your own
contracts, which then import "meshlite/policy/v1/policy.proto". Leave it out of code
generation: its Go code is in meshlite, and a second copy would panic at start.`,
		Example: `  meshlite proto
  meshlite proto --dir proto`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Format = outputOf(cmd)
			return cli.Proto(o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "write to `folder`/meshlite/policy/v1/policy.proto")
	f.BoolVar(&o.Force, "force", false, "overwrite a file that is different")
	if err := cmd.MarkFlagDirname("dir"); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
