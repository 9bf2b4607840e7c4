// Package netns makes network namespaces, as root or not, by system calls alone: neither `ip` nor `unshare` is needed.
package netns

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tidegate.dev/controlplane/internal/addr"
)

// Usage is the help text of the command.
const Usage = "usage: controlplane netns [--cidrs A/N,B/N] -- COMMAND [ARGUMENT…]"

// Main runs `controlplane netns [--cidrs …] -- COMMAND`: COMMAND in a namespace of its own, in which every address of
// the ranges is local. It must be called on the locked main thread. The result is the exit code of COMMAND.
func Main(args []string) int {
	flags := flag.NewFlagSet("netns", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, Usage); flags.PrintDefaults() }
	cidrs := flags.String("cidrs", joinPrefixes(addr.Local), "ranges that become local, separated by commas")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	command := flags.Args()
	if len(command) == 0 {
		fmt.Fprintln(os.Stderr, Usage)
		return 2
	}
	for _, c := range strings.Split(*cidrs, ",") {
		if _, err := netip.ParsePrefix(c); err != nil {
			fmt.Fprintf(os.Stderr, "controlplane netns: --cidrs: %v\n", err)
			return 2
		}
	}
	cmd := Command(*cidrs, command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane netns:", Explain(err))
		return 1
	}
	return Forward(cmd)
}

// Command is a command that runs inside a new namespace. The caller may set its streams before it starts it.
func Command(cidrs string, command []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"netns-inside", cidrs}, command...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// Explain adds to an error of Command's start what a person can do about it.
func Explain(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("no permission to make a network namespace (%w): be root, or allow user namespaces "+
			"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)
	}
	return err
}

// Forward waits for a started command, hands it the signals that end a program, and returns its exit code; 128 and the
// signal's number if a signal ended it.
func Forward(cmd *exec.Cmd) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "controlplane netns:", err)
		return 1
	}
}

// Inside is the first thing that runs in the new namespace: it makes the ranges local and becomes the command.
func Inside(args []string) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, Usage)
		return 2
	}
	if err := setUp(strings.Split(args[0], ",")); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane netns:", err)
		return 1
	}
	path, err := exec.LookPath(args[1])
	if err == nil {
		err = syscall.Exec(path, args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "controlplane netns:", err)
	return 127
}

func setUp(cidrs []string) error {
	if err := LoopbackUp(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, c := range cidrs {
		_, dst, err := net.ParseCIDR(c)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("make %s local: %w", c, err)
		}
	}
	return nil
}

// LoopbackUp starts the loopback device of the calling thread's namespace.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("start lo: %w", err)
	}
	return nil
}

// AreLocal says whether the cluster's addresses can be bound here.
func AreLocal() bool {
	for _, p := range addr.Local {
		l, err := net.Listen("tcp", net.JoinHostPort(p.Addr().Next().String(), "0"))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// New makes an empty namespace with its loopback device up. It lives as long as the file is open or a process is in it.
func New() (*os.File, error) {
	var file *os.File
	err := onThrowawayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return Explain(err)
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			return err
		}
		if err := LoopbackUp(); err != nil {
			_ = f.Close()
			return err
		}
		file = f
		return nil
	})
	return file, err
}

// Do runs f on a thread inside the namespace. Sockets that f opens belong to the namespace for good.
func Do(ns *os.File, f func() error) error {
	return onThrowawayThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the namespace: %w", err)
		}
		return f()
	})
}

// onThrowawayThread runs f on a thread that dies afterwards, since the thread is no longer in the process's namespace.
func onThrowawayThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
		// Ending a goroutine that is still locked ends its thread.
	}()
	return <-result
}

func joinPrefixes(prefixes []netip.Prefix) string {
	var s []string
	for _, p := range prefixes {
		s = append(s, p.String())
	}
	return strings.Join(s, ",")
}

// DefaultCIDRs are the ranges of a cluster as `--cidrs` takes them.
func DefaultCIDRs() string { return joinPrefixes(addr.Local) }
