//go:build unix

package child

import "syscall"

// Freeze and Thaw stop a process and let it go on.
const (
	Freeze = syscall.SIGSTOP
	Thaw   = syscall.SIGCONT
)

// KillGroup kills the child pid that was started by [OwnGroup], with its own children.
func KillGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

// Alive reports whether a process exists.
func Alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
