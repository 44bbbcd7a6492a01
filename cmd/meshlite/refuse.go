package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/nearest"
)

// flagError returns what to write instead of a value that a flag does not accept.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return unknownFlag(cmd, unknown)
	}
	if !errors.As(err, &invalid) {
		return cli.Usagef("%w: see %s --help", err, cmd.CommandPath())
	}
	flag := invalid.GetFlag()
	fix := "write " + flag.Value.Type()
	switch flag.Value.Type() {
	case "int":
		fix = "write a whole number"
	case "duration":
		fix = "write a duration, such as 5s or 2m"
	case "bool":
		fix = "write true or false, or the flag alone"
	case "text|json":
		fix = "write text or json"
	}
	return cli.Usagef("--%s %q: %s", flag.Name, invalid.GetValue(), fix)
}

// unknownFlag names the flags that may be meant.
func unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	likely := nearest.Names(err.GetSpecifiedName(), names)
	if len(likely) == 0 || err.GetSpecifiedShortnames() != "" {
		return cli.Usagef("%w: see %s --help", err, cmd.CommandPath())
	}
	return cli.Usagef("%w: is it --%s?", err, strings.Join(likely, ", --"))
}

// noCommand refuses what is no command, naming the ones that may be meant.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names, likely []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
		if c.IsAvailableCommand() && slices.Contains(c.SuggestFor, args[0]) {
			likely = append(likely, c.Name())
		}
	}
	likely = append(likely, nearest.Names(args[0], names)...)
	if len(likely) == 0 {
		likely = names
	}
	return cli.Usagef("%q is not a command of %s: write %s", args[0], cmd.CommandPath(), strings.Join(likely, ", "))
}

// noArguments is for commands that take none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return cli.Usagef("argument %q is not expected: see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}

// refuseUnknownTopics makes an error of "help junk" and "completion junk", which
// cobra answers with help and success.
func refuseUnknownTopics(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if topic, _, err := root.Find(args); err != nil || topic == root {
					return noCommand(root, args)
				}
				return nil
			}
		case "completion":
			cmd.Args = noCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}
