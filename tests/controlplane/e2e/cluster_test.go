package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// deployment makes a Deployment of echo pods and a LoadBalancer Service of the same name.
func (c *cluster) deployment(t *testing.T, namespace, name string, replicas int32, annotations map[string]string) {
	t.Helper()
	ctx := context.Background()
	labels := map[string]string{"app": name}
	_, err := c.client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "web", Image: "example/web:1", Ports: []v1.ContainerPort{{ContainerPort: 8080}}}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.client.CoreV1().Services(namespace).Create(ctx, &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, Selector: labels, Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) scale(t *testing.T, namespace, name string, replicas int) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := c.client.AppsV1().Deployments(namespace).Patch(context.Background(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) endpoints(namespace, service string) ([]discoveryv1.Endpoint, error) {
	slices, err := c.client.DiscoveryV1().EndpointSlices(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	var all []discoveryv1.Endpoint
	for _, s := range slices.Items {
		all = append(all, s.Endpoints...)
	}
	return all, nil
}

// states counts endpoints by their conditions, as "ready/serving/terminating".
func states(all []discoveryv1.Endpoint) map[string]int {
	counts := map[string]int{}
	for _, e := range all {
		counts[fmt.Sprintf("%t/%t/%t", ptr.Deref(e.Conditions.Ready, false), ptr.Deref(e.Conditions.Serving, false), ptr.Deref(e.Conditions.Terminating, false))]++
	}
	return counts
}

func (c *cluster) waitForStates(t *testing.T, namespace, service string, want map[string]int) []discoveryv1.Endpoint {
	t.Helper()
	var all []discoveryv1.Endpoint
	waitFor(t, fmt.Sprintf("endpoints %v of %s", want, service), func() (err error) {
		if all, err = c.endpoints(namespace, service); err != nil {
			return err
		}
		if got := states(all); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("endpoints are %v", got)
		}
		return nil
	})
	return all
}

// get fetches without keeping the connection.
func get(url string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}

func mustGet(t *testing.T, url string) string {
	t.Helper()
	var text string
	waitFor(t, url, func() (err error) { text, err = get(url); return err })
	return text
}

func (c *cluster) balancer(t *testing.T, namespace, service string) string {
	t.Helper()
	var ip string
	waitFor(t, "an address of "+service, func() error {
		o, err := c.client.CoreV1().Services(namespace).Get(context.Background(), service, metav1.GetOptions{})
		if err == nil && len(o.Status.LoadBalancer.Ingress) != 1 {
			err = fmt.Errorf("status.loadBalancer is %v", o.Status.LoadBalancer)
		}
		if err == nil {
			ip = o.Status.LoadBalancer.Ingress[0].IP
		}
		return err
	})
	return ip
}

func TestReadyInTime(t *testing.T) {
	t.Logf("ready after %d ms (its own count), %d ms (seen from outside); parts: %v", shared.Millis["total"], shared.took.Milliseconds(), shared.Millis)
	// 10 s is the promise for an idle machine; a machine that runs tests beside builds gets twelve times as much.
	if shared.took > 2*time.Minute {
		t.Errorf("ready after %s", shared.took)
	}
	if out := shared.kubectl(t, "", "version"); !strings.Contains(out, "Server Version: v1.36.3") || !strings.Contains(out, "Client Version: v1.36.3") {
		t.Errorf("kubectl version says %q", out)
	}
}

func TestReplicasAnswerAndDrain(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.deployment(t, ns, "web", 3, map[string]string{"fakenode/terminate": "8s"})
	all := shared.waitForStates(t, ns, "web", map[string]int{"true/true/false": 3})
	zones := map[string]bool{}
	for _, e := range all {
		if e.NodeName == nil || e.Zone == nil {
			t.Fatalf("endpoint %v has no node or zone", e.Addresses)
		}
		zones[*e.Zone] = true
		if text := mustGet(t, "http://"+e.Addresses[0]+":8080/some/path"); !strings.Contains(text, e.TargetRef.Name) || !strings.Contains(text, `"/some/path"`) {
			t.Errorf("%s answers %s", e.TargetRef.Name, text)
		}
	}
	if len(zones) != 3 {
		t.Errorf("three replicas are in zones %v", zones)
	}
	service, err := shared.client.CoreV1().Services(ns).Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{shared.balancer(t, ns, "web"), service.Spec.ClusterIP} {
		if text := mustGet(t, "http://"+ip+"/"); !strings.Contains(text, `"pod": "web-`) {
			t.Errorf("%s answers %s", ip, text)
		}
	}
	// A load balancer keeps the client's address.
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 245, 7, 7)}}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	response, err := client.Get("http://" + shared.balancer(t, ns, "web") + "/from-afar")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if logs := shared.kubectl(t, "", "-n", ns, "logs", "-l", "app=web"); !strings.Contains(logs, "/from-afar to client (10.245.7.7:") {
		t.Errorf("the client's address is lost: %s", logs)
	}
	shared.scale(t, ns, "web", 1)
	for _, e := range shared.waitForStates(t, ns, "web", map[string]int{"true/true/false": 1, "false/true/true": 2}) {
		if ptr.Deref(e.Conditions.Terminating, false) {
			if text, err := get("http://" + e.Addresses[0] + ":8080/"); err != nil || !strings.Contains(text, e.TargetRef.Name) {
				t.Errorf("a terminating pod that shall serve on answers %q, %v", text, err)
			}
		}
	}
	shared.waitForStates(t, ns, "web", map[string]int{"true/true/false": 1})
	shared.scale(t, ns, "web", 0)
	waitFor(t, "a refused connection without endpoints", func() error {
		if text, err := get("http://" + service.Spec.ClusterIP + "/"); err == nil {
			return fmt.Errorf("it still answers %q", text)
		} else if !strings.Contains(err.Error(), "connection refused") {
			return err
		}
		return nil
	})
	for _, e := range all {
		waitFor(t, "the end of "+e.TargetRef.Name, func() error {
			if _, err := get("http://" + e.Addresses[0] + ":8080/"); err == nil {
				return fmt.Errorf("it still answers")
			}
			return nil
		})
	}
}

func TestBehaviourByAnnotation(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.deployment(t, ns, "not-ready", 1, map[string]string{"fakenode/ready": "false"})
	shared.deployment(t, ns, "late", 1, map[string]string{"fakenode/start": "1500ms"})
	shared.deployment(t, ns, "deaf", 1, map[string]string{"fakenode/serve": "false"})
	began := time.Now()
	all := shared.waitForStates(t, ns, "not-ready", map[string]int{"false/false/false": 1})
	mustGet(t, "http://"+all[0].Addresses[0]+":8080/") // it answers all the same
	all = shared.waitForStates(t, ns, "deaf", map[string]int{"true/true/false": 1})
	if _, err := net.DialTimeout("tcp", all[0].Addresses[0]+":8080", 5*time.Second); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a deaf pod: %v", err)
	}
	shared.waitForStates(t, ns, "late", map[string]int{"true/true/false": 1})
	if took := time.Since(began); took < time.Second {
		t.Errorf("a pod that starts late was ready after %s", took)
	}
	// A readiness gate is opened by somebody else.
	gated := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"gated"},"spec":{"readinessGates":[{"conditionType":"example.com/gate"}],"containers":[{"name":"c","image":"x"}]}}`
	shared.kubectl(t, gated, "-n", ns, "create", "-f", "-")
	shared.kubectl(t, "", "-n", ns, "wait", "--for=condition=ContainersReady", "pod/gated", "--timeout=120s")
	if isReady(shared.pod(t, ns, "gated")) {
		t.Error("a pod is ready although its gate is closed")
	}
	shared.kubectl(t, "", "-n", ns, "patch", "pod", "gated", "--subresource=status", "-p", `{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}`)
	shared.kubectl(t, "", "-n", ns, "wait", "--for=condition=Ready", "pod/gated", "--timeout=120s")
	// An annotation of a living pod counts at once.
	pods, err := shared.client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "app=not-ready"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%v %v", pods, err)
	}
	shared.kubectl(t, "", "-n", ns, "annotate", "pod", pods.Items[0].Name, "--overwrite", "fakenode/ready=true")
	shared.waitForStates(t, ns, "not-ready", map[string]int{"true/true/false": 1})
}

func TestPlacement(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	pod := func(name, more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":%q},"spec":{"containers":[{"name":"c","image":"x"}]%s}}`, name, ns, more)
	}
	shared.kubectl(t, pod("there", `,"nodeSelector":{"topology.kubernetes.io/zone":"b"}`), "create", "-f", "-")
	shared.kubectl(t, pod("nowhere", `,"nodeSelector":{"topology.kubernetes.io/zone":"z"}`), "create", "-f", "-")
	shared.kubectl(t, "", "-n", ns, "wait", "--for=condition=Ready", "pod/there", "--timeout=120s")
	if node := shared.kubectl(t, "", "-n", ns, "get", "pod", "there", "-o", "jsonpath={.spec.nodeName}"); node != "node-1" {
		t.Errorf("a pod for zone b is on %q", node)
	}
	shared.kubectl(t, "", "-n", ns, "wait", `--for=jsonpath={.status.conditions[?(@.type=="PodScheduled")].reason}=Unschedulable`, "pod/nowhere", "--timeout=120s")
	daemonSet := `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"everywhere"},"spec":{"selector":{"matchLabels":{"app":"d"}},"template":{"metadata":{"labels":{"app":"d"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`
	shared.kubectl(t, daemonSet, "-n", ns, "create", "-f", "-")
	shared.kubectl(t, "", "-n", ns, "rollout", "status", "daemonset/everywhere", "--timeout=120s")
	nodes := strings.Fields(shared.kubectl(t, "", "-n", ns, "get", "pods", "-l", "app=d", "-o", "jsonpath={.items[*].spec.nodeName}"))
	if seen := map[string]bool{nodes[0]: true, nodes[1]: true, nodes[2]: true}; len(nodes) != 3 || len(seen) != 3 {
		t.Errorf("a DaemonSet's pods are on %v", nodes)
	}
}

func TestServiceAccountsAndRoles(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.kubectl(t, "", "-n", ns, "create", "serviceaccount", "reader")
	shared.kubectl(t, "", "-n", ns, "create", "role", "reader", "--verb=get,list", "--resource=services")
	shared.kubectl(t, "", "-n", ns, "create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+ns+":reader")
	token := strings.TrimSpace(shared.kubectl(t, "", "-n", ns, "create", "token", "reader"))
	as := func(args ...string) (string, error) {
		cmd := exec.Command(binary, append([]string{"kubectl", "--kubeconfig=/dev/null", "--server", shared.Server, "--certificate-authority", filepath.Join(shared.Dir, "pki", "ca.crt"), "--token", token, "-n", ns}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	waitFor(t, "the role", func() error {
		out, err := as("get", "services")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if out, err := as("get", "secrets"); err == nil || !strings.Contains(out, "forbidden") {
		t.Errorf("secrets for a reader of services: %v %s", err, out)
	}
	if out, err := as("auth", "whoami"); err != nil || !strings.Contains(out, "system:serviceaccounts:"+ns) {
		t.Errorf("whoami: %v %s", err, out)
	}
}

func TestFaultsOfEachPart(t *testing.T) {
	c := own(t, "--image", "in-pod="+os.Args[0])
	ns := c.namespace(t)
	c.deployment(t, ns, "web", 1, nil)
	program := c.processPod(t, ns, "program", "", "")
	c.waitForStates(t, ns, "web", map[string]int{"true/true/false": 1})
	replicas := 1
	more := func(after string) {
		t.Helper()
		replicas++
		c.scale(t, ns, "web", replicas)
		t.Log("waiting for a new pod after", after)
		c.waitForStates(t, ns, "web", map[string]int{"true/true/false": replicas})
	}
	for _, part := range []string{"etcd", "apiserver", "kcm", "node"} {
		c.must(t, "stop "+part)
		switch part {
		case "apiserver", "etcd":
			// The connection stays open and goes silent.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, err := c.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "never-"}}, metav1.CreateOptions{}); err == nil {
				t.Errorf("a write went through while %s was stopped", part)
			}
			cancel()
		case "kcm":
			c.scale(t, ns, "web", replicas+1)
			time.Sleep(300 * time.Millisecond)
			if all, err := c.endpoints(ns, "web"); err != nil || len(all) != replicas {
				t.Errorf("%d endpoints while the controllers were stopped, %v", len(all), err)
			}
			c.scale(t, ns, "web", replicas)
		case "node":
		}
		c.must(t, "cont "+part)
		more("stop and cont of " + part)
		c.must(t, "kill "+part)
		if ok, _ := c.say(t, "stop "+part); ok {
			t.Errorf("a dead %s could be stopped", part)
		}
		c.must(t, "start "+part)
		more("kill and start of " + part)
	}
	// The programs of pods die with the node part; a new one starts them again at the same address.
	mustGet(t, "http://"+program.Status.PodIP+":8080/me")
	if ok, why := c.say(t, "start kcm"); ok || !strings.Contains(why, "runs already") {
		t.Errorf("start of a running part: %t %q", ok, why)
	}
	for _, nonsense := range []string{"break kcm", "kill", "kill scheduler"} {
		if ok, why := c.say(t, nonsense); ok || !strings.Contains(why, "unknown") {
			t.Errorf("%q: %t %q", nonsense, ok, why)
		}
	}
}

// TestFlagsReachTheParts meets both kinds of API server that a watch must live with: one that streams the initial list,
// and one that refuses to.
func TestFlagsReachTheParts(t *testing.T) {
	t.Parallel()
	const watch = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=2"
	if out := shared.kubectl(t, "", "get", "--raw", watch); !strings.Contains(out, `"k8s.io/initial-events-end":"true"`) {
		t.Errorf("the initial list has no end: %s", out)
	}
	c := own(t, "--nodes=0", "--apiserver-args=--feature-gates=WatchList=false")
	if out, err := c.tryKubectl("", "get", "--raw", watch); err == nil || !strings.Contains(err.Error(), "sendInitialEvents is forbidden") {
		t.Errorf("without WatchList: %q %v", out, err)
	}
}

func TestTwoClustersAtOnce(t *testing.T) {
	t.Parallel()
	c := own(t)
	if c.Slot == shared.Slot || c.Server == shared.Server {
		t.Fatalf("both are in slot %d at %s", c.Slot, c.Server)
	}
	ips := map[string]bool{}
	for _, each := range []*cluster{shared, c} {
		ns := each.namespace(t)
		each.deployment(t, ns, "web", 2, nil)
		for _, e := range each.waitForStates(t, ns, "web", map[string]int{"true/true/false": 2}) {
			ips[e.Addresses[0]] = true
			mustGet(t, "http://"+e.Addresses[0]+":8080/")
		}
		mustGet(t, "http://"+each.balancer(t, ns, "web")+"/")
	}
	if len(ips) != 4 {
		t.Errorf("the pods of both have the addresses %v", ips)
	}
}

func TestNothingIsLeftWhenTheParentIsKilled(t *testing.T) {
	t.Parallel()
	// The shell is the parent of `up`; it stays because more follows.
	cmd := exec.Command("sh", "-c", `"$0" up --image in-pod="$1"; exit 5`, binary, os.Args[0])
	c, err := startCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c.processPod(t, "default", "lasting", "", "")
	victims := c.family(t)
	if len(victims) < 6 {
		t.Fatalf("supervisor, four parts and a program of a pod are expected: %v", victims)
	}
	// Its standard input stays open in this process: only the parent's death tells.
	if err := kill(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	c.waitForEnd(t, victims)
	waitFor(t, "the end of "+c.Dir, func() error {
		if _, err := os.Stat(c.Dir); err == nil {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
}

func TestNothingRunsWhenTheSupervisorIsKilled(t *testing.T) {
	t.Parallel()
	c, err := start("--image", "in-pod="+os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	c.processPod(t, "default", "lasting", "", "")
	victims := c.family(t)
	if err := kill(c.Pids["supervisor"]); err != nil {
		t.Fatal(err)
	}
	c.waitForEnd(t, victims)
	// The folder cannot be removed by the dead; the next cluster does it.
	next := own(t, "--nodes=0")
	if _, err := os.Stat(c.Dir); err == nil {
		t.Errorf("%s is still there after %s was made", c.Dir, next.Dir)
	}
}

// family lists the supervisor, the parts and what these have started.
func (c *cluster) family(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for name, pid := range c.Pids {
		all[name] = pid
	}
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.Pids["node"], c.Pids["node"]))
	if err != nil {
		t.Logf("children of the node part are not listed by this kernel: %v", err)
		return all
	}
	for i, text := range strings.Fields(string(out)) {
		var pid int
		if _, err := fmt.Sscan(text, &pid); err == nil {
			all[fmt.Sprintf("program-%d", i)] = pid
		}
	}
	return all
}

func (c *cluster) waitForEnd(t *testing.T, pids map[string]int) {
	t.Helper()
	for name, pid := range pids {
		waitFor(t, fmt.Sprintf("the end of %s (%d)", name, pid), func() error {
			if isAlive(pid) {
				return fmt.Errorf("it lives")
			}
			return nil
		})
	}
}

func TestADyingPartEndsTheClusterWithItsLog(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"kcm", "etcd"} {
		c, err := start("--nodes=0")
		if err != nil {
			t.Fatal(err)
		}
		if err := kill(c.Pids[part]); err != nil {
			t.Fatal(err)
		}
		c.mustFail(t, part+" ended unasked", "last lines of "+part+".log")
		c.waitForEnd(t, c.Pids)
		if _, err := os.Stat(c.Dir); err == nil {
			t.Errorf("%s is left", c.Dir)
		}
	}
	// A part that cannot even start.
	out, err := exec.Command(binary, "up", "--nodes=0", "--ignore-stdin", "--kcm-args=--no-such-flag").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "kcm ended unasked") || !strings.Contains(string(out), "no-such-flag") {
		t.Errorf("an unknown flag of a part: %v\n%s", err, out)
	}
}

// mustFail waits for exit code 1 and looks for words on standard error.
func (c *cluster) mustFail(t *testing.T, words ...string) {
	t.Helper()
	select {
	case err := <-c.exited:
		if c.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("exit code 1 is expected: %v", err)
		}
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		t.Fatal("it did not end")
	}
	for _, w := range words {
		if !strings.Contains(c.stderr.String(), w) {
			t.Errorf("standard error lacks %q:\n%s", w, c.stderr)
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"up", "--nodes=0", "--port", fmt.Sprint(port)}, 1, fmt.Sprintf("port %d is taken", port)},
		{[]string{"up", "--nodes=1000"}, 2, "--nodes 1000"},
		{[]string{"up", "nonsense"}, 2, "unexpected argument"},
		{[]string{"nonsense"}, 2, "unknown command"},
		{[]string{"netns"}, 2, "usage"},
		{[]string{"netns", "--cidrs", "10.0.0.0", "--", "true"}, 2, "--cidrs"},
		{[]string{"netns", "--", "/no/such/program"}, 127, "/no/such/program"},
		{[]string{"up", "--image", "x=/no/such/file"}, 1, "/no/such/file"},
	} {
		out, _ := exec.Command(binary, c.args...).CombinedOutput()
		cmd := exec.Command(binary, c.args...)
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%v: exit code %d, %s", c.args, cmd.ProcessState.ExitCode(), out)
		}
	}
}

func TestNetnsPassesExitCodesAndSignals(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary, "netns", "--", "sh", "-c", "exit 7")
	_ = cmd.Run()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d", cmd.ProcessState.ExitCode())
	}
	cmd = exec.Command(binary, "netns", "--", "sh", "-c", "trap 'exit 9' TERM; echo on; while :; do sleep 0.05; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("after SIGTERM: exit code %d", cmd.ProcessState.ExitCode())
	}
}

// TestWithoutRoot runs a whole cluster with fake and process pods as a user without any privilege.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("all tests run without root already")
	}
	dir, err := os.MkdirTemp("", "no-root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// The cache may lie where only root can look.
	programs := map[string]string{}
	for name, from := range map[string]string{"controlplane": binary, "in-pod": os.Args[0]} {
		real, err := filepath.EvalSymlinks(from)
		if err != nil {
			t.Fatal(err)
		}
		programs[name] = filepath.Join(dir, name)
		if os.Link(real, programs[name]) != nil {
			if out, err := exec.Command("cp", real, programs[name]).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
		}
	}
	cmd := exec.Command(programs["controlplane"], "netns", "--", programs["controlplane"], "up", "--image", "in-pod="+programs["in-pod"])
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.Dir = dir
	c, err := startCommand(cmd)
	if err != nil && strings.Contains(err.Error(), "no permission to make a network namespace") {
		t.Skipf("this kernel lets only root make namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.end(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	// The API server is in another namespace: kubectl runs there, too.
	inside := func(args ...string) string {
		t.Helper()
		enter := []string{"-t", fmt.Sprint(c.Pids["supervisor"]), "-U", "--preserve-credentials", "-n", "--", programs["controlplane"], "kubectl", "--kubeconfig", c.Kubeconfig}
		cmd := exec.Command("nsenter", append(enter, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	manifest := filepath.Join(dir, "pods.yaml")
	text := podManifest("default", "program", "  securityContext: {runAsUser: 1234, runAsNonRoot: true}\n", "    env: [{name: LISTEN, value: ':8080'}]\n    readinessProbe: {httpGet: {path: /me, port: 8080}, timeoutSeconds: 20}\n") +
		"---\n" + podManifest("default", "asked", "  securityContext: {runAsUser: 1234}\n", "    env: [{name: LISTEN, value: ':8080'}]\n    readinessProbe: {exec: {command: [sh, -c, 'test $(id -u) = 1234']}, timeoutSeconds: 20}\n") +
		"---\n" + podManifest("default", "rooted", "", "    env: [{name: LISTEN, value: ':80'}]\n    readinessProbe: {exec: {command: [sh, -c, 'test $(id -u) = 0']}, timeoutSeconds: 20}\n") +
		"---\napiVersion: v1\nkind: Pod\nmetadata: {name: fake}\nspec: {containers: [{name: c, image: x}]}\n"
	if err := os.WriteFile(manifest, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	inside("apply", "-f", manifest)
	inside("wait", "--for=condition=Ready", "pod/program", "pod/asked", "pod/rooted", "pod/fake", "--timeout=120s")
	if logs := inside("logs", "program"); !strings.Contains(logs, "listening on :8080") {
		t.Errorf("logs: %q", logs)
	}
}

// TestUpMakesItsOwnNamespace starts a cluster where pod addresses are not local; its API server is reached from outside.
func TestUpMakesItsOwnNamespace(t *testing.T) {
	t.Parallel()
	// A namespace with loopback but none of the ranges is such a place.
	c, err := startCommand(exec.Command(binary, "netns", "--cidrs", "10.255.0.0/16", "--", binary, "up"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.end(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	outer := c.parentOf(t, c.Pids["supervisor"])
	enter := exec.Command("nsenter", "-t", fmt.Sprint(outer), "-n", "--", binary, "kubectl", "--kubeconfig", c.Kubeconfig, "get", "nodes", "-o", "name")
	if os.Getuid() != 0 {
		enter.Args = append(append([]string{}, enter.Args[:3]...), append([]string{"-U", "--preserve-credentials"}, enter.Args[3:]...)...)
	}
	if out, err := enter.CombinedOutput(); err != nil || string(out) != "node/node-0\nnode/node-1\nnode/node-2\n" {
		t.Errorf("kubectl from outside: %v %s", err, out)
	}
}

func (c *cluster) parentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var parent int
	if _, err := fmt.Sscan(strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[1], &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}
