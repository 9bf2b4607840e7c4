package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideSpec is what a forked child does before it becomes a container's program.
type insideSpec struct {
	Root             string        `json:"root"`
	Program          string        `json:"program"`
	Names            []string      `json:"names"`
	Args             []string      `json:"args"`
	Env              []string      `json:"env"`
	Dir              string        `json:"dir"`
	Mounts           []insideMount `json:"mounts"`
	Hosts            string        `json:"hosts"`
	ResolvConf       string        `json:"resolvConf"`
	Hostname         string        `json:"hostname"`
	UID              int           `json:"uid"`
	GID              int           `json:"gid"`
	Groups           []int         `json:"groups"`
	UserNamespace    bool          `json:"userNamespace"`
	OwnIDs           bool          `json:"ownIDs"`
	ReadOnlyRoot     bool          `json:"readOnlyRoot"`
	NoNewPrivileges  bool          `json:"noNewPrivileges"`
	Privileged       bool          `json:"privileged"`
	DropCapabilities []string      `json:"dropCapabilities"`
	AddCapabilities  []string      `json:"addCapabilities"`
}

type insideMount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly"`
}

// Inside runs in fresh mount, process, IPC and host-name namespaces and in the pod's network: it builds the root of the
// container, gives up what the container must not have, and becomes the program. It must be called on the locked main
// thread. What fails is written to descriptor 4, which closes by itself when the program takes over.
func Inside([]string) int {
	trouble := os.NewFile(4, "trouble")
	syscall.CloseOnExec(4)
	err := inside()
	_, _ = fmt.Fprint(trouble, err)
	return 127
}

func inside() error {
	spec := &insideSpec{}
	input := os.NewFile(3, "spec")
	if err := json.NewDecoder(input).Decode(spec); err != nil {
		return fmt.Errorf("read the description: %w", err)
	}
	_ = input.Close()
	syscall.Umask(0)
	if err := spec.buildRoot(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	syscall.Umask(0o022)
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	// The signal at the parent's end belongs to a thread and is cleared by a change of user: set again by the thread that
	// becomes the program, so that no container outlives its node.
	runtime.LockOSThread()
	if err := spec.giveUpPrivileges(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("signal at the end of the node: %w", err)
	}
	for _, e := range spec.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return err
			}
		}
	}
	program, err := exec.LookPath(spec.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return err
	}
	return fmt.Errorf("exec %s: %w", program, syscall.Exec(program, spec.Args, spec.Env))
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// buildRoot makes a small root on a tmpfs: the host's programs and libraries read-only, the program, devices, and the
// volumes; then it moves into it and lets go of the host's root.
func (s *insideSpec) buildRoot() error {
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Root, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", s.Root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := s.share("/" + dir); err != nil {
			return err
		}
	}
	for dir, mode := range map[string]os.FileMode{"etc": 0o755, "dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "var": 0o755, "var/run": 0o755, "root": 0o700, "tmp": 0o777 | os.ModeSticky, "var/tmp": 0o777 | os.ModeSticky} {
		if err := s.makeDir(dir, mode); err != nil {
			return err
		}
	}
	if err := s.fillEtc(); err != nil {
		return err
	}
	if err := s.fillDev(); err != nil {
		return err
	}
	if mount("proc", filepath.Join(s.Root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") != nil {
		// Refused where parts of the host's /proc are hidden; its own is then better than none.
		if err := mount("/proc", filepath.Join(s.Root, "proc"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	for _, name := range s.Names {
		if err := s.bind(s.Program, "/"+name, true); err != nil {
			return err
		}
	}
	// Parents before children, whatever their order in the pod.
	mounts := slices.Clone(s.Mounts)
	slices.SortStableFunc(mounts, func(a, b insideMount) int {
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})
	for _, m := range mounts {
		if err := s.bind(m.Source, m.Target, m.ReadOnly); err != nil {
			return err
		}
	}
	if err := os.Chdir(s.Root); err != nil {
		return err
	}
	// Both arguments the same: the old root ends up below the new one and is let go from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if s.ReadOnlyRoot {
		return readOnly("/")
	}
	return nil
}

func (s *insideSpec) makeDir(name string, mode os.FileMode) error {
	path := filepath.Join(s.Root, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// share shows a top-level folder of the host, as the link that it may be.
func (s *insideSpec) share(dir string) error {
	info, err := os.Lstat(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(dir)
		if err != nil {
			return err
		}
		return os.Symlink(target, filepath.Join(s.Root, dir))
	}
	return s.bind(dir, dir, true)
}

func (s *insideSpec) fillEtc() error {
	files := map[string]string{
		"passwd":        fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\npod:x:%d:%d:pod:/:/bin/false\n", s.UID, s.GID),
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		"hosts":         s.Hosts,
		"hostname":      s.Hostname + "\n",
		"resolv.conf":   s.ResolvConf,
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.Root, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, path := range []string{"/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl"} {
		if _, err := os.Stat(path); err == nil {
			if err := s.bind(path, path, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *insideSpec) fillDev() error {
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue
		}
		if err := s.bind("/dev/"+name, "/dev/"+name, false); err != nil {
			return err
		}
	}
	if err := s.makeDir("dev/shm", 0o777|os.ModeSticky); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(s.Root, "dev", name)); err != nil {
			return err
		}
	}
	return nil
}

// bind shows a file or folder of the host at a place of the new root.
func (s *insideSpec) bind(source, target string, ro bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	at := filepath.Join(s.Root, filepath.Clean("/"+target))
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("place for %s: %w", target, err)
	}
	// With submounts: a user namespace must not see below what covers a folder.
	if err := mount(source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if ro {
		return readOnly(at)
	}
	return nil
}

// readOnly keeps the other flags of a mount: a user namespace may not clear them.
func readOnly(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for has, keep := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if int64(st.Flags)&has != 0 {
			flags |= keep
		}
	}
	return mount("none", path, "", flags, "")
}

// defaultCapabilities are those that container engines leave to root.
var defaultCapabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"}

var capabilityNumbers = map[string]uintptr{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "FOWNER": unix.CAP_FOWNER,
	"FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "SETGID": unix.CAP_SETGID, "SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_RAW": unix.CAP_NET_RAW, "NET_ADMIN": unix.CAP_NET_ADMIN, "SYS_CHROOT": unix.CAP_SYS_CHROOT,
	"MKNOD": unix.CAP_MKNOD, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "SETFCAP": unix.CAP_SETFCAP, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
	"SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "SYS_NICE": unix.CAP_SYS_NICE, "IPC_LOCK": unix.CAP_IPC_LOCK,
}

// keptCapabilities are what root may have in the container; another user loses all of them when the program starts.
func (s *insideSpec) keptCapabilities() (map[uintptr]bool, error) {
	kept := map[uintptr]bool{}
	for _, name := range defaultCapabilities {
		kept[capabilityNumbers[name]] = true
	}
	change := func(names []string, keep bool) error {
		for _, name := range names {
			name = strings.TrimPrefix(strings.ToUpper(name), "CAP_")
			number, ok := capabilityNumbers[name]
			switch {
			case name == "ALL":
				for _, n := range capabilityNumbers {
					kept[n] = keep
				}
			case !ok && keep:
				return fmt.Errorf("capability %s is not known here", name)
			case ok:
				kept[number] = keep
			}
		}
		return nil
	}
	return kept, errors.Join(change(s.DropCapabilities, false), change(s.AddCapabilities, true))
}

func (s *insideSpec) giveUpPrivileges() error {
	kept, err := s.keptCapabilities()
	if err != nil {
		return err
	}
	for number := uintptr(0); !s.Privileged && number <= unix.CAP_LAST_CAP; number++ {
		if kept[number] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", number, err)
		}
	}
	if s.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	if s.UserNamespace {
		// The user is the right one since the fork; only what the preparation needed must go.
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("clear ambient capabilities: %w", err)
		}
		return nil
	}
	if s.OwnIDs {
		return nil // root of a user namespace that has no other ids
	}
	if err := syscall.Setgroups(s.Groups); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if err := syscall.Setgid(s.GID); err != nil {
		return fmt.Errorf("group %d: %w", s.GID, err)
	}
	if err := syscall.Setuid(s.UID); err != nil {
		return fmt.Errorf("user %d: %w", s.UID, err)
	}
	return nil
}
