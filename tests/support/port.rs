//! A loopback port that nothing else gets while a test has it, whether something listens on it or not.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A held port: a socket that is bound and does not listen, so that connections to it are refused.
///
/// The kernel chose it, so no other process has it; as it stays bound, the kernel gives it to no other process and to no outgoing
/// connection. A program that listens with `SO_REUSEADDR`, as servers do, may use it meanwhile, again and again.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    address: SocketAddr,
}

impl Port {
    /// Takes one on 127.0.0.1.
    pub fn hold() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port of loopback");
        // Only now: a socket that is bound with it may get a port that another has.
        socket.set_reuse_address(true).expect("reuse of an address");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("an address of IPv4");
        Self { socket, address }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// Listens on it. Panics if something else listens there.
    pub fn listen(&self) -> TcpListener {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("reuse of an address");
        let listening = socket.bind(&self.address.into()).and_then(|()| socket.listen(1024));
        listening.unwrap_or_else(|error| panic!("listen on {}: {error}", self.address));
        socket.into()
    }

    /// The same port, held by another owner too.
    pub fn share(&self) -> Self {
        Self { socket: self.socket.try_clone().expect("a copy of a socket"), address: self.address }
    }
}
