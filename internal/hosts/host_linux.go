package hosts

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const device = "mesh0"

func newHost(number byte) (*Host, error) {
	h := &Host{number: number}
	if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, h.setUp); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *Host) do(f func() error) error {
	return onThread(func() error { return unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET) }, f)
}

// onThread runs f on a thread that enter has moved to another namespace, and moves it back. A
// thread that cannot go back ends with its goroutine.
func onThread(enter, f func() error) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			failed <- err
			return
		}
		defer own.Close()
		if err = enter(); err == nil {
			err = f()
		}
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		failed <- err
	}()
	return <-failed
}

// setUp runs in the new namespace.
func (h *Host) setUp() (err error) {
	if h.namespace, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := raise(socket, "lo"); err != nil {
		return err
	}
	if h.device, err = openDevice(); err != nil {
		return err
	}
	// In this order: the mask and the flag make the route to all hosts.
	for _, set := range []struct {
		request uint
		address [4]byte
	}{{unix.SIOCSIFADDR, [4]byte{10, 66, 0, h.number}}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}}} {
		ask, err := unix.NewIfreq(device)
		if err != nil {
			return err
		}
		if err := ask.SetInet4Addr(set.address[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(socket, set.request, ask); err != nil {
			return fmt.Errorf("address of %s: %w", device, err)
		}
	}
	return raise(socket, device)
}

// raise turns an interface on.
func raise(socket int, name string) error {
	ask, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, ask); err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	ask.SetUint16(ask.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, ask); err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	return nil
}

// openDevice makes the interface of which this process is the other end.
func openDevice() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ask, err := unix.NewIfreq(device)
	if err == nil {
		ask.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ask)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("TUN device: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil // after its interface is set, to be polled
}
