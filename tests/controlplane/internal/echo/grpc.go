package echo

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// grpcService is the service of the echo image; its messages are encoded by hand, field numbers as in its schema.
const grpcService = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/"

// grpc answers Echo and EchoTwo with what it was asked, everything else with UNIMPLEMENTED.
func (s *Server) grpc(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	finish := func(code int, message string) {
		w.Header().Set("Grpc-Status", fmt.Sprint(code))
		if message != "" {
			w.Header().Set("Grpc-Message", message)
		}
	}
	request, err := readMessage(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusOK)
		finish(13, err.Error())
		return
	}
	s.Log(fmt.Sprintf("Received over %s: %s (%s)", r.Proto, r.URL.Path, r.RemoteAddr))
	if method := strings.TrimPrefix(r.URL.Path, grpcService); method != "Echo" && method != "EchoTwo" {
		w.WriteHeader(http.StatusOK)
		finish(12, "unknown method "+r.URL.Path)
		return
	}
	response := message(nil, 1, s.assertions(r))
	response = message(response, 2, request)
	frame := make([]byte, 5, 5+len(response))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(response)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(frame, response...))
	finish(0, "")
}

// readMessage reads one length-prefixed message that is not compressed.
func readMessage(body io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(body, head[:]); err != nil {
		return nil, fmt.Errorf("message head: %w", err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || size > 4<<20 {
		return nil, fmt.Errorf("a compressed message or one of %d bytes", size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	return data, nil
}

func (s *Server) assertions(r *http.Request) []byte {
	b := text(nil, 1, r.URL.Path)
	header := func(name, value string) {
		b = message(b, 2, text(text(nil, 1, name), 2, value))
	}
	header(":authority", r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			header(strings.ToLower(name), v)
		}
	}
	b = text(b, 3, r.Host)
	info := s.info()
	b = message(b, 4, text(text(text(text(nil, 1, info.Namespace), 2, info.Ingress), 3, info.Service), 4, info.Pod))
	if t := describeTLS(r.TLS); t != nil {
		inner := text(text(text(text(nil, 1, t.Version), 2, t.NegotiatedProtocol), 3, t.ServerName), 4, t.CipherSuite)
		for _, c := range t.PeerCertificates {
			inner = text(inner, 5, c)
		}
		b = message(b, 5, inner)
	}
	return b
}

func text(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func message(b []byte, field protowire.Number, inner []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), inner)
}
