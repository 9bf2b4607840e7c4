package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"

	"tidegate.dev/controlplane/internal/netns"
)

// podNetwork is the namespace of a process pod: a pair of devices joins it to the bridge of the node process's namespace.
type podNetwork struct {
	ip   netip.Addr
	ns   *os.File
	veth string
}

// newPodNetwork makes a namespace with the wanted address if it is free, else with another one.
func (a *agent) newPodNetwork(wanted netip.Addr, o *v1.Pod) (*podNetwork, error) {
	a.mu.Lock()
	bridge, err := a.bridgeLocked()
	if err != nil {
		a.mu.Unlock()
		return nil, err
	}
	ip, err := a.processIPs.Take(wanted)
	a.veths++
	n := &podNetwork{ip: ip, veth: fmt.Sprintf("%s-%d", a.config.Plan.BridgeName(), a.veths)}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := a.build(n, bridge, o); err != nil {
		a.closePodNetwork(n)
		return nil, fmt.Errorf("network of the pod: %w", err)
	}
	return n, nil
}

func (a *agent) build(n *podNetwork, bridge netlink.Link, o *v1.Pod) error {
	var err error
	if n.ns, err = netns.New(); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.veth
	attributes.MasterIndex = bridge.Attrs().Index
	veth := &netlink.Veth{
		LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(n.ns.Fd())), PeerHardwareAddr: hardwareAddress(n.ip),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	gateway := a.config.Plan.Bridge()
	return netns.Do(n.ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		ip4 := n.ip.As4()
		address := &netlink.Addr{IPNet: &net.IPNet{IP: ip4[:], Mask: net.CIDRMask(gateway.Bits(), 32)}}
		if err := netlink.AddrAdd(eth0, address); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		via := gateway.Addr().As4()
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: via[:]}); err != nil {
			return fmt.Errorf("default route: %w", err)
		}
		return applySysctls(o)
	})
}

// applySysctls sets the pod's own network settings; those outside of net. do not belong to a network namespace.
func applySysctls(o *v1.Pod) error {
	if o.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range o.Spec.SecurityContext.Sysctls {
		if !strings.HasPrefix(s.Name, "net.") {
			return fmt.Errorf("sysctl %s: only net.* is known here", s.Name)
		}
		// thread-self, since only this thread is in the namespace; /proc/sys/net follows the thread that opens it.
		path := filepath.Join("/proc/sys", strings.ReplaceAll(s.Name, ".", "/"))
		if err := os.WriteFile(path, []byte(s.Value), 0); err != nil {
			return fmt.Errorf("sysctl %s: %w", s.Name, err)
		}
	}
	return nil
}

func (a *agent) closePodNetwork(n *podNetwork) {
	if link, err := netlink.LinkByName(n.veth); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			logf("remove %s: %v", n.veth, err)
		}
	}
	if n.ns != nil {
		_ = n.ns.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.processIPs.Free(n.ip)
}

// bridgeLocked makes the bridge of the process pods at the first use.
func (a *agent) bridgeLocked() (netlink.Link, error) {
	if a.bridge != nil {
		return a.bridge, nil
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = a.config.Plan.BridgeName()
	attributes.HardwareAddr = hardwareAddress(a.config.Plan.Bridge().Addr())
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("make the bridge %s: %w", attributes.Name, err)
	}
	at := a.config.Plan.Bridge()
	ip4 := at.Addr().As4()
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: ip4[:], Mask: net.CIDRMask(at.Bits(), 32)}}); err != nil {
		return nil, fmt.Errorf("address of the bridge: %w", err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("start the bridge: %w", err)
	}
	if err := a.services.serveDNS(at.Addr()); err != nil {
		return nil, err
	}
	a.bridge = bridge
	return bridge, nil
}

// hardwareAddress belongs to an address. Without one of its own a bridge takes that of a device that joins it, and connections
// through it hang for many seconds whenever that changes; so they do when a new pod has the address of one that has gone.
func hardwareAddress(ip netip.Addr) net.HardwareAddr {
	ip4 := ip.As4()
	return append(net.HardwareAddr{0x02, 0x00}, ip4[:]...)
}
