package benchkit

import (
	"syscall"
	"time"
)

// UsedCPU is the CPU time of this process until now.
func UsedCPU() time.Duration {
	self, err := syscall.GetCurrentProcess()
	if err != nil {
		panic(err)
	}
	var created, exited, kernel, user syscall.Filetime
	if err := syscall.GetProcessTimes(self, &created, &exited, &kernel, &user); err != nil {
		panic(err) // it fails for arguments that are wrong, and these are not
	}
	return ticks(kernel) + ticks(user)
}

// ticks are of 100 ns.
func ticks(t syscall.Filetime) time.Duration {
	return time.Duration(int64(t.HighDateTime)<<32|int64(t.LowDateTime)) * 100
}
