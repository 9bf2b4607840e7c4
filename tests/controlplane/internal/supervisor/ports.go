package supervisor

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// reservation holds a port for a part: a socket that is bound but does not listen. The part binds the same port with
// SO_REUSEPORT; nobody else can get it meanwhile, also while the part is dead.
type reservation struct {
	fd   int
	port int
}

// reserve binds 127.0.0.1:port; port 0 means any free one.
func reserve(port int) (reservation, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return reservation{}, err
	}
	// A wanted port is bound without SO_REUSEPORT first: with it, two clusters of one user would share it unnoticed.
	if port != 0 {
		probe, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			_ = unix.Close(fd)
			return reservation{}, fmt.Errorf("port %d is taken: %w", port, err)
		}
		_ = probe.Close()
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		if err == nil {
			var name unix.Sockaddr
			if name, err = unix.Getsockname(fd); err == nil {
				return reservation{fd, name.(*unix.SockaddrInet4).Port}, nil
			}
		}
		_ = unix.Close(fd)
		return reservation{}, fmt.Errorf("bind 127.0.0.1:%d: %w", port, err)
	}
	_ = unix.Close(fd)
	return reservation{}, fmt.Errorf("SO_REUSEPORT: %w", err)
}

func (r reservation) release() { _ = unix.Close(r.fd) }

// claimSlot takes the first free slot of this network namespace. The name of an abstract Unix socket is the lock: it
// belongs to the namespace and vanishes with its owner.
func claimSlot(slots int) (int, int, error) {
	for slot := range slots {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, 0, err
		}
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@tidegate-controlplane-%d", slot)})
		if err == nil {
			return slot, fd, nil
		}
		_ = unix.Close(fd)
		if err != syscall.EADDRINUSE {
			return 0, 0, err
		}
	}
	return 0, 0, fmt.Errorf("%d clusters run in this network namespace already", slots)
}
