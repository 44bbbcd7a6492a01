package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/gatewaycmd"
)

func newGatewayCommand() *cobra.Command {
	cmd := gatewaycmd.Command()
	cmd.SuggestFor = []string{"edge", "proxy", "http"}
	var agent string // the completion asks the agent of the environment
	cmd.ValidArgsFunction = completeService(&agent, 100)
	return cmd
}
