package echo

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
)

// serveLines greets and answers the lines TEST (who am I, as JSON), IS_TLS and PING.
func (s *Server) serveLines(l net.Listener, _ net.PacketConn) {
	s.onClose(func(context.Context) error { return l.Close() })
	s.Log(fmt.Sprintf("Starting server, listening on %s (tcp)", l.Addr()))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				s.answerLines(c)
				_ = c.Close()
			}()
		}
	}()
}

func (s *Server) answerLines(c net.Conn) {
	said := map[string]any{
		"namespace": s.Env["NAMESPACE"], "ingress": s.Env["INGRESS_NAME"], "service": s.Env["SERVICE_NAME"], "pod": s.Env["POD_NAME"],
		"tcpport": s.orDefault("TCP_PORT", "3000"), "tlsport": s.orDefault("TLS_PORT", "8443"), "isTLS": false,
	}
	t, secure := c.(*tls.Conn)
	if secure {
		if err := t.Handshake(); err != nil {
			s.Log(fmt.Sprintf("TLS handshake: %v", err))
			return
		}
		state := t.ConnectionState()
		said["isTLS"] = true
		said["tls"] = map[string]string{
			"version": tls.VersionName(state.Version), "serverName": state.ServerName, "negotiatedProtocol": state.NegotiatedProtocol,
			"curves": state.CurveID.String(), "cipherSuite": tls.CipherSuiteName(state.CipherSuite),
		}
	}
	payload, err := json.Marshal(said)
	if err != nil {
		return
	}
	if _, err := fmt.Fprint(c, "Gateway API Test TCP Server\n"); err != nil {
		return
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		s.Log(fmt.Sprintf("Received line %q from %s", lines.Text(), c.RemoteAddr()))
		switch lines.Text() {
		case "TEST":
			_, err = fmt.Fprintf(c, "%s\n", payload)
		case "IS_TLS":
			_, err = fmt.Fprintf(c, "%t\n", secure)
		case "PING":
			_, err = fmt.Fprint(c, "PONG\n")
		}
		if err != nil {
			return
		}
	}
}

func (s *Server) orDefault(variable, otherwise string) string {
	if v := s.Env[variable]; v != "" {
		return v
	}
	return otherwise
}

// serveDatagrams answers every datagram with its text and the pod, as JSON.
func (s *Server) serveDatagrams(_ net.Listener, u net.PacketConn) {
	s.onClose(func(context.Context) error { return u.Close() })
	s.Log(fmt.Sprintf("Starting server, listening on %s (udp)", u.LocalAddr()))
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, from, err := u.ReadFrom(buffer)
			if err != nil {
				return
			}
			s.Log(fmt.Sprintf("Received UDP %s from %s", buffer[:n], from))
			said, err := json.Marshal(struct {
				Request string `json:"request"`
				podInfo
			}{string(buffer[:n]), s.info()})
			if err == nil {
				_, _ = u.WriteTo(said, from)
			}
		}
	}()
}
