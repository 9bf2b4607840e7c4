package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// health asks the parts whether they are ready.
type health struct {
	config *Config
	client *http.Client
}

func newHealth(c *Config, ca, cert, key []byte) (*health, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	// No reuse of connections: one to a part that was stopped would hang.
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}, DisableKeepAlives: true}
	return &health{c, &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// wait returns when the part is ready, or says why it is not within the time.
func (h *health) wait(name string, pipe io.Reader, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := h.config
	var urls []string
	switch name {
	case "etcd":
		urls = []string{fmt.Sprintf("http://127.0.0.1:%d/health", c.EtcdPort)}
	case "apiserver":
		urls = []string{c.Server + "/readyz"}
	case "kcm":
		// Pods are refused before their namespace has its service account.
		urls = []string{fmt.Sprintf("https://127.0.0.1:%d/healthz", c.ManagerPort), c.Server + "/api/v1/namespaces/default/serviceaccounts/default"}
	case "node":
		return waitForByte(ctx, pipe)
	}
	for _, url := range urls {
		if err := h.waitFor(ctx, url); err != nil {
			return fmt.Errorf("%s is not ready after %s: %w", name, timeout, err)
		}
	}
	return nil
}

func (h *health) waitFor(ctx context.Context, url string) error {
	last := errors.New("no answer")
	for ctx.Err() == nil {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := h.client.Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s answers %s", url, response.Status)
		}
		if ctx.Err() == nil {
			last = err
		}
		time.Sleep(15 * time.Millisecond)
	}
	return last
}

// waitForByte waits for the byte that a part writes when it is ready.
func waitForByte(ctx context.Context, pipe io.Reader) error {
	if f, ok := pipe.(*os.File); ok {
		deadline, _ := ctx.Deadline()
		_ = f.SetReadDeadline(deadline)
	}
	var b [1]byte
	if _, err := io.ReadFull(pipe, b[:]); err != nil {
		return fmt.Errorf("node is not ready: %w", err)
	}
	return nil
}
