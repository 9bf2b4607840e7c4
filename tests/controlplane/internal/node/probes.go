package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	probegrpc "k8s.io/kubernetes/pkg/probe/grpc"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
	probetcp "k8s.io/kubernetes/pkg/probe/tcp"
	"k8s.io/utils/ptr"
)

// firstTries is how often a probe asks while a container has not answered yet. A kubelet would wait a whole period
// after the first failure; tests should not.
const firstTries = 50 * time.Millisecond

// probe runs the probes of one run of a container, in the kubelet's order: startup, then readiness beside liveness.
func (c *container) probe(ctx context.Context, p *process) {
	if c.spec.StartupProbe != nil && !c.untilStarted(ctx, p, c.spec.StartupProbe) {
		return
	}
	c.nowStarted()
	if c.spec.LivenessProbe != nil {
		go c.whileAlive(ctx, p, c.spec.LivenessProbe)
	}
	if c.spec.ReadinessProbe == nil {
		c.set(func() { c.ready = true })
		return
	}
	c.followReadiness(ctx, p, c.spec.ReadinessProbe)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func seconds(n int32, otherwise int32) time.Duration {
	if n == 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

// untilStarted returns true at the first success; after too many failures the container is killed.
func (c *container) untilStarted(ctx context.Context, p *process, b *v1.Probe) bool {
	if !sleep(ctx, time.Duration(b.InitialDelaySeconds)*time.Second) {
		return false
	}
	period := seconds(b.PeriodSeconds, 10)
	for failures := int32(0); ; {
		windowEnds := time.Now().Add(period)
		var err error
		for time.Now().Before(windowEnds) {
			if err = c.ask(ctx, p, b); err == nil {
				return true
			}
			if !sleep(ctx, firstTries) {
				return false
			}
		}
		failures++
		if failures >= max(b.FailureThreshold, 1) {
			c.log.add(fmt.Sprintf("startup probe failed: %v", err))
			c.killForProbe(p, b)
			return false
		}
	}
}

func (c *container) whileAlive(ctx context.Context, p *process, b *v1.Probe) {
	if !sleep(ctx, time.Duration(b.InitialDelaySeconds)*time.Second) {
		return
	}
	for failures := int32(0); sleep(ctx, seconds(b.PeriodSeconds, 10)); {
		err := c.ask(ctx, p, b)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if ctx.Err() == nil && failures >= max(b.FailureThreshold, 1) {
			c.log.add(fmt.Sprintf("liveness probe failed: %v", err))
			c.killForProbe(p, b)
			return
		}
	}
}

// killForProbe ends a run as a deletion would; the restart policy decides what follows.
func (c *container) killForProbe(p *process, b *v1.Probe) {
	grace := ptr.Deref(c.pod.object().Spec.TerminationGracePeriodSeconds, 30)
	grace = ptr.Deref(b.TerminationGracePeriodSeconds, grace)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(grace)*time.Second)
	defer cancel()
	p.end(ctx)
}

func (c *container) followReadiness(ctx context.Context, p *process, b *v1.Probe) {
	if !sleep(ctx, time.Duration(b.InitialDelaySeconds)*time.Second) {
		return
	}
	ready := false
	var successes, failures int32
	for {
		if err := c.ask(ctx, p, b); err == nil {
			successes, failures = successes+1, 0
		} else {
			successes, failures = 0, failures+1
		}
		if ctx.Err() != nil {
			return
		}
		if now := ready; !now && successes >= max(b.SuccessThreshold, 1) || now && failures >= max(b.FailureThreshold, 1) {
			ready = !ready
			c.set(func() { c.ready = ready })
		}
		wait := seconds(b.PeriodSeconds, 10)
		if !ready && successes == 0 {
			wait = min(wait, firstTries)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// ask probes once; nil is success.
func (c *container) ask(ctx context.Context, p *process, b *v1.Probe) error {
	timeout := seconds(b.TimeoutSeconds, 1)
	ip := c.pod.ip.String()
	result, said := probe.Failure, ""
	var err error
	switch {
	case b.HTTPGet != nil:
		var request, failed = probehttp.NewRequestForHTTPGetAction(b.HTTPGet, c.spec, ip, "probe")
		if failed != nil {
			return failed
		}
		// As a kubelet: the certificate of a pod is not checked.
		prober := probehttp.NewWithTLSConfig(&tls.Config{InsecureSkipVerify: true}, false) //nolint:gosec // see above
		result, said, err = prober.Probe(request, timeout)
	case b.TCPSocket != nil:
		port, failed := probe.ResolveContainerPort(b.TCPSocket.Port, c.spec)
		if failed != nil {
			return failed
		}
		host := ip
		if b.TCPSocket.Host != "" {
			host = b.TCPSocket.Host
		}
		result, said, err = probetcp.New().Probe(host, port, timeout)
	case b.GRPC != nil:
		result, said, err = probegrpc.New().Probe(ip, ptr.Deref(b.GRPC.Service, ""), int(b.GRPC.Port), timeout)
	case b.Exec != nil:
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return p.exec(limited, b.Exec.Command)
	default:
		return errors.New("a probe without an action")
	}
	if err != nil {
		return err
	}
	if result != probe.Success && result != probe.Warning {
		return errors.New(said)
	}
	return nil
}
