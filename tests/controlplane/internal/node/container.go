package node

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tidegate.dev/controlplane/internal/echo"
	"tidegate.dev/controlplane/internal/images"
	"tidegate.dev/controlplane/internal/netns"
)

// container is one container of a pod: a local program if its image has one, else an echo server in this process.
type container struct {
	pod     *pod
	spec    *v1.Container
	init    bool
	sidecar bool
	program *images.Image

	// halt closes when the container must not be started again; done when it has ended for good.
	halt     chan struct{}
	haltOnce sync.Once
	done     chan struct{}
	// startedOnce closes when it has been up once, its startup probe included.
	startedOnce chan struct{}
	startOnce   sync.Once
	// poke tells that the pod's object has changed.
	poke    chan struct{}
	began   bool // run was called; under the pod's lock
	running *process

	// Under the pod's lock:
	state, last      v1.ContainerState
	restarts         int32
	ready, isStarted bool
	log, previousLog *logBuffer
}

func newContainer(p *pod, spec *v1.Container) *container {
	c := &container{
		pod: p, spec: spec, halt: make(chan struct{}), done: make(chan struct{}), startedOnce: make(chan struct{}), log: newLogBuffer(), poke: make(chan struct{}, 1),
		state: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "PodInitializing"}},
	}
	if i, ok := p.agent.images.Find(spec.Image); ok {
		c.program = &i
	}
	return c
}

// set changes the container under the pod's lock and asks for a report.
func (c *container) set(f func()) {
	c.pod.mu.Lock()
	f()
	c.pod.mu.Unlock()
	c.pod.changed()
}

func (c *container) waiting(reason, message string) {
	c.set(func() {
		c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
		c.ready, c.isStarted = false, false
	})
}

func (c *container) nowRunning() {
	c.set(func() { c.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Now()}} })
}

func (c *container) nowStarted() {
	c.set(func() { c.isStarted = true })
	c.startOnce.Do(func() { close(c.startedOnce) })
}

func (c *container) exitCode() int32 {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if t := c.state.Terminated; t != nil {
		return t.ExitCode
	}
	return 0
}

// statusLocked is the container's part of the pod's status; the caller holds the pod's lock.
func (c *container) statusLocked(sandbox string) v1.ContainerStatus {
	s := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: "fake://" + c.spec.Image, ContainerID: "fake://" + string(c.pod.latest.UID) + "/" + c.spec.Name,
		State: c.state, LastTerminationState: c.last, RestartCount: c.restarts, Ready: c.ready, Started: ptr.To(c.isStarted),
	}
	if sandbox != "" {
		s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CreatePodSandboxError", Message: sandbox}}
	}
	return s
}

// run leads the container through its life. An echo server stands in for an init container by ending at once.
func (c *container) run() {
	c.pod.mu.Lock()
	c.began = true
	c.pod.mu.Unlock()
	defer close(c.done)
	switch {
	case c.program != nil:
		c.runProgram()
	case c.init && !c.sidecar:
		now := metav1.Now()
		c.set(func() {
			c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}}
		})
	default:
		c.runEcho()
	}
}

// prepareStop runs the container's preStop hook, before its turn to end comes.
func (c *container) prepareStop(ctx context.Context) {
	c.pod.mu.Lock()
	running := c.running
	c.pod.mu.Unlock()
	if running != nil {
		running.prepareEnd(ctx)
	}
}

// stop ends the container within the time of the context.
func (c *container) stop(ctx context.Context) {
	c.haltOnce.Do(func() { close(c.halt) })
	c.pod.mu.Lock()
	began, running := c.began, c.running
	c.pod.mu.Unlock()
	if !began {
		return
	}
	if running != nil {
		running.end(ctx)
	}
	<-c.done
}

func (c *container) isHalted() bool {
	select {
	case <-c.halt:
		return true
	default:
		return false
	}
}

// pause waits; false when the container must end.
func (c *container) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.halt:
	case <-c.pod.gone:
	case <-c.pod.stopping:
	}
	return false
}

// runEcho answers for the container until the pod's end, and then for as long as its annotation says.
func (c *container) runEcho() {
	ctx := context.Background()
	server := &echo.Server{
		Log:      c.log.add,
		ReadFile: func(name string) ([]byte, error) { return c.pod.readMounted(ctx, c.spec, name) },
	}
	defer c.log.end()
	var opened []func()
	for {
		var err error
		reason := "CreateContainerConfigError"
		if server.Env, err = c.pod.environment(ctx, c.spec); err == nil {
			reason = "ContainerCreating"
			err = server.CheckTLS()
		}
		if err == nil {
			break
		}
		c.waiting(reason, err.Error())
		if !c.pause(200 * time.Millisecond) {
			return
		}
	}
	c.nowRunning()
	if d, err := time.ParseDuration(c.pod.annotation("start")); err == nil && !c.pause(d) {
		return
	}
	for {
		var err error
		if opened, err = c.open(server); err == nil {
			break
		}
		c.waiting("RunContainerError", err.Error())
		if !c.pause(200 * time.Millisecond) {
			return
		}
		c.nowRunning()
	}
	for _, serve := range opened {
		serve()
	}
	c.nowStarted()
	for ending := false; !ending; {
		ready := c.pod.annotation("ready") != "false"
		c.pod.mu.Lock()
		differs := c.ready != ready
		c.pod.mu.Unlock()
		if differs {
			c.set(func() { c.ready = ready })
		}
		// Annotations may change at any time.
		select {
		case <-c.poke:
		case <-c.halt:
			ending = true
		case <-c.pod.gone:
			ending = true
		case <-c.pod.stopping:
			ending = true
		}
	}
	c.drainEcho(server)
	c.set(func() {
		now := metav1.Now()
		c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}}
		c.ready = false
	})
}

// drainEcho serves on for `fakenode/terminate`, cut by the grace period, and lets running requests end within it.
func (c *container) drainEcho(server *echo.Server) {
	o := c.pod.object()
	grace := time.Duration(ptr.Deref(o.DeletionGracePeriodSeconds, 30)) * time.Second
	serveOn := time.Second
	if d, err := time.ParseDuration(c.pod.annotation("terminate")); err == nil {
		serveOn = d
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	select {
	case <-c.pod.gone:
		cancel()
	case <-ctx.Done():
	case <-time.After(serveOn):
	}
	go func() {
		select {
		case <-c.pod.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	server.Shutdown(ctx)
}

// open binds all sockets of an echo container and returns what starts to serve on each.
func (c *container) open(server *echo.Server) ([]func(), error) {
	if c.pod.annotation("serve") == "false" {
		return nil, nil
	}
	sockets, err := c.sockets(server)
	if err != nil {
		return nil, err
	}
	host := c.pod.ip.String()
	if c.pod.network != nil {
		host = "0.0.0.0"
	}
	var starts []func()
	var closers []func()
	for _, s := range sockets {
		var l net.Listener
		var u net.PacketConn
		bind := func() (err error) {
			at := net.JoinHostPort(host, strconv.Itoa(s.Port))
			if s.Network == "udp" {
				u, err = net.ListenPacket("udp4", at)
			} else {
				l, err = net.Listen("tcp4", at)
			}
			return err
		}
		if c.pod.network != nil {
			err = netns.Do(c.pod.network.ns, bind)
		} else {
			err = bind()
		}
		if err != nil {
			for _, f := range closers {
				f()
			}
			return nil, err
		}
		closers = append(closers, func() {
			if l != nil {
				_ = l.Close()
			} else {
				_ = u.Close()
			}
		})
		starts = append(starts, func() {
			if err := server.Serve(s, l, u); err != nil {
				c.log.add(fmt.Sprintf("port %d: %v", s.Port, err))
			}
		})
	}
	return starts, nil
}

// sockets are those of the echo image's contract, or HTTP on every declared TCP port, or on 80 and 8080 if none is.
func (c *container) sockets(server *echo.Server) ([]echo.Socket, error) {
	name, _ := images.SplitTag(c.spec.Image)
	if strings.Contains(name[strings.LastIndexByte(name, '/')+1:], "echo-basic") {
		return server.Contract()
	}
	for variable, value := range map[string]string{"NAMESPACE": c.pod.object().Namespace, "POD_NAME": c.pod.object().Name} {
		if server.Env[variable] == "" {
			server.Env[variable] = value
		}
	}
	var sockets []echo.Socket
	for _, port := range c.spec.Ports {
		if port.Protocol == v1.ProtocolTCP || port.Protocol == "" {
			sockets = append(sockets, echo.HTTP(int(port.ContainerPort)))
		}
	}
	if len(c.spec.Ports) == 0 {
		sockets = []echo.Socket{echo.HTTP(80), echo.HTTP(8080)}
	}
	return sockets, nil
}
