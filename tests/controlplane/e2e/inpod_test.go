package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// serveInPod is the program of process pods: this test binary in another role. It says what it sees of its container.
func serveInPod() {
	if len(os.Args) > 2 && strings.HasPrefix(os.Args[2], "exit=") {
		code := 0
		_, _ = fmt.Sscanf(os.Args[2], "exit=%d", &code)
		fmt.Println("ending with", code)
		os.Exit(code)
	}
	var ready, alive atomic.Bool
	alive.Store(true)
	healthy := func(b *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if !b.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	}
	http.HandleFunc("/ready", healthy(&ready))
	http.HandleFunc("/alive", healthy(&alive))
	http.HandleFunc("/become-ready", func(http.ResponseWriter, *http.Request) { ready.Store(true) })
	http.HandleFunc("/become-sick", func(http.ResponseWriter, *http.Request) { alive.Store(false) })
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(text)
	})
	http.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(r.URL.Query().Get("path"), []byte("x"), 0o644); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	http.HandleFunc("/me", func(w http.ResponseWriter, _ *http.Request) {
		groups, _ := os.Getgroups()
		host, _ := os.Hostname()
		status, _ := os.ReadFile("/proc/self/status")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "pid": os.Getpid(), "host": host, "env": os.Environ(), "args": os.Args, "status": string(status),
		})
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Println("got SIGTERM")
		time.Sleep(time.Second) // a drain that can be observed
		os.Exit(0)
	}()
	fmt.Println("listening on", os.Getenv("LISTEN"))
	fmt.Println(http.ListenAndServe(os.Getenv("LISTEN"), nil))
	os.Exit(3)
}
