// Package child has what is common to running other programs: a process group
// of their own, an end together with ours, and the last of what they write.
//
//	cmd.SysProcAttr = child.OwnGroup()
//	cmd.Stdout, cmd.Stderr = tail, tail
package child
