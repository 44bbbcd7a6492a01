//go:build !linux

package hosts

import (
	"errors"
	"runtime"
)

func newHost(byte) (*Host, error) { return nil, errors.New("this is " + runtime.GOOS) }

func (h *Host) do(func() error) error { return ErrUnsupported }
