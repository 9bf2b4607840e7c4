// Package echo answers as the pods of tests do: the contract of Gateway API's echo image over HTTP/1.1, h2c, TLS,
// WebSocket and gRPC, and its line protocols over TCP and UDP. It knows an environment and listeners, not Kubernetes.
package echo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

// Server is one echoing container.
type Server struct {
	// Env is the environment of the container: ports, certificate files and what is said about the pod.
	Env map[string]string
	// Log takes one line, without its end.
	Log func(line string)
	// ReadFile reads a mounted file.
	ReadFile func(path string) ([]byte, error)

	mu      sync.Mutex
	closers []func(context.Context) error
	tries   map[string]int
	open    map[net.Conn]bool
}

// Socket is one address that a container wants to listen on.
type Socket struct {
	Network string // tcp or udp
	Port    int
	serve   func(s *Server, l net.Listener, u net.PacketConn)
	tls     bool
}

// Contract lists the sockets of the echo image, chosen by its environment as the image does.
func (s *Server) Contract() ([]Socket, error) {
	port := func(variable string, otherwise int) (int, error) {
		text, ok := s.Env[variable]
		if !ok || text == "" {
			return otherwise, nil
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("%s: %q is no port", variable, text)
		}
		return int(n), nil
	}
	var sockets []Socket
	var failed error
	add := func(network, variable string, otherwise int, secure bool, serve func(*Server, net.Listener, net.PacketConn)) {
		n, err := port(variable, otherwise)
		failed = errors.Join(failed, err)
		sockets = append(sockets, Socket{network, n, serve, secure})
	}
	layer4 := false
	if s.Env["TCP_ECHO_SERVER"] != "" || s.Env["L4_ECHO_SERVER"] != "" {
		layer4 = true
		add("tcp", "TCP_PORT", 3000, false, (*Server).serveLines)
		if s.hasCertificate() {
			add("tcp", "TLS_PORT", 8443, true, (*Server).serveLines)
		}
	}
	if s.Env["UDP_ECHO_SERVER"] != "" || s.Env["L4_ECHO_SERVER"] != "" {
		layer4 = true
		add("udp", "UDP_PORT", 8080, false, (*Server).serveDatagrams)
	}
	if layer4 {
		return sockets, failed
	}
	add("tcp", "HTTP_PORT", 3000, false, (*Server).serveHTTP)
	if s.Env["GRPC_ECHO_SERVER"] == "" {
		add("tcp", "H2C_PORT", 3001, false, (*Server).serveHTTP)
	}
	if s.hasCertificate() {
		add("tcp", "HTTPS_PORT", 8443, true, (*Server).serveHTTP)
	}
	return sockets, failed
}

// HTTP is a socket that speaks HTTP/1.1 and h2c, for containers of any other image.
func HTTP(port int) Socket { return Socket{Network: "tcp", Port: port, serve: (*Server).serveHTTP} }

func (s *Server) keyFile() string {
	if name := s.Env["TLS_SERVER_PRIVKEY"]; name != "" {
		return name
	}
	return s.Env["TLS_SERVER_PRIV_KEY"]
}

func (s *Server) hasCertificate() bool { return s.Env["TLS_SERVER_CERT"] != "" && s.keyFile() != "" }

// Serve begins to answer on an open socket; exactly one of l and u is set. It does not block.
func (s *Server) Serve(socket Socket, l net.Listener, u net.PacketConn) error {
	if l != nil {
		l = &tracked{l, s}
	}
	if socket.tls {
		config, err := s.tlsConfig()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, config)
	}
	socket.serve(s, l, u)
	return nil
}

// CheckTLS says whether the certificate that the environment names can be read; nil if it names none.
func (s *Server) CheckTLS() error {
	if !s.hasCertificate() {
		return nil
	}
	_, err := s.tlsConfig()
	return err
}

func (s *Server) tlsConfig() (*tls.Config, error) {
	cert, err := s.ReadFile(s.Env["TLS_SERVER_CERT"])
	if err != nil {
		return nil, err
	}
	key, err := s.ReadFile(s.keyFile())
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if file := s.Env["TLS_CLIENT_CACERTS"]; file != "" {
		text, err := s.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", file)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return config, nil
}

// Shutdown stops accepting at once, lets running requests end until the context does, and then cuts what is left.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	closers := s.closers
	s.closers = nil
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range closers {
		all.Go(func() { _ = c(ctx) })
	}
	all.Wait()
	// Connections that were taken over (h2c, WebSocket) are not the HTTP server's any more.
	for s.openConnections() > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
}

func (s *Server) openConnections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// tracked is a listener whose connections the server knows until they are closed.
type tracked struct {
	net.Listener
	s *Server
}

func (t *tracked) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	k := &trackedConn{TCPConn: c.(*net.TCPConn), s: t.s}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.s.open == nil {
		t.s.open = map[net.Conn]bool{}
	}
	t.s.open[k] = true
	return k, nil
}

type trackedConn struct {
	*net.TCPConn
	s    *Server
	once sync.Once
}

func (c *trackedConn) Close() error {
	// Not under the lock of the server while it closes all: that holds it already.
	c.once.Do(func() { go c.forget() })
	return c.TCPConn.Close()
}

func (c *trackedConn) forget() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	delete(c.s.open, c)
}

func (s *Server) onClose(f func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, f)
}

func (s *Server) serveHTTP(l net.Listener, _ net.PacketConn) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.echo)
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "OK") })
	mux.HandleFunc("/status/", s.status)
	mux.HandleFunc("/retry/", s.retry)
	mux.HandleFunc("/ws", s.websocket)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			s.grpc(w, r)
			return
		}
		// The mux would redirect a path with empty elements; the echo shall show it.
		for strings.Contains(r.URL.Path, "//") {
			r.URL.Path = strings.ReplaceAll(r.URL.Path, "//", "/")
		}
		mux.ServeHTTP(w, r)
	})
	h2 := &http2.Server{}
	server := &http.Server{Handler: h2c.NewHandler(handler, h2), ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(logWriter{s}, "", 0)}
	// Tells the HTTP/2 half about a shutdown, and answers h2 where TLS has chosen it.
	if err := http2.ConfigureServer(server, h2); err != nil {
		s.Log(fmt.Sprintf("HTTP/2: %v", err))
	}
	s.onClose(func(ctx context.Context) error {
		if err := server.Shutdown(ctx); err != nil {
			return server.Close()
		}
		return nil
	})
	s.Log(fmt.Sprintf("Starting server, listening on %s (http)", l.Addr()))
	go func() { _ = server.Serve(l) }()
}

type logWriter struct{ s *Server }

func (w logWriter) Write(b []byte) (int, error) {
	w.s.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

type podInfo struct {
	Namespace string `json:"namespace"`
	Ingress   string `json:"ingress"`
	Service   string `json:"service"`
	Pod       string `json:"pod"`
}

func (s *Server) info() podInfo {
	return podInfo{s.Env["NAMESPACE"], s.Env["INGRESS_NAME"], s.Env["SERVICE_NAME"], s.Env["POD_NAME"]}
}

type answer struct {
	Path     string              `json:"path"`
	Host     string              `json:"host"`
	Method   string              `json:"method"`
	Proto    string              `json:"proto"`
	Headers  map[string][]string `json:"headers"`
	HTTPPort string              `json:"httpPort"`
	podInfo
	TLS *tlsInfo `json:"tls,omitempty"`
}

type tlsInfo struct {
	Version            string   `json:"version"`
	PeerCertificates   []string `json:"peerCertificates,omitempty"`
	ServerName         string   `json:"serverName"`
	NegotiatedProtocol string   `json:"negotiatedProtocol,omitempty"`
	CipherSuite        string   `json:"cipherSuite"`
}

func describeTLS(state *tls.ConnectionState) *tlsInfo {
	if state == nil {
		return nil
	}
	info := &tlsInfo{
		Version:    strings.ReplaceAll(tls.VersionName(state.Version), "TLS ", "TLSv"),
		ServerName: state.ServerName, NegotiatedProtocol: state.NegotiatedProtocol, CipherSuite: tls.CipherSuiteName(state.CipherSuite),
	}
	for _, c := range state.PeerCertificates {
		info.PeerCertificates = append(info.PeerCertificates, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	return info
}

// echo answers with what it was asked. The log line is part of the contract: tests of mirroring look for it.
func (s *Server) echo(w http.ResponseWriter, r *http.Request) {
	s.Log(fmt.Sprintf("Echoing back request made to %s to client (%s)", r.RequestURI, r.RemoteAddr))
	if err := pause(r.Context(), r.URL.Query().Get("delay")); err != nil {
		refuse(w, err)
		return
	}
	port := s.Env["HTTP_PORT"]
	if port == "" {
		port = "3000"
	}
	text, err := json.MarshalIndent(answer{r.RequestURI, r.Host, r.Method, r.Proto, r.Header, port, s.info(), describeTLS(r.TLS)}, "", " ")
	if err != nil {
		refuse(w, err)
		return
	}
	for _, list := range r.Header["X-Echo-Set-Header"] {
		for pair := range strings.SplitSeq(list, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), ":")
			// Not through Add, which would change the case of the name.
			if old := w.Header()[name]; len(old) > 0 {
				value = old[0] + "," + strings.TrimSpace(value)
			}
			w.Header()[name] = []string{value}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text)
}

func pause(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return nil
}

func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
}

// status answers /status/NNN with that code.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/"))
	if err != nil || code < 100 || code > 999 {
		code = http.StatusBadRequest
	}
	w.WriteHeader(code)
}

// retry fails the first tries of one uuid: with responseCode if it is given, else with a reset; then it echoes.
func (s *Server) retry(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id := q.Get("uuid")
	after, err := strconv.Atoi(q.Get("succeedAfter"))
	if id == "" || err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	if s.tries == nil {
		s.tries = map[string]int{}
	}
	s.tries[id]++
	try := s.tries[id]
	s.mu.Unlock()
	if try > after {
		s.echo(w, r)
		return
	}
	s.Log(fmt.Sprintf("Failing try %d of %s", try, id))
	if err := pause(r.Context(), q.Get("delayRetry")); err != nil {
		refuse(w, err)
		return
	}
	if code, err := strconv.Atoi(q.Get("responseCode")); err == nil && code >= 100 && code <= 999 {
		w.WriteHeader(code)
		return
	}
	reset(w)
}

// reset ends the connection with a RST; on HTTP/2, which cannot be hijacked, the stream.
func reset(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if c, _, err := h.Hijack(); err == nil {
			if t, ok := c.(interface{ SetLinger(int) error }); ok {
				_ = t.SetLinger(0)
			}
			_ = c.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

// websocket sends every message back as it came.
func (s *Server) websocket(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	s.Log(fmt.Sprintf("established websocket connection %s", c.RemoteAddr()))
	stop := make(chan struct{})
	// A hijacked connection is no longer the server's: its end must be told at a shutdown, as a well-behaved pod does.
	s.onClose(func(context.Context) error {
		select {
		case <-stop:
		default:
			text := websocket.FormatCloseMessage(websocket.CloseGoingAway, "shutting down")
			_ = c.WriteControl(websocket.CloseMessage, text, time.Now().Add(time.Second))
			_ = c.Close()
		}
		return nil
	})
	defer close(stop)
	defer func() { _ = c.Close() }()
	for {
		kind, data, err := c.ReadMessage()
		if err != nil {
			return
		}
		if err := c.WriteMessage(kind, data); err != nil {
			return
		}
	}
}
