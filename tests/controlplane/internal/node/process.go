package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
	"k8s.io/utils/ptr"
)

// process is one run of a container's program.
type process struct {
	c    *container
	cmd  *exec.Cmd
	who  identity
	dead chan struct{} // closes when it has been reaped
	once sync.Once
	hook sync.Once // the preStop hook
}

type identity struct {
	uid, gid int
	groups   []int
}

// runProgram runs the program again and again, as the restart policy says, until the pod's end.
func (c *container) runProgram() {
	backoff := 100 * time.Millisecond
	for {
		p, err := c.startProgram()
		if err != nil {
			c.waiting("CreateContainerError", err.Error())
			if !c.pause(200 * time.Millisecond) {
				return
			}
			continue
		}
		startedAt := metav1.Now()
		probing, stopProbes := context.WithCancel(context.Background())
		c.set(func() { c.running = p })
		c.nowRunning()
		if c.isHalted() { // the pod's end came between the two
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			p.end(ctx)
			cancel()
		}
		go c.probe(probing, p)
		go func() {
			select {
			case <-c.pod.gone:
				p.kill()
			case <-p.dead:
			}
		}()
		<-p.dead
		stopProbes()
		state := terminated(p.cmd.ProcessState, startedAt)
		c.log.end()
		c.set(func() {
			c.running, c.ready, c.isStarted = nil, false, false
			c.state = v1.ContainerState{Terminated: state}
		})
		if c.isHalted() || c.pod.isEnding() || !c.restartsAfter(state.ExitCode) {
			return
		}
		if time.Since(startedAt.Time) > 10*time.Second {
			backoff = 100 * time.Millisecond
		}
		c.set(func() {
			c.last = c.state
			c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off before the next start"}}
		})
		if !c.pause(backoff) {
			c.set(func() { c.state = c.last })
			return
		}
		backoff = min(backoff*2, 10*time.Second)
		c.set(func() {
			c.restarts++
			c.previousLog, c.log = c.log, newLogBuffer()
		})
	}
}

func (c *container) restartsAfter(code int32) bool {
	policy := c.pod.object().Spec.RestartPolicy
	switch {
	case c.sidecar:
		return true
	case policy == v1.RestartPolicyNever:
		return false
	case policy == v1.RestartPolicyOnFailure || c.init:
		return code != 0
	default:
		return true
	}
}

func terminated(s *os.ProcessState, startedAt metav1.Time) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{StartedAt: startedAt, FinishedAt: metav1.Now(), Reason: "Completed"}
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		t.Signal = int32(status.Signal())
		t.ExitCode = 128 + t.Signal
	} else {
		t.ExitCode = int32(s.ExitCode())
	}
	if t.ExitCode != 0 {
		t.Reason = "Error"
	}
	return t
}

// startProgram forks the program in namespaces of its own.
func (c *container) startProgram() (*process, error) {
	ctx := context.Background()
	env, err := c.pod.environment(ctx, c.spec)
	if err != nil {
		return nil, err
	}
	dirs, err := c.pod.mountVolumes(ctx)
	if err != nil {
		return nil, err
	}
	who, err := c.identity()
	if err != nil {
		return nil, err
	}
	spec, err := c.insideSpec(env, dirs, who)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = specRead.Close() }()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		_ = specWrite.Close()
		return nil, err
	}
	defer func() { _ = errRead.Close() }()
	cmd := exec.Command("/proc/self/exe", "pod-inside")
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{specRead, errWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if spec.UserNamespace {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: who.uid, HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: who.gid, HostID: 0, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_DAC_OVERRIDE}
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		_ = specWrite.Close()
		_ = errWrite.Close()
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = outWrite, outWrite
	c.pod.agent.onMain(func() { err = startIn(cmd, c.pod.network) })
	_ = outWrite.Close()
	_ = errWrite.Close()
	if err != nil {
		_ = specWrite.Close()
		_ = outRead.Close()
		return nil, fmt.Errorf("fork: %w", err)
	}
	p := &process{c: c, cmd: cmd, who: who, dead: make(chan struct{})}
	buffer := c.log
	copied := make(chan struct{})
	go func() { defer close(copied); buffer.copyFrom(outRead); _ = outRead.Close() }()
	go func() {
		// The result is read from cmd.ProcessState after dead has closed.
		_ = cmd.Wait()
		<-copied
		close(p.dead)
	}()
	_, err = specWrite.Write(text)
	err = errors.Join(err, specWrite.Close())
	// The other end closes when the program has taken the place of the preparation.
	trouble, readErr := io.ReadAll(io.LimitReader(errRead, 4096))
	if err = errors.Join(err, readErr); err == nil && len(trouble) > 0 {
		err = errors.New(string(trouble))
	}
	if err != nil {
		p.kill()
		<-p.dead
		return nil, err
	}
	return p, nil
}

// startIn forks in the pod's network namespace; it must be called on the main thread.
func startIn(cmd *exec.Cmd, n *podNetwork) error {
	if n == nil {
		return cmd.Start()
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = cmd.Start()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("the main thread cannot go back to its network namespace: %v", back))
	}
	return err
}

// inUserNamespace says whether ids other than our own are out of reach.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return err == nil && !(len(f) == 3 && f[0] == "0" && f[2] == "4294967295")
}

// identity is the user that the security contexts ask for.
func (c *container) identity() (identity, error) {
	o := c.pod.object()
	user, group, nonRoot := c.program.User, int64(0), false
	var who identity
	if sc := o.Spec.SecurityContext; sc != nil {
		user, group, nonRoot = ptr.Deref(sc.RunAsUser, user), ptr.Deref(sc.RunAsGroup, group), ptr.Deref(sc.RunAsNonRoot, nonRoot)
		for _, g := range sc.SupplementalGroups {
			who.groups = append(who.groups, int(g))
		}
		if sc.FSGroup != nil {
			who.groups = append(who.groups, int(*sc.FSGroup))
		}
	}
	if sc := c.spec.SecurityContext; sc != nil {
		user, group, nonRoot = ptr.Deref(sc.RunAsUser, user), ptr.Deref(sc.RunAsGroup, group), ptr.Deref(sc.RunAsNonRoot, nonRoot)
	}
	who.uid, who.gid = int(user), int(group)
	if nonRoot && user == 0 {
		return who, errors.New("container has runAsNonRoot and image will run as root")
	}
	return who, nil
}

// insideSpec describes what `pod-inside` shall do.
func (c *container) insideSpec(env, dirs map[string]string, who identity) (*insideSpec, error) {
	o := c.pod.object()
	name := filepath.Base(c.program.Path)
	s := &insideSpec{
		Root: filepath.Join(c.pod.dir, "root-"+c.spec.Name), Program: c.program.Path, Names: []string{name},
		Dir: c.spec.WorkingDir, UID: who.uid, GID: who.gid, Groups: who.groups, Hostname: o.Name,
		UserNamespace: who.uid != 0 && inUserNamespace(), OwnIDs: inUserNamespace(),
		Hosts: hosts(c.pod.ip, o),
		ResolvConf: fmt.Sprintf("nameserver %[1]s\nsearch %[2]s.svc.%[3]s svc.%[3]s %[3]s\noptions ndots:5\n",
			c.pod.agent.config.Plan.Bridge().Addr(), o.Namespace, clusterDomain),
	}
	if o.Spec.HostNetwork {
		s.Hostname = o.Spec.NodeName
	}
	if short := path.Base(c.program.Name); short != name {
		s.Names = append(s.Names, short)
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"
	}
	if env["HOSTNAME"] == "" {
		env["HOSTNAME"] = s.Hostname
	}
	s.Args = expandAll(c.spec.Command, env)
	if len(s.Args) == 0 {
		s.Args = []string{"/" + name}
	}
	s.Args = append(s.Args, expandAll(c.spec.Args, env)...)
	s.Env = environ(env)
	if sc := c.spec.SecurityContext; sc != nil {
		s.ReadOnlyRoot = isTrue(sc.ReadOnlyRootFilesystem)
		s.NoNewPrivileges = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
		s.Privileged = isTrue(sc.Privileged)
		if sc.Capabilities != nil {
			for _, d := range sc.Capabilities.Drop {
				s.DropCapabilities = append(s.DropCapabilities, string(d))
			}
			for _, d := range sc.Capabilities.Add {
				s.AddCapabilities = append(s.AddCapabilities, string(d))
			}
		}
	}
	for _, m := range c.spec.VolumeMounts {
		source, ok := dirs[m.Name]
		if !ok {
			return nil, fmt.Errorf("no volume %q", m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expandAll([]string{m.SubPathExpr}, env)[0]
		}
		if sub != "" {
			source = filepath.Join(source, sub)
			if _, err := os.Stat(source); os.IsNotExist(err) {
				if err := os.MkdirAll(source, 0o777); err != nil {
					return nil, err
				}
			}
			// A key of a ConfigMap is a link into the current version.
			resolved, err := filepath.EvalSymlinks(source)
			if err != nil {
				return nil, err
			}
			source = resolved
		}
		s.Mounts = append(s.Mounts, insideMount{Source: source, Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return s, nil
}

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// hosts is the content of /etc/hosts, with the names that the pod asks for.
func hosts(ip netip.Addr, o *v1.Pod) string {
	text := &strings.Builder{}
	fmt.Fprintf(text, "127.0.0.1 localhost\n%s %s\n", ip, o.Name)
	for _, alias := range o.Spec.HostAliases {
		fmt.Fprintf(text, "%s %s\n", alias.IP, strings.Join(alias.Hostnames, " "))
	}
	return text.String()
}

// prepareEnd runs the preStop hook, once, and returns when it has ended.
func (p *process) prepareEnd(ctx context.Context) {
	p.hook.Do(func() {
		if l := p.c.spec.Lifecycle; l != nil && l.PreStop != nil {
			p.preStop(ctx, l.PreStop)
		}
	})
}

// end runs the preStop hook, sends SIGTERM, and kills when the context ends.
func (p *process) end(ctx context.Context) {
	p.once.Do(func() {
		p.prepareEnd(ctx)
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.dead:
		case <-ctx.Done():
			p.kill()
		}
	})
	<-p.dead
}

func (p *process) preStop(ctx context.Context, h *v1.LifecycleHandler) {
	var err error
	switch {
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		case <-p.dead:
		}
	case h.Exec != nil:
		err = p.exec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		var request *http.Request
		if request, err = probehttp.NewRequestForHTTPGetAction(h.HTTPGet, p.c.spec, p.c.pod.ip.String(), "lifecycle"); err == nil {
			var response *http.Response
			if response, err = http.DefaultClient.Do(request.WithContext(ctx)); err == nil {
				_ = response.Body.Close()
			}
		}
	default:
		err = errors.New("this kind of preStop hook is not known here")
	}
	if err != nil {
		logf("preStop of %s: %v", p.c.pod, err)
	}
}

// exec runs a command inside the container, in all of its namespaces and as its user.
func (p *process) exec(ctx context.Context, command []string) error {
	args := []string{"-t", strconv.Itoa(p.cmd.Process.Pid), "-m", "-n", "-p", "-i", "-u"}
	switch {
	case p.who.uid != 0 && inUserNamespace():
		args = append(args, "-U", "--preserve-credentials")
	case !inUserNamespace(): // else there is no other user to become
		args = append(args, "-S", strconv.Itoa(p.who.uid), "-G", strconv.Itoa(p.who.gid))
	}
	args = append(args, "-r", "-w", "--")
	env, err := p.c.pod.environment(ctx, p.c.spec)
	if err != nil {
		return err
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"
	}
	// An absolute path, since the PATH of the container holds no nsenter.
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, nsenter, append(args, expandAll(command, env)...)...)
	cmd.Env = environ(env)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[:min(len(out), 1024)])))
	}
	return nil
}
