package shop

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/hosts"
)

// process is a child process. It is waited for from its start on.
type process struct {
	cmd    *exec.Cmd
	output *child.Tail
	done   chan struct{} // closed when it has ended and all its output is there
}

// startProcess runs the program at path on a host in a process group of its own, so that
// ctrl-C at a terminal reaches it through its owner only.
func startProcess(host *hosts.Host, path string, args, env []string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), output: &child.Tail{}, done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = child.OwnGroup()
	// A grandchild that holds the pipe must not hold us.
	p.cmd.WaitDelay = time.Second
	if err := host.Do(p.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	return p, nil
}

// signal is nothing to a process that has ended.
func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end, kills it when it takes longer than patience, and
// waits for it.
func (p *process) stop(patience time.Duration) {
	_ = p.signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	_ = p.signal(syscall.SIGKILL)
	<-p.done
}
