//go:build unix && !linux

package child

import "syscall"

// OwnGroup keeps ctrl-C at a terminal from reaching a child by itself.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
