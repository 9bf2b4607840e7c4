package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podManifest is a pod that runs this test binary; the additions are indented as their level asks.
func podManifest(namespace, name, podMore, containerMore string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s, release: "1"}, annotations: {note: hello}}
spec:
  terminationGracePeriodSeconds: 20
%s  containers:
  - name: main
    image: registry.example:5000/group/in-pod:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000
    args: [serve-in-pod]
%s`, name, namespace, name, podMore, containerMore)
}

// processPod makes one and waits until it is ready.
func (c *cluster) processPod(t *testing.T, namespace, name, podMore, containerMore string) *v1.Pod {
	t.Helper()
	if !strings.Contains(containerMore, "env:") {
		containerMore = "    env: [{name: LISTEN, value: ':8080'}]\n" + containerMore
	}
	c.kubectl(t, podManifest(namespace, name, podMore, containerMore), "apply", "-f", "-")
	var pod *v1.Pod
	waitFor(t, name+" to run", func() (err error) {
		if pod, err = c.client.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{}); err == nil && pod.Status.Phase != v1.PodRunning {
			status, _ := json.Marshal(pod.Status.ContainerStatuses)
			err = fmt.Errorf("phase %s: %s", pod.Status.Phase, status)
		}
		return err
	})
	return pod
}

func (c *cluster) pod(t *testing.T, namespace, name string) *v1.Pod {
	t.Helper()
	pod, err := c.client.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func isReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func (c *cluster) waitReady(t *testing.T, namespace, name string, want bool) {
	t.Helper()
	waitFor(t, fmt.Sprintf("ready=%t of %s", want, name), func() error {
		if pod := c.pod(t, namespace, name); isReady(pod) != want {
			return fmt.Errorf("%+v", pod.Status.Conditions)
		}
		return nil
	})
}

func TestProcessPodSeesItsContainer(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.kubectl(t, "", "-n", ns, "create", "configmap", "settings", "--from-literal=mode=fast", "--from-literal=key=from-config")
	shared.kubectl(t, "", "-n", ns, "create", "secret", "generic", "hidden", "--from-literal=password=s3cret")
	pod := shared.processPod(t, ns, "look", `  securityContext: {runAsUser: 65532, runAsGroup: 65531, runAsNonRoot: true, fsGroup: 4242}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0440}}
  - {name: scratch, emptyDir: {}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
`, `    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    env:
    - {name: LISTEN, value: ":8080"}
    - {name: PORT, value: "8080"}
    - {name: EXPANDED, value: "at $(PORT)"}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: FROM_CONFIG, valueFrom: {configMapKeyRef: {name: settings, key: key}}}
    - {name: FROM_SECRET, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: nothing, key: nothing, optional: true}}}
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: settings, mountPath: /etc/single.txt, subPath: mode}
    - {name: hidden, mountPath: /etc/hidden, readOnly: true}
    - {name: scratch, mountPath: /scratch}
    - {name: about, mountPath: /about}
`)
	base := "http://" + pod.Status.PodIP + ":8080"
	var me struct {
		UID, GID, PID int
		Groups        []int
		Host, Status  string
		Env, Args     []string
	}
	if err := json.Unmarshal([]byte(mustGet(t, base+"/me")), &me); err != nil {
		t.Fatal(err)
	}
	if me.UID != 65532 || me.GID != 65531 || me.Host != "look" || me.PID != 1 {
		t.Errorf("it is user %d:%d, process %d on %q", me.UID, me.GID, me.PID, me.Host)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(me.Status, want) {
			t.Errorf("its status lacks %q:\n%s", want, me.Status)
		}
	}
	for _, want := range []string{"EXPANDED=at 8080", "POD_IP=" + pod.Status.PodIP, "NOTE=hello", "FROM_CONFIG=from-config", "FROM_SECRET=s3cret", "HOSTNAME=look", "KUBERNETES_SERVICE_PORT=443"} {
		if !slices.Contains(me.Env, want) {
			t.Errorf("its environment lacks %s: %v", want, me.Env)
		}
	}
	for _, e := range me.Env {
		if strings.HasPrefix(e, "ABSENT=") || strings.HasPrefix(e, "HOME=/root") {
			t.Errorf("its environment has %s", e)
		}
	}
	for path, want := range map[string]string{"/etc/settings/mode": "fast", "/etc/single.txt": "fast", "/etc/hidden/password": "s3cret", "/about/labels": `release="1"`} {
		if text, err := get(base + "/file?path=" + path); err != nil || !strings.Contains(text, want) {
			t.Errorf("%s: %q %v", path, text, err)
		}
	}
	for path, allowed := range map[string]bool{"/scratch/x": true, "/x": false, "/tmp/x": false, "/etc/hidden/x": false, "/usr/x": false} {
		if _, err := get(base + "/write?path=" + path); (err == nil) != allowed {
			t.Errorf("writing %s: %v", path, err)
		}
	}
	outside, err := os.CreateTemp("", "of-the-host-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(outside.Name()) }()
	if err := outside.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := get(base + "/file?path=" + outside.Name()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file of the host: %v", err)
	}
	// The token is good for the API server at the address that the environment gives.
	token := mustGet(t, base+"/file?path=/var/run/secrets/kubernetes.io/serviceaccount/token")
	cmd := exec.Command(binary, "kubectl", "--kubeconfig=/dev/null", "--server=https://10.96."+fmt.Sprint(shared.Slot*16)+".1", "--certificate-authority="+shared.Dir+"/pki/ca.crt", "--token="+token, "auth", "whoami")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "system:serviceaccount:"+ns+":default") {
		t.Errorf("whoami: %v %s", err, out)
	}
	// A change of a ConfigMap arrives in the mounted folder.
	shared.kubectl(t, "", "-n", ns, "patch", "configmap", "settings", "-p", `{"data":{"mode":"slow"}}`)
	waitFor(t, "the changed ConfigMap", func() error {
		if text := mustGet(t, base+"/file?path=/etc/settings/mode"); text != "slow" {
			return fmt.Errorf("it is still %q", text)
		}
		return nil
	})
}

func TestProcessPodProbesAndEnd(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	pod := shared.processPod(t, ns, "probed", "", `    env: [{name: LISTEN, value: ":8080"}]
    ports: [{name: http, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: http}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}
    livenessProbe: {httpGet: {path: /alive, port: http}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 20}
    lifecycle: {preStop: {sleep: {seconds: 5}}}
`)
	shared.kubectl(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"probed","namespace":%q},"spec":{"type":"LoadBalancer","selector":{"app":"probed"},"ports":[{"port":80,"targetPort":"http"}]}}`, ns), "create", "-f", "-")
	base := "http://" + pod.Status.PodIP + ":8080"
	mustGet(t, base+"/me")
	shared.waitForStates(t, ns, "probed", map[string]int{"false/false/false": 1})
	mustGet(t, base+"/become-ready")
	shared.waitForStates(t, ns, "probed", map[string]int{"true/true/false": 1})
	mustGet(t, "http://"+shared.balancer(t, ns, "probed")+"/me")
	// The kubelet restarts what is no longer alive; the address stays, readiness is lost.
	mustGet(t, base+"/become-sick")
	waitFor(t, "a restart", func() error {
		s := shared.pod(t, ns, "probed").Status
		if len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].RestartCount != 1 || s.ContainerStatuses[0].State.Running == nil || s.PodIP != pod.Status.PodIP {
			return fmt.Errorf("%+v", s.ContainerStatuses)
		}
		return nil
	})
	shared.waitReady(t, ns, "probed", false)
	if logs := shared.kubectl(t, "", "-n", ns, "logs", "probed", "--previous"); !strings.Contains(logs, "liveness probe failed") || !strings.Contains(logs, "got SIGTERM") {
		t.Errorf("the log before the restart: %q", logs)
	}
	mustGet(t, base+"/become-ready")
	shared.waitReady(t, ns, "probed", true)

	// Deletion: preStop sleeps for five seconds, then SIGTERM, and the program drains for a second; it serves all the while.
	follow := exec.Command(binary, "kubectl", "--kubeconfig", shared.Kubeconfig, "-n", ns, "logs", "-f", "probed")
	followed := &safeBuffer{}
	follow.Stdout = followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the followed log", func() error {
		if !strings.Contains(followed.String(), "listening on :8080") {
			return fmt.Errorf("it holds %q", followed)
		}
		return nil
	})
	began := time.Now()
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "probed", "--wait=false")
	shared.waitForStates(t, ns, "probed", map[string]int{"false/true/true": 1})
	if _, err := get(base + "/me"); err != nil {
		t.Errorf("while it drains: %v", err)
	}
	shared.waitForStates(t, ns, "probed", map[string]int{})
	if took := time.Since(began); took < 5500*time.Millisecond {
		t.Errorf("preStop and drain take six seconds, the pod was gone after %s", took)
	}
	_ = follow.Wait()
	if !strings.Contains(followed.String(), "got SIGTERM") {
		t.Errorf("the followed log: %q", followed)
	}
}

func TestProcessPodIsKilledAtTheEndOfItsGrace(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	// A shell as process 1 without a handler ignores SIGTERM, as in any container.
	shared.kubectl(t, strings.Replace(podManifest(ns, "deaf", "", ""), "args: [serve-in-pod]", `command: [sh, -c, "echo up; while :; do sleep 0.1; done"]`, 1), "create", "-f", "-")
	shared.waitReady(t, ns, "deaf", true)
	began := time.Now()
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "deaf", "--grace-period=1", "--wait=true", "--timeout=120s")
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("it was gone after %s", took)
	}
}

func TestProcessPodOutcomes(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	once := func(name, policy, command string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"restartPolicy":%q,"containers":[{"name":"main","image":"in-pod","args":["serve-in-pod",%q]}]}}`, name, policy, command)
	}
	phase := func(name string, want v1.PodPhase) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%s of %s", want, name), func() error {
			if s := shared.pod(t, ns, name).Status; s.Phase != want {
				return fmt.Errorf("it is %s: %+v", s.Phase, s.ContainerStatuses)
			}
			return nil
		})
	}
	shared.kubectl(t, once("good", "Never", "exit=0"), "-n", ns, "create", "-f", "-")
	shared.kubectl(t, once("bad", "Never", "exit=4"), "-n", ns, "create", "-f", "-")
	shared.kubectl(t, once("stubborn", "OnFailure", "exit=5"), "-n", ns, "create", "-f", "-")
	phase("good", v1.PodSucceeded)
	phase("bad", v1.PodFailed)
	if s := shared.pod(t, ns, "bad").Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 4 || s.Reason != "Error" {
		t.Errorf("bad ended with %+v", s)
	}
	waitFor(t, "restarts of stubborn", func() error {
		if s := shared.pod(t, ns, "stubborn").Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount < 2 || s[0].LastTerminationState.Terminated == nil || s[0].LastTerminationState.Terminated.ExitCode != 5 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// A Job counts it as done; a completed pod can be deleted.
	shared.kubectl(t, `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"job"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"main","image":"in-pod","args":["serve-in-pod","exit=0"]}]}}}}`, "-n", ns, "create", "-f", "-")
	shared.kubectl(t, "", "-n", ns, "wait", "--for=condition=Complete", "job/job", "--timeout=120s")
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "good", "bad", "stubborn", "--wait=true", "--timeout=120s")

	// What cannot start says why.
	shared.kubectl(t, podManifest(ns, "root", "  securityContext: {runAsNonRoot: true}\n", ""), "create", "-f", "-")
	shared.kubectl(t, podManifest(ns, "volume", "  volumes: [{name: v, configMap: {name: later}}]\n", "    env: [{name: LISTEN, value: ':8080'}]\n    volumeMounts: [{name: v, mountPath: /v}]\n"), "create", "-f", "-")
	for name, why := range map[string]string{"root": "runAsNonRoot", "volume": `configmaps "later" not found`} {
		waitFor(t, "the reason why "+name+" does not start", func() error {
			s := shared.pod(t, ns, name).Status.ContainerStatuses
			if len(s) == 0 || s[0].State.Waiting == nil || !strings.Contains(s[0].State.Waiting.Message, why) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	shared.kubectl(t, "", "-n", ns, "create", "configmap", "later", "--from-literal=a=b")
	shared.waitReady(t, ns, "volume", true)
}

// TestSidecarBesideAnEcho has two local programs, one an init container that stays, and an echo container in one pod network.
func TestSidecarBesideAnEcho(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.kubectl(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: both, namespace: %s}
spec:
  initContainers:
  - {name: first, image: in-pod, args: [serve-in-pod, exit=0]}
  - name: sidecar
    image: in-pod
    restartPolicy: Always
    args: [serve-in-pod]
    env: [{name: LISTEN, value: ":9000"}]
    startupProbe: {exec: {command: [sh, -c, "test $(id -u) = 0"]}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 20}
  containers:
  - {name: app, image: whatever, ports: [{containerPort: 8080}]}
  - name: neighbour
    image: in-pod
    command: [sh, -c, "exec /in-pod serve-in-pod"]
    env: [{name: LISTEN, value: "127.0.0.1:9001"}]
    readinessProbe: {exec: {command: [sh, -c, "exec 3<>/dev/null; test -e /proc/1"]}, timeoutSeconds: 20}
`, ns), "create", "-f", "-")
	shared.waitReady(t, ns, "both", true)
	pod := shared.pod(t, ns, "both")
	for _, port := range []string{"9000/me", "8080/"} {
		mustGet(t, "http://"+pod.Status.PodIP+":"+port)
	}
	if _, err := get("http://" + pod.Status.PodIP + ":9001/me"); err == nil {
		t.Error("what listens on the pod's loopback is reached from outside")
	}
	if s := pod.Status.InitContainerStatuses; len(s) != 2 || s[0].State.Terminated == nil || s[1].State.Running == nil {
		t.Errorf("init containers: %+v", s)
	}
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "both", "--grace-period=10", "--wait=true", "--timeout=120s")
}

// TestEndOfAPodWithASidecar has the hooks of all containers at once, and SIGTERM for the sidecar when the application is gone.
func TestEndOfAPodWithASidecar(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	pod := shared.processPod(t, ns, "ends", `  hostAliases: [{ip: 127.0.0.2, hostnames: [payments, payments.shop]}, {ip: 127.0.0.3, hostnames: [id]}]
  volumes: [{name: common, emptyDir: {}}]
  initContainers:
  - name: sidecar
    image: in-pod
    restartPolicy: Always
    args: [serve-in-pod]
    env: [{name: LISTEN, value: ":9000"}]
    volumeMounts: [{name: common, mountPath: /common}]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo asked > /common/asked"]}}}
`, `    lifecycle: {preStop: {sleep: {seconds: 3}}}
    volumeMounts: [{name: common, mountPath: /common}]
`)
	base := "http://" + pod.Status.PodIP
	for _, port := range []string{":8080", ":9000"} {
		if hosts := mustGet(t, base+port+"/file?path=/etc/hosts"); !strings.HasSuffix(hosts, "127.0.0.2 payments payments.shop\n127.0.0.3 id\n") {
			t.Errorf("/etc/hosts: %q", hosts)
		}
	}
	logs := map[string]*safeBuffer{}
	for _, name := range []string{"main", "sidecar"} {
		follow := exec.Command(binary, "kubectl", "--kubeconfig", shared.Kubeconfig, "-n", ns, "logs", "-f", "--timestamps", "ends", "-c", name)
		log := &safeBuffer{}
		follow.Stdout = log
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = follow.Wait() }()
		waitFor(t, "the followed log of "+name, func() error {
			if !strings.Contains(log.String(), "listening on") {
				return fmt.Errorf("it holds %q", log)
			}
			return nil
		})
		logs[name] = log
	}
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "ends", "--wait=false")
	// The application's own hook is still asleep.
	waitFor(t, "the sidecar's hook", func() error {
		_, err := get(base + ":8080/file?path=/common/asked")
		return err
	})
	askedAt := func(name string) (at time.Time) {
		waitFor(t, "SIGTERM of "+name, func() (err error) {
			for line := range strings.Lines(logs[name].String()) {
				if stamp, found := strings.CutSuffix(line, " got SIGTERM\n"); found {
					at, err = time.Parse(time.RFC3339Nano, stamp)
					return err
				}
			}
			return fmt.Errorf("its log: %q", logs[name])
		})
		return at
	}
	// The application drains for a second after its SIGTERM.
	if app, sidecar := askedAt("main"), askedAt("sidecar"); sidecar.Sub(app) < 900*time.Millisecond {
		t.Errorf("SIGTERM for the application at %s, for the sidecar at %s", app, sidecar)
	}
	shared.kubectl(t, "", "-n", ns, "wait", "--for=delete", "pod/ends", "--timeout=120s")
}
