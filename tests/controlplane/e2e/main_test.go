// Package e2e tests the control plane from outside: it starts the program as its users do.
//
// It runs inside a network namespace made by `controlplane netns`; tests/cluster.sh does that.
package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// patience bounds every wait. It is only reached when something is broken: machines that run tests may be busy.
const patience = 2 * time.Minute

// binary is the program under test.
var binary = os.Getenv("TIDEGATE_CONTROLPLANE")

// shared is the cluster of the tests that break nothing.
var shared *cluster

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-in-pod" {
		serveInPod()
		return
	}
	if binary == "" {
		fmt.Println("SKIP: TIDEGATE_CONTROLPLANE names no control plane; tests/cluster.sh builds one")
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	shared, err = start("--image", "in-pod="+self)
	if err != nil {
		fmt.Println("FAIL: the shared cluster:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := shared.end(); err != nil {
		fmt.Println("FAIL: the shared cluster did not end well:", err)
		code = 1
	}
	os.Exit(code)
}

// cluster is a running control plane.
type cluster struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers chan string
	exited  chan error
	stderr  *safeBuffer
	took    time.Duration

	client     kubernetes.Interface
	Dir        string           `json:"dir"`
	Server     string           `json:"server"`
	Kubeconfig string           `json:"kubeconfig"`
	Pids       map[string]int   `json:"pids"`
	Millis     map[string]int64 `json:"millis"`
	Slot       int              `json:"slot"`
	Etcd       string           `json:"etcd"`
}

type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(args ...string) (*cluster, error) {
	return startCommand(exec.Command(binary, append([]string{"up"}, args...)...))
}

func startCommand(cmd *exec.Cmd) (*cluster, error) {
	c := &cluster{cmd: cmd, answers: make(chan string, 16), exited: make(chan error, 1), stderr: &safeBuffer{}}
	began := time.Now()
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = c.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			c.answers <- lines.Text()
		}
		close(c.answers)
		c.exited <- cmd.Wait()
	}()
	select {
	case line, ok := <-c.answers:
		if !ok {
			return nil, fmt.Errorf("it ended (%v): %s", <-c.exited, c.stderr)
		}
		if err := json.Unmarshal([]byte(line), c); err != nil {
			return nil, fmt.Errorf("ready line %q: %w", line, err)
		}
	case <-time.After(4 * time.Minute):
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("not ready in time: %s", c.stderr)
	}
	c.took = time.Since(began)
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	c.client, err = kubernetes.NewForConfig(config)
	return c, err
}

// end closes standard input and waits for a clean exit.
func (c *cluster) end() error {
	_ = c.stdin.Close()
	select {
	case err := <-c.exited:
		if err != nil {
			return fmt.Errorf("%w: %s", err, c.stderr)
		}
		return nil
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		return fmt.Errorf("it did not end with its standard input")
	}
}

// own starts a cluster for one test and ends it afterwards.
func own(t *testing.T, args ...string) *cluster {
	t.Helper()
	c, err := start(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.end(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return c
}

// say sends a command and returns its answer.
func (c *cluster) say(t *testing.T, command string) (ok bool, why string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.stdin, command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	select {
	case line := <-c.answers:
		var a struct {
			Event, Part, Error string
			OK                 bool
			Millis             int64
		}
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%s: answer %q: %v", command, line, err)
		}
		if a.OK && a.Event+" "+a.Part != command {
			t.Fatalf("%s: answer to something else: %s", command, line)
		}
		if a.Millis > 0 {
			t.Logf("%s: %d ms", command, a.Millis)
		}
		return a.OK, a.Error
	case <-time.After(patience):
		t.Fatalf("%s: no answer", command)
		return false, ""
	}
}

func (c *cluster) must(t *testing.T, command string) {
	t.Helper()
	if ok, why := c.say(t, command); !ok {
		t.Fatalf("%s: %s", command, why)
	}
}

// namespace makes a namespace that is deleted, without waiting, when the test has ended.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	ctx := context.Background()
	o, err := c.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Pods are refused before their namespace has its service account.
	waitFor(t, "the service account of "+o.Name, func() error {
		_, err := c.client.CoreV1().ServiceAccounts(o.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() { _ = c.client.CoreV1().Namespaces().Delete(ctx, o.Name, metav1.DeleteOptions{}) })
	return o.Name
}

// kubectl runs the kubectl of the program and returns what it prints.
func (c *cluster) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c *cluster) tryKubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command(binary, append([]string{"kubectl", "--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

// waitFor calls f until it returns nil.
func waitFor(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("waited %s for %s: %v", patience, what, err)
}

// isAlive looks at the state letter: a dead orphan stays a zombie where nobody reaps it, and still answers to signal 0.
func isAlive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
	state := strings.Fields(rest)[0]
	return state != "Z" && state != "X"
}

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }
