package supervisor

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"tidegate.dev/controlplane/internal/addr"
	"tidegate.dev/controlplane/internal/images"
	"tidegate.dev/controlplane/internal/netns"
)

// outerListener names the environment variable with the number of the descriptor on which the API server is reached
// from outside of the namespace that `up` made for itself.
const outerListener = "TIDEGATE_CONTROLPLANE_OUTER"

type options struct {
	dir, apiserverArgs, kcmArgs, nodeArgs, controllers string
	nodes, port                                        int
	timeout                                            time.Duration
	ignoreStdin                                        bool
	images                                             stringList
}

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, " ") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "", "keep the logs in this folder (default: a temporary folder that is removed)")
	flags.IntVar(&o.nodes, "nodes", 3, "number of nodes; 0 starts no node part and needs no network namespace")
	flags.IntVar(&o.port, "port", 0, "port of the API server on 127.0.0.1; 0 is any free one")
	flags.StringVar(&o.controllers, "controllers", DefaultControllers, "controllers of kube-controller-manager")
	flags.StringVar(&o.apiserverArgs, "apiserver-args", "", "further flags of kube-apiserver, separated by spaces")
	flags.StringVar(&o.kcmArgs, "kcm-args", "", "further flags of kube-controller-manager, separated by spaces")
	flags.StringVar(&o.nodeArgs, "node-args", "", "further flags of the fake node, separated by spaces")
	flags.Var(&o.images, "image", "NAME[:TAG]=PATH[,user=UID]: containers of this image run the local program (may be repeated)")
	flags.DurationVar(&o.timeout, "timeout", 3*time.Minute, "time in which the cluster must be ready")
	flags.BoolVar(&o.ignoreStdin, "ignore-stdin", false, "take no commands and do not end with standard input")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.nodes < 0 || o.nodes > addr.MaxNodes {
		return nil, fmt.Errorf("--nodes %d is not in 0–%d", o.nodes, addr.MaxNodes)
	}
	return o, nil
}

// Main is `controlplane up`. It must be called on the locked main thread, because parts die with the thread that forked them.
func Main(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane up:", err)
		return 2
	}
	if o.nodes > 0 && os.Getenv(outerListener) == "" && !netns.AreLocal() {
		return inNewNamespace(o, args)
	}
	s := &supervisor{options: o, began: time.Now(), events: make(chan event, 64), millis: map[string]int64{}}
	code := s.run()
	s.cleanUp()
	return code
}

// inNewNamespace runs `up` again in a namespace in which pod addresses are local, and hands it a listener of this
// namespace, so that one kubeconfig serves on both sides.
func inNewNamespace(o *options, args []string) int {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.port))
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane up: port of the API server:", err)
		return 1
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane up:", err)
		return 1
	}
	cmd := netns.Command(netns.DefaultCIDRs(), append([]string{"/proc/self/exe", "up"}, args...))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(os.Environ(), outerListener+"=3")
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane up:", netns.Explain(err))
		return 1
	}
	_ = file.Close()
	_ = listener.Close()
	go whenParentGone(func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	return netns.Forward(cmd)
}

// whenParentGone calls f once when this process has been given to another parent. A death signal would not do: it fires
// when the thread ends that forked us, and test harnesses fork from short-lived threads.
func whenParentGone(f func()) {
	parent := os.Getppid()
	for os.Getppid() == parent {
		time.Sleep(100 * time.Millisecond)
	}
	f()
}

type event struct {
	kind string // line, end, exit, ready, unready
	part *part
	text string
	err  error
}

type supervisor struct {
	*options
	began    time.Time
	events   chan event
	millis   map[string]int64
	config   *Config
	pki      *pki
	parts    []*part
	health   *health
	reserved []reservation
	slotLock int
	lock     *os.File
	ownDir   bool
	isReady  bool
	closing  bool
}

func (s *supervisor) run() int {
	if err := s.prepare(); err != nil {
		return s.fail(nil, err)
	}
	go func() {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		s.events <- event{kind: "end", text: (<-signals).String()}
	}()
	// Without this, an answer to a reader that is gone would kill the supervisor before it could clean up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go whenParentGone(func() { s.events <- event{kind: "end", text: "the parent process is gone"} })
	if !s.ignoreStdin {
		go s.readCommands()
	}
	for _, p := range s.parts {
		if p.name == "etcd" || p.name == "apiserver" {
			if err := s.start(p); err != nil {
				return s.fail(p, err)
			}
		}
	}
	for e := range s.events {
		switch e.kind {
		case "end":
			return 0
		case "line":
			s.command(e.text)
		case "unready":
			if e.part.run == nil || !e.part.waiting {
				continue // killed meanwhile, which the killer was told
			}
			return s.fail(e.part, e.err)
		case "exit":
			e.part.run = nil
			if !e.part.killed {
				return s.fail(e.part, fmt.Errorf("%s ended unasked: %w", e.part.name, e.err))
			}
			s.answer(answer{Event: "kill", Part: e.part.name, OK: true})
		case "ready":
			if err := s.becameReady(e.part); err != nil {
				return s.fail(e.part, err)
			}
		}
	}
	return 0
}

// prepare makes the folder, the slot, the ports, the certificates and the configuration of the parts.
func (s *supervisor) prepare() error {
	if s.nodes > 0 && !netns.AreLocal() {
		return errors.New("pod addresses are not local here although this should be the namespace made for them")
	}
	table, err := images.Parse(s.images)
	if err != nil {
		return err
	}
	// The parts run in another folder: from here on all paths are absolute.
	s.images = nil
	for _, i := range table {
		s.images = append(s.images, i.String())
	}
	sweep(os.TempDir())
	if s.dir == "" {
		s.ownDir = true
		if s.dir, err = os.MkdirTemp("", dirPrefix); err != nil {
			return err
		}
	} else if err = os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	// Pods under another user must reach their volumes by path in namespaces without a mount of their own.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	slot, fd, err := claimSlot(addr.Slots)
	if err != nil {
		return err
	}
	s.slotLock = fd
	plan := addr.Plan{Slot: slot}
	outside := net.Listener(nil)
	if os.Getenv(outerListener) != "" {
		file := os.NewFile(3, "outer listener")
		if outside, err = net.FileListener(file); err != nil {
			return err
		}
		_ = file.Close()
		_ = os.Unsetenv(outerListener)
		s.port = outside.Addr().(*net.TCPAddr).Port
	}
	ports := make([]int, 4)
	for i, wanted := range []int{s.port, 0, 0, 0} {
		r, err := reserve(wanted)
		if err != nil {
			return err
		}
		s.reserved = append(s.reserved, r)
		ports[i] = r.port
	}
	if outside != nil {
		go forward(outside, ports[0])
	}
	s.config = &Config{
		Plan: plan, Dir: s.dir, PKI: filepath.Join(s.dir, "pki"),
		Server: fmt.Sprintf("https://127.0.0.1:%d", ports[0]), ServerPort: ports[0], EtcdPort: ports[1], EtcdPeerPort: ports[2], ManagerPort: ports[3],
		Nodes: s.nodes, Controllers: s.controllers, Images: s.images,
		Extra: map[string]string{"apiserver": s.apiserverArgs, "kcm": s.kcmArgs, "node": s.nodeArgs},
	}
	if err := s.makeCredentials(); err != nil {
		return err
	}
	if err := s.config.writeTo(s.configPath()); err != nil {
		return err
	}
	s.millis["prepared"] = time.Since(s.began).Milliseconds()
	names := []string{"etcd", "apiserver", "kcm"}
	if s.nodes > 0 {
		names = append(names, "node")
	}
	for _, name := range names {
		s.parts = append(s.parts, &part{name: name, log: filepath.Join(s.dir, name+".log")})
	}
	return nil
}

func (s *supervisor) makeCredentials() error {
	if err := os.MkdirAll(s.config.PKI, 0o700); err != nil {
		return err
	}
	var err error
	if s.pki, err = newPKI(s.config.PKI); err != nil {
		return err
	}
	loopback := net.IPv4(127, 0, 0, 1)
	service := s.config.Plan.APIService().As4()
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if _, _, err := s.pki.issue("apiserver", "kube-apiserver", nil, names, []net.IP{loopback, service[:]}); err != nil {
		return err
	}
	if _, _, err := s.pki.issue("kcm", "kube-controller-manager", nil, []string{"localhost"}, []net.IP{loopback}); err != nil {
		return err
	}
	if _, _, err := s.pki.issue("kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil, nil); err != nil {
		return err
	}
	var nodes []net.IP
	for i := range s.nodes {
		ip := s.config.Plan.NodeIP(i).As4()
		nodes = append(nodes, ip[:])
	}
	if _, _, err := s.pki.issue("kubelet", "system:node:fake", nil, nil, nodes); err != nil {
		return err
	}
	cert, key, err := s.pki.issue("admin", "kubernetes-admin", []string{"system:masters"}, nil, nil)
	if err != nil {
		return err
	}
	if err := s.pki.serviceAccountKey(); err != nil {
		return err
	}
	if s.config.Kubeconfig, err = s.pki.kubeconfig("admin.kubeconfig", s.config.Server, cert, key); err != nil {
		return err
	}
	s.health, err = newHealth(s.config, s.pki.pem, cert, key)
	return err
}

func (s *supervisor) configPath() string { return filepath.Join(s.dir, "config.json") }

// becameReady is called when a part answers its health check, at the start and after a `start` command.
func (s *supervisor) becameReady(p *part) error {
	if !p.waiting {
		return nil
	}
	p.waiting = false
	millis := time.Since(p.began).Milliseconds()
	if s.isReady {
		s.answer(answer{Event: "start", Part: p.name, OK: true, Millis: millis, Pid: p.pid()})
		return nil
	}
	s.millis[p.name] = millis
	if p.name == "apiserver" {
		for _, next := range s.parts {
			if next.name == "kcm" || next.name == "node" {
				if err := s.start(next); err != nil {
					return err
				}
			}
		}
	}
	for _, other := range s.parts {
		if other.run == nil || other.waiting {
			return nil
		}
	}
	s.isReady = true
	s.millis["total"] = time.Since(s.began).Milliseconds()
	s.sayReady()
	return nil
}

func (s *supervisor) sayReady() {
	pids := map[string]int{"supervisor": os.Getpid()}
	for _, p := range s.parts {
		pids[p.name] = p.pid()
	}
	c := s.config
	line := map[string]any{
		"event": "ready", "version": 1, "dir": s.dir, "server": c.Server, "etcd": fmt.Sprintf("http://127.0.0.1:%d", c.EtcdPort),
		"kubeconfig": c.Kubeconfig, "ca": s.pki.path("ca.crt"), "caData": base64.StdEncoding.EncodeToString(s.pki.pem),
		"pids": pids, "millis": s.millis, "slot": c.Plan.Slot, "nodes": c.Nodes,
		"services": c.Plan.Services().String(), "loadBalancers": rangeText(c.Plan.LoadBalancers()),
		"pods": rangeText(c.Plan.Pods()), "processPods": rangeText(c.Plan.ProcessPods()),
	}
	printLine(line)
}

func rangeText(r addr.Range) string { return r.First.String() + "-" + r.Last.String() }

// fail reports one clear line and the end of the part's log.
func (s *supervisor) fail(p *part, err error) int {
	fmt.Fprintln(os.Stderr, "controlplane up:", err)
	if p != nil {
		if tail := tailOf(p.log, 20); tail != "" {
			fmt.Fprintf(os.Stderr, "--- last lines of %s.log:\n%s", p.name, tail)
		}
	}
	return 1
}

func (s *supervisor) readCommands() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); text != "" {
			s.events <- event{kind: "line", text: text}
		}
	}
	s.events <- event{kind: "end", text: "standard input is closed"}
}

type answer struct {
	Event  string `json:"event"`
	Part   string `json:"part,omitempty"`
	OK     bool   `json:"ok"`
	Millis int64  `json:"millis,omitempty"`
	Pid    int    `json:"pid,omitempty"`
	Error  string `json:"error,omitempty"`
}

func (s *supervisor) answer(a answer) { printLine(a) }

// printLine writes one line of JSON. A reader that is gone is no fault of the cluster: it ends by its standard input.
func printLine(v any) {
	text, err := json.Marshal(v)
	if err != nil {
		text = []byte(fmt.Sprintf(`{"event":"error","ok":false,"error":%q}`, err))
	}
	_, _ = os.Stdout.Write(append(text, '\n'))
}

// command carries out one line of standard input: stop, cont, kill or start, and a part.
func (s *supervisor) command(line string) {
	fields := strings.Fields(line)
	verb := fields[0]
	var p *part
	for _, candidate := range s.parts {
		if len(fields) == 2 && candidate.name == fields[1] {
			p = candidate
		}
	}
	refuse := func(why string) { s.answer(answer{Event: verb, Part: strings.Join(fields[1:], " "), Error: why}) }
	switch {
	case verb != "stop" && verb != "cont" && verb != "kill" && verb != "start":
		refuse("unknown command: stop, cont, kill or start is expected")
	case p == nil:
		refuse("unknown part: etcd, apiserver, kcm or node is expected")
	case !s.isReady:
		refuse("the cluster is not ready")
	case verb == "start" && p.run != nil:
		refuse("it runs already")
	case verb != "start" && p.run == nil:
		refuse("it does not run")
	case verb == "start":
		if err := s.start(p); err != nil {
			refuse(err.Error())
		}
	case verb == "kill":
		p.killed, p.waiting = true, false
		if err := p.run.Process.Kill(); err != nil {
			refuse(err.Error())
		}
	default:
		sig := syscall.SIGSTOP
		if verb == "cont" {
			sig = syscall.SIGCONT
		}
		if err := p.run.Process.Signal(sig); err != nil {
			refuse(err.Error())
			return
		}
		if verb == "stop" && !isStoppedWithin(p.pid(), stopLimit) {
			refuse("it was told to stop and still runs")
			return
		}
		s.answer(answer{Event: verb, Part: p.name, OK: true})
	}
}

// stopLimit is how long the threads of a part may take to stop on a busy machine.
const stopLimit = 5 * time.Second

// isStoppedWithin waits until every thread of a process is stopped: a signal that is sent is not one that was taken.
func isStoppedWithin(pid int, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if isStopped(pid) {
			return true
		}
	}
	return false
}

func isStopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // The thread has ended.
		}
		// The state follows the name, which may hold anything, in parentheses.
		_, state, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
		if len(state) == 0 || state[0] != 'T' && state[0] != 'Z' {
			return false
		}
	}
	return true
}

// part is one child process.
type part struct {
	name    string
	log     string
	run     *exec.Cmd
	began   time.Time
	waiting bool // its health check has not answered since the last start
	killed  bool // by command
}

func (p *part) pid() int {
	if p.run == nil {
		return 0
	}
	return p.run.Process.Pid
}

// start forks a part and watches its health and its end.
func (s *supervisor) start(p *part) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "part", p.name, s.configPath())
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{readyWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = cmd.Start()
	_ = readyWrite.Close()
	if err != nil {
		_ = readyRead.Close()
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.run, p.began, p.waiting, p.killed = cmd, time.Now(), true, false
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		s.events <- event{kind: "exit", part: p, err: err}
	}()
	go func() {
		defer func() { _ = readyRead.Close() }()
		err := s.health.wait(p.name, readyRead, s.timeout)
		if errors.Is(err, io.EOF) {
			return // it has ended, which its exit tells
		}
		if err != nil {
			s.events <- event{kind: "unready", part: p, err: err}
			return
		}
		s.events <- event{kind: "ready", part: p}
	}()
	return nil
}

// cleanUp ends all parts and removes all that this cluster made.
func (s *supervisor) cleanUp() {
	for _, p := range s.parts {
		if p.run != nil {
			_ = p.run.Process.Kill()
		}
	}
	for _, p := range s.parts {
		for p.run != nil {
			if e := <-s.events; e.kind == "exit" {
				e.part.run = nil
			}
		}
	}
	if s.config != nil && s.nodes > 0 {
		if link, err := netlink.LinkByName(s.config.Plan.BridgeName()); err == nil {
			_ = netlink.LinkDel(link)
		}
	}
	for _, r := range s.reserved {
		r.release()
	}
	if s.ownDir {
		removeAll(s.dir)
	} else if s.config != nil {
		for _, name := range []string{"etcd", "pki", "pods", "config.json", "lock"} {
			removeAll(filepath.Join(s.dir, name))
		}
	}
}

// removeAll tries again for a while: processes of pods may still be dying.
func removeAll(path string) {
	for range 50 {
		if os.RemoveAll(path) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "controlplane up: could not remove", path)
}

const dirPrefix = "tidegate-controlplane-"

// lockDir marks a folder as in use for as long as the file is open. The lock gets its name when it is held already, so
// that sweep cannot take it in between.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	if old, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
		err = syscall.Flock(int(old.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		_ = old.Close()
		if err != nil {
			return nil, fmt.Errorf("%s is in use by another cluster: %w", dir, err)
		}
	}
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes the temporary folders of clusters whose supervisor was killed. A folder without a lock belongs to one
// that is just starting.
func sweep(tmp string) {
	dirs, err := filepath.Glob(filepath.Join(tmp, dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}

// tailOf returns the last lines of a file.
func tailOf(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.SplitAfter(strings.TrimRight(string(text), "\n")+"\n", "\n")
	all = all[:len(all)-1]
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "")
}

// forward accepts on a listener of the outer namespace and connects to the API server in this one.
func forward(l net.Listener, port int) {
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)).String()
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = in.Close() }()
			out, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer func() { _ = out.Close() }()
			done := make(chan struct{}, 2)
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.(*net.TCPConn).CloseWrite()
				done <- struct{}{}
			}
			go pipe(out, in)
			go pipe(in, out)
			<-done
			<-done
		}()
	}
}
