//! Opening ports that work in IPv4, IPv6 and dual-stack clusters.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// How many connections wait to be accepted; the system's `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 1024;

/// Opens a port, inside a tokio runtime. `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` says, and means
/// `0.0.0.0` where there is no IPv6.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match open(address) {
        Err(error) if is_every_address(address) && !says_taken_or_forbidden(&error) => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        result => result,
    }
}

fn is_every_address(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified())
}

/// Such a port is neither there for IPv4 alone; any other failure is one of IPv6.
fn says_taken_or_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if is_every_address(address) {
        socket.set_only_v6(false)?;
    }
    // A port whose last connections linger in TIME_WAIT is free again for the next process.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use tokio::net::TcpStream;

    async fn answers(ip: impl Into<IpAddr>, port: u16) -> bool {
        TcpStream::connect((ip.into(), port)).await.is_ok()
    }

    #[tokio::test]
    async fn every_address_means_those_of_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(answers(Ipv4Addr::LOCALHOST, port).await);
        let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        if has_ipv6 {
            assert!(answers(Ipv6Addr::LOCALHOST, port).await);
        }
    }

    #[tokio::test]
    async fn one_address_is_only_that_one() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_and_no_reason_to_fall_back() {
        let first = listen("[::]:0".parse().unwrap()).unwrap();
        let error = listen(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
