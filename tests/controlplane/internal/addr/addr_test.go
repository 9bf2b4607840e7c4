package addr

import (
	"net/netip"
	"testing"
)

func TestSlotsDoNotMeet(t *testing.T) {
	for a := range Slots {
		for b := a + 1; b < Slots; b++ {
			p, q := Plan{a}, Plan{b}
			for _, pair := range [][2]Range{{p.Pods(), q.Pods()}, {p.ProcessPods(), q.ProcessPods()}, {p.LoadBalancers(), q.LoadBalancers()}} {
				if pair[0].Contains(pair[1].First) || pair[0].Contains(pair[1].Last) {
					t.Errorf("slots %d and %d share %v and %v", a, b, pair[0], pair[1])
				}
			}
			if p.Services().Overlaps(q.Services()) || p.Bridge().Masked().Overlaps(q.Bridge().Masked()) || p.NodeIP(0) == q.NodeIP(0) {
				t.Errorf("slots %d and %d share Services, a bridge or a node", a, b)
			}
		}
	}
}

func TestWhatMustBeLocalIs(t *testing.T) {
	for slot := range Slots {
		p := Plan{slot}
		for _, a := range []netip.Addr{p.NodeIP(0), p.NodeIP(MaxNodes - 1), p.Pods().First, p.Pods().Last, p.LoadBalancers().First, p.LoadBalancers().Last, p.APIService()} {
			if !IsLocal(a) {
				t.Errorf("slot %d: %s is not local", slot, a)
			}
		}
		if IsLocal(p.ProcessPods().First) {
			t.Errorf("slot %d: a local route would shadow %s", slot, p.ProcessPods().First)
		}
		if p.Pods().Contains(p.NodeIP(MaxNodes - 1)) {
			t.Errorf("slot %d: a node has the address of a pod", slot)
		}
	}
}

func TestPoolRestsFreedAddressesAndEnds(t *testing.T) {
	pool := NewPool(Range{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("10.0.1.2")})
	var got []string
	for range 3 {
		a, err := pool.Take(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	if want := []string{"10.0.0.254", "10.0.1.1", "10.0.1.2"}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Fatalf("got %v, want %v", got, want)
	}
	if a, err := pool.Take(netip.Addr{}); err == nil {
		t.Fatalf("an exhausted pool gave %s", a)
	}
	pool.Free(netip.MustParseAddr("10.0.1.1"))
	if a, err := pool.Take(netip.MustParseAddr("10.0.1.1")); err != nil || a.String() != "10.0.1.1" {
		t.Fatalf("a wanted free address: %s %v", a, err)
	}
}
