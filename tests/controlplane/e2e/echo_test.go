package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
)

// TestEchoContract asks a pod of Gateway API's echo image in every protocol.
func TestEchoContract(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.kubectl(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: %s}
spec:
  volumes: [{name: tls, secret: {secretName: tls}}]
  containers:
  - name: echo
    image: gcr.io/k8s-staging-gateway-api/echo-basic:v1
    volumeMounts: [{name: tls, mountPath: /etc/tls}]
    env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: SERVICE_NAME, value: some-service}
    - {name: TLS_SERVER_CERT, value: /etc/tls/tls.crt}
    - {name: TLS_SERVER_PRIVKEY, value: /etc/tls/tls.key}
`, ns), "create", "-f", "-")
	// Without its Secret it waits.
	waitFor(t, "the missing Secret to be named", func() error {
		s := shared.pod(t, ns, "echo").Status.ContainerStatuses
		if len(s) != 1 || s[0].State.Waiting == nil || !strings.Contains(s[0].State.Waiting.Message, `secrets "tls" not found`) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	cert, key := selfSigned(t, "echo.test")
	b64 := base64.StdEncoding.EncodeToString
	shared.kubectl(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"name":"tls"},"data":{"tls.crt":%q,"tls.key":%q}}`, b64(cert), b64(key)), "-n", ns, "create", "-f", "-")
	shared.waitReady(t, ns, "echo", true)
	ip := shared.pod(t, ns, "echo").Status.PodIP

	type said struct {
		Path, Host, Method, Proto, HTTPPort, Namespace, Service, Pod string
		Headers                                                      map[string][]string
		TLS                                                          *struct{ Version, ServerName, NegotiatedProtocol string }
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	h2c := &http.Client{Timeout: time.Minute, Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}}
	secure := &http.Client{Timeout: time.Minute, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "echo.test"}}}
	plain := &http.Client{Timeout: time.Minute}
	for _, c := range []struct {
		client     *http.Client
		url, proto string
	}{{plain, "http://" + ip + ":3000/a//b?x=1", "HTTP/1.1"}, {h2c, "http://" + ip + ":3001/a//b?x=1", "HTTP/2.0"}, {secure, "https://" + ip + ":8443/a//b?x=1", "HTTP/2.0"}} {
		request, err := http.NewRequest(http.MethodPut, c.url, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Echo-Set-Header", "X-One:1, X-Two:2")
		response, err := c.client.Do(request)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		var got said
		err = json.NewDecoder(response.Body).Decode(&got)
		_ = response.Body.Close()
		if err != nil || got.Path != "/a//b?x=1" || got.Method != "PUT" || got.Proto != c.proto || got.HTTPPort != "3000" || got.Namespace != ns || got.Service != "some-service" || got.Pod != "echo" {
			t.Errorf("%s says %+v %v", c.url, got, err)
		}
		if response.Header.Get("X-One") != "1" || response.Header.Get("X-Two") != "2" {
			t.Errorf("%s sets %v", c.url, response.Header)
		}
		if strings.HasPrefix(c.url, "https") && (got.TLS == nil || got.TLS.Version != "TLSv1.3" || got.TLS.ServerName != "echo.test" || got.TLS.NegotiatedProtocol != "h2") {
			t.Errorf("TLS: %+v", got.TLS)
		}
	}
	if logs := shared.kubectl(t, "", "-n", ns, "logs", "echo"); !strings.Contains(logs, "Echoing back request made to /a//b?x=1 to client (") {
		t.Errorf("logs: %q", logs)
	}
	if tail := shared.kubectl(t, "", "-n", ns, "logs", "echo", "--tail=1", "--timestamps"); strings.Count(tail, "\n") != 1 || !strings.Contains(tail, "Z Echoing") {
		t.Errorf("the last line with its time: %q", tail)
	}
	response, err := plain.Get("http://" + ip + ":3000/status/418")
	if err != nil || response.StatusCode != 418 {
		t.Errorf("/status/418: %v %v", response, err)
	}
	for try, want := range []int{503, 503, 200} {
		response, err := plain.Get("http://" + ip + ":3000/retry/x?uuid=" + ns + "&succeedAfter=2&responseCode=503")
		if err != nil || response.StatusCode != want {
			t.Errorf("try %d: %v %v", try, response, err)
		}
	}
	if response, err := plain.Post("http://"+ip+":3000/retry/x?uuid=reset-"+ns+"&succeedAfter=1", "text/plain", nil); err == nil {
		t.Errorf("a reset is expected: %v", response)
	}

	ws, _, err := websocket.DefaultDialer.Dial("ws://"+ip+":3000/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if kind, data, err := ws.ReadMessage(); err != nil || kind != websocket.BinaryMessage || string(data) != "hello" {
		t.Errorf("WebSocket: %d %q %v", kind, data, err)
	}

	for method, want := range map[string]string{"Echo": "0", "EchoTwo": "0", "EchoThree": "12"} {
		request, err := http.NewRequest(http.MethodPost, "http://"+ip+":3001/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/"+method, strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/grpc")
		request.Header.Set("X-Marker", "here-i-am")
		response, err := h2c.Do(request)
		if err != nil {
			t.Errorf("gRPC %s: %v", method, err)
			continue
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		status := response.Trailer.Get("Grpc-Status")
		if status == "" {
			status = response.Header.Get("Grpc-Status")
		}
		if err != nil || status != want || want == "0" && !(strings.Contains(string(body), "here-i-am") && strings.Contains(string(body), ns)) {
			t.Errorf("gRPC %s: status %q, %q, %v", method, status, body, err)
		}
	}

	// A deletion says goodbye to sockets.
	shared.kubectl(t, "", "-n", ns, "delete", "pod", "echo", "--wait=false")
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("the socket of a deleted pod ends with %v", err)
	}
}

// TestLinesAndDatagrams asks the echo image's servers below HTTP.
func TestLinesAndDatagrams(t *testing.T) {
	t.Parallel()
	ns := shared.namespace(t)
	shared.kubectl(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"lines"},"spec":{"containers":[{"name":"c","image":"echo-basic:1","env":[{"name":"L4_ECHO_SERVER","value":"1"},{"name":"POD_NAME","value":"me"}]}]}}`, "-n", ns, "create", "-f", "-")
	shared.waitReady(t, ns, "lines", true)
	ip := shared.pod(t, ns, "lines").Status.PodIP
	c, err := net.Dial("tcp", ip+":3000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "PING\nIS_TLS\nTEST\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(c)
	var got []string
	for len(got) < 4 && lines.Scan() {
		got = append(got, lines.Text())
	}
	if len(got) != 4 || got[1] != "PONG" || got[2] != "false" || !strings.Contains(got[3], `"pod":"me"`) {
		t.Errorf("lines: %q", got)
	}
	u, err := net.Dial("udp", ip+":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	_ = u.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(u, "hello"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1000)
	n, err := u.Read(answer)
	if err != nil || !strings.Contains(string(answer[:n]), `"request":"hello"`) || !strings.Contains(string(answer[:n]), `"pod":"me"`) {
		t.Errorf("datagram: %q %v", answer[:n], err)
	}
}

func selfSigned(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

// TestHelmInstallsAChart waits for the chart's Deployment of a local program and runs the chart's test.
func TestHelmInstallsAChart(t *testing.T) {
	t.Parallel()
	helm := os.Getenv("TIDEGATE_HELM")
	if helm == "" {
		t.Skip("TIDEGATE_HELM names no helm; tests/cluster.sh builds one")
	}
	ns := shared.namespace(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: sample\nversion: 0.1.0\nkubeVersion: '>=1.33.0-0'\n",
		"templates/app.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}, annotations: {kube: "{{ .Capabilities.KubeVersion }}"}}
    spec:
      containers:
      - {name: app, image: in-pod, args: [serve-in-pod], env: [{name: LISTEN, value: ":8080"}], readinessProbe: {tcpSocket: {port: 8080}}}
`,
		"templates/test.yaml": `apiVersion: v1
kind: Pod
metadata: {name: check, annotations: {helm.sh/hook: test}}
spec:
  restartPolicy: Never
  containers: [{name: check, image: in-pod, args: [serve-in-pod, exit=0]}]
`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"install", "sample", dir, "--wait", "--timeout=120s"}, {"test", "sample", "--timeout=120s"}, {"uninstall", "sample"}} {
		cmd := exec.Command(helm, append([]string{"--kubeconfig", shared.Kubeconfig, "-n", ns}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("helm %s: %v\n%s", args[0], err, out)
		}
		if args[0] == "install" {
			if version := shared.kubectl(t, "", "-n", ns, "get", "deployment", "app", "-o", "jsonpath={.spec.template.metadata.annotations.kube}"); version != "v1.36.3" {
				t.Errorf("helm takes the server for %q", version)
			}
		}
	}
}
