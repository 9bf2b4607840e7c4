// Answers every request with what Go's net/http understood of it, as JSON; bytes are in hex. Prints its port.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fields := [][2]string{{"host", hex.EncodeToString([]byte(r.Host))}}
	for name, values := range r.Header {
		for _, value := range values {
			fields = append(fields, [2]string{strings.ToLower(name), hex.EncodeToString([]byte(value))})
		}
	}
	text, _ := json.Marshal(map[string]any{
		"method": r.Method, "target": hex.EncodeToString([]byte(r.RequestURI)), "fields": fields,
		"body": hex.EncodeToString(body),
	})
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.Write(text)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		// Ends with whoever started it.
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	panic(http.Serve(listener, http.HandlerFunc(answer)))
}
