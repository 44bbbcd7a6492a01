//go:build unix

package benchkit

import (
	"syscall"
	"time"
)

// UsedCPU is the CPU time of this process until now.
func UsedCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it fails for arguments that are wrong, and these are not
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
