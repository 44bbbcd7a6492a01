package child

import "syscall"

// OwnGroup keeps ctrl-C at a terminal from reaching a child by itself, and ends
// the child when we die without having stopped it.
func OwnGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
