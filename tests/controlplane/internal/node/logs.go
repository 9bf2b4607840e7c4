package node

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// logLines bounds what one container keeps: the oldest lines go first.
const logLines = 20000

type logLine struct {
	at   time.Time
	text string
}

// logBuffer holds what a container has written.
type logBuffer struct {
	mu      sync.Mutex
	lines   []logLine
	dropped int
	ended   bool
	changed chan struct{}
}

func newLogBuffer() *logBuffer { return &logBuffer{changed: make(chan struct{})} }

func (b *logBuffer) add(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, logLine{time.Now(), text})
	if len(b.lines) > logLines {
		b.lines = b.lines[len(b.lines)-logLines*9/10:]
		b.dropped += logLines / 10
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// end tells those who follow that nothing more will come.
func (b *logBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.ended = true
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// from returns the lines from a position on, the next position, and a channel that closes at the next change.
func (b *logBuffer) from(position int) ([]logLine, int, bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := min(max(0, position-b.dropped), len(b.lines))
	return append([]logLine(nil), b.lines[start:]...), b.dropped + len(b.lines), b.ended, b.changed
}

// copyFrom adds the lines of a stream until it ends.
func (b *logBuffer) copyFrom(r io.Reader) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			b.add(strings.TrimSuffix(text, "\n"))
		}
		if err != nil {
			return
		}
	}
}

// serveKubelet answers for logs at the address of each node. Only the API server's certificate is let in.
func (a *agent) serveKubelet() error {
	file := func(name string) string { return filepath.Join(a.config.PKI, name) }
	pair, err := tls.LoadX509KeyPair(file("kubelet.crt"), file("kubelet.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(file("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.containerLogs)
	for i := range a.config.Nodes {
		l, err := net.Listen("tcp", net.JoinHostPort(a.config.Plan.NodeIP(i).String(), strconv.Itoa(kubeletPort)))
		if err != nil {
			return fmt.Errorf("kubelet of %s: %w", nodeName(i), err)
		}
		server := &http.Server{Handler: mux, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = server.ServeTLS(l, "", "") }()
	}
	return nil
}

func (a *agent) containerLogs(w http.ResponseWriter, r *http.Request) {
	p := a.findPod(r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		http.Error(w, "no such pod on this node", http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	buffer := p.logOf(r.PathValue("container"), q.Get("previous") == "true")
	if buffer == nil {
		http.Error(w, "no such container, or it has no earlier run", http.StatusBadRequest)
		return
	}
	var since time.Time
	if t, err := time.Parse(time.RFC3339, q.Get("sinceTime")); err == nil {
		since = t
	}
	if n, err := strconv.Atoi(q.Get("sinceSeconds")); err == nil {
		since = time.Now().Add(-time.Duration(n) * time.Second)
	}
	left := int64(1) << 62
	if n, err := strconv.ParseInt(q.Get("limitBytes"), 10, 64); err == nil {
		left = n
	}
	w.Header().Set("Content-Type", "text/plain")
	lines, position, ended, changed := buffer.from(0)
	if tail, err := strconv.Atoi(q.Get("tailLines")); err == nil && tail < len(lines) {
		lines = lines[len(lines)-max(tail, 0):]
	}
	for {
		for _, l := range lines {
			if l.at.Before(since) {
				continue
			}
			text := l.text + "\n"
			if q.Get("timestamps") == "true" {
				text = l.at.UTC().Format(time.RFC3339Nano) + " " + text
			}
			text = text[:min(int64(len(text)), left)]
			left -= int64(len(text))
			if _, err := io.WriteString(w, text); err != nil || left == 0 {
				return
			}
		}
		if q.Get("follow") != "true" || ended {
			return
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		lines, position, ended, changed = buffer.from(position)
	}
}
