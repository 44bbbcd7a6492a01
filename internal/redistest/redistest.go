// Package redistest runs Redis for the tests of the rooms that speak to it: the
// redis-server of the machine, killed, stalled and started again on order, and a
// cluster of several.
//
//	s := redistest.Start(t)
//	store, err := redis.New(redis.WithURL(s.URL()))
//	s.Kill()
package redistest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/freeport"
)

// Server is a redis-server of the machine.
type Server struct {
	t    testing.TB
	path string
	args []string
	Addr string
	cmd  *exec.Cmd
}

// Start runs redis-server on a free port of loopback until the test ends. Where
// there is none the test is skipped, or fails if CI is set.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal("no redis-server on PATH: install one, such as by `apt-get install redis-server`")
	default:
		t.Skip("SKIPPED, NOT TESTED: no redis-server on PATH: install one, such as by `apt-get install redis-server`")
	}
	s := &Server{t: t, path: path, args: args, Addr: freeport.For(t)}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// URL is where the server is.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Run starts the server again, and waits until it takes connections.
func (s *Server) Run() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	s.cmd = exec.Command(s.path, append([]string{
		"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.t.TempDir(), "--loglevel", "warning",
	}, s.args...)...)
	s.cmd.SysProcAttr = child.OwnGroup() // it must not outlive a test that is killed
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	Await(s.t, "redis-server at "+s.Addr, s.answers)
}

// answers is whether it is this server that listens at its address: a program that
// took the port first would answer otherwise.
func (s *Server) answers() bool {
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := io.WriteString(conn, "INFO server\r\n"); err != nil {
		return false
	}
	reply := make([]byte, 4<<10)
	n, _ := conn.Read(reply)
	return bytes.Contains(reply[:n], fmt.Appendf(nil, "\nprocess_id:%d\r\n", s.cmd.Process.Pid))
}

// Kill ends the server by SIGKILL.
func (s *Server) Kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// Signal freezes the server by SIGSTOP, and more.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do runs a command as an operator would.
func (s *Server) Do(args ...string) rueidis.RedisMessage {
	s.t.Helper()
	return command(s.t, s.Addr, args...)
}

func command(t testing.TB, addr string, args ...string) rueidis.RedisMessage {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	message, err := client.Do(t.Context(), client.B().Arbitrary(args...).Build()).ToMessage()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", args, err)
	}
	return message
}

// Keys are the keys in Redis that begin with prefix.
func (s *Server) Keys(prefix string) []string {
	s.t.Helper()
	message := s.Do("KEYS", prefix+"*")
	keys, err := message.AsStrSlice()
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// Cluster joins nodes that share the slots.
func Cluster(t testing.TB, nodes int) []*Server {
	t.Helper()
	all := make([]*Server, nodes)
	for i := range all {
		_, bus, _ := net.SplitHostPort(freeport.For(t))
		all[i] = Start(t, "--cluster-enabled", "yes", "--cluster-port", bus)
		all[i].Do("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*16384/nodes), fmt.Sprint((i+1)*16384/nodes-1))
		all[i].Do("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i > 0 {
			host, port, _ := net.SplitHostPort(all[0].Addr)
			all[i].Do("CLUSTER", "MEET", host, port, all[0].args[3])
		}
	}
	for _, node := range all {
		Await(t, "cluster", func() bool {
			message := node.Do("CLUSTER", "INFO")
			info, _ := message.ToString()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", nodes))
		})
	}
	return all
}

// Await waits for what is to happen soon.
func Await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
}
