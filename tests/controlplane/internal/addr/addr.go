// Package addr plans the addresses of a cluster. It knows numbers only: no sockets, no Kubernetes.
//
// Several clusters may share one network namespace. Each takes a slot of 0 to 15 and with it its own sixteenth of
// every range, so that no two of them meet.
package addr

import (
	"fmt"
	"net/netip"
)

// Slots is the number of clusters that fit into one network namespace.
const Slots = 16

// Local are the ranges in which every address is local inside a namespace made by `netns`: nodes and pods, gateways
// (lower half) and load balancers (upper half), cluster addresses of Services.
var Local = []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"),
	netip.MustParsePrefix("10.245.0.0/16"),
	netip.MustParsePrefix("10.96.0.0/16"),
}

// Plan holds the ranges of one cluster.
type Plan struct {
	Slot int
}

// NodeIP is the address of node number i: 10.244.0.1 is the first of slot 0.
func (p Plan) NodeIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(p.Slot * 16), byte(1 + i)})
}

// MaxNodes is the number of nodes for which NodeIP has an address.
const MaxNodes = 254

// Pods is the range of fake pods, from 10.244.1.1 in slot 0.
func (p Plan) Pods() Range {
	return Range{netip.AddrFrom4([4]byte{10, 244, byte(p.Slot*16 + 1), 1}), netip.AddrFrom4([4]byte{10, 244, byte(p.Slot*16 + 15), 254})}
}

// ProcessPods is the range of process pods. It is not local: a local route would shadow the bridge behind which they live.
func (p Plan) ProcessPods() Range {
	return Range{netip.AddrFrom4([4]byte{10, 243, byte(p.Slot * 16), 2}), netip.AddrFrom4([4]byte{10, 243, byte(p.Slot*16 + 15), 254})}
}

// Bridge is the address of the bridge of the process pods, with the length of its network.
func (p Plan) Bridge() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 243, byte(p.Slot * 16), 1}), 20)
}

// BridgeName is the name of the bridge's device.
func (p Plan) BridgeName() string { return fmt.Sprintf("cp%d", p.Slot) }

// LoadBalancers is the range of addresses for Services of type LoadBalancer, from 10.245.128.1 in slot 0.
func (p Plan) LoadBalancers() Range {
	return Range{netip.AddrFrom4([4]byte{10, 245, byte(128 + p.Slot*8), 1}), netip.AddrFrom4([4]byte{10, 245, byte(128 + p.Slot*8 + 7), 254})}
}

// Services is the range from which the API server takes cluster addresses.
func (p Plan) Services() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96, byte(p.Slot * 16), 0}), 20)
}

// APIService is the cluster address of the Service `kubernetes`: the first of Services.
func (p Plan) APIService() netip.Addr { return p.Services().Addr().Next() }

// IsLocal says whether an address can be bound inside a namespace made by `netns`.
func IsLocal(a netip.Addr) bool {
	for _, p := range Local {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// Range is a run of addresses, both ends included.
type Range struct {
	First, Last netip.Addr
}

// Contains says whether the address lies in the range.
func (r Range) Contains(a netip.Addr) bool { return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 }

// Pool hands out the addresses of a range, the least recently used first, so that a freed address rests before it is
// used again. It is not safe for concurrent use.
type Pool struct {
	span Range
	next netip.Addr
	used map[netip.Addr]bool
}

// NewPool makes a pool in which every address is free.
func NewPool(r Range) *Pool { return &Pool{span: r, next: r.First, used: map[netip.Addr]bool{}} }

// Take marks one free address as used, the wanted one if it is in the range and free. It fails when all are used.
func (p *Pool) Take(wanted netip.Addr) (netip.Addr, error) {
	if wanted.IsValid() && p.span.Contains(wanted) && !p.used[wanted] {
		p.used[wanted] = true
		return wanted, nil
	}
	for start := p.next; ; {
		a := p.next
		p.next = p.next.Next()
		if !p.span.Contains(p.next) {
			p.next = p.span.First
		}
		last := a.As4()[3]
		if !p.used[a] && last != 0 && last != 255 {
			p.used[a] = true
			return a, nil
		}
		if p.next == start {
			return netip.Addr{}, fmt.Errorf("all addresses from %s to %s are used", p.span.First, p.span.Last)
		}
	}
}

// Free gives an address back.
func (p *Pool) Free(a netip.Addr) { delete(p.used, a) }
