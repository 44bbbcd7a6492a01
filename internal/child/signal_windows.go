package child

import (
	"os"
	"syscall"
)

// OwnGroup keeps ctrl-C at a console from reaching a child by itself.
func OwnGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// Freeze and Thaw have no meaning on Windows: sending one is an error there.
const (
	Freeze = syscall.Signal(19)
	Thaw   = syscall.Signal(18)
)

// KillGroup kills the child pid, without its own children.
func KillGroup(pid int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return process.Kill()
}

// Alive reports whether a process exists.
func Alive(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	return process.Release() == nil
}
