//! The two ports of a `pm dev`: bound early, so that a busy one is said at once and by its flag.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::error::{CommandError, code};

/// Binds a port on the loopback interface; 0 chooses a free one.
pub(crate) fn bind(port: u16, what: &str, flag: &str) -> Result<TcpListener, CommandError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let doing = || format!("listen on {address} for the {what}");
    let listener = TcpListener::bind(address).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            CommandError::new(
                code::IN_USE,
                doing(),
                format!("port {port} is in use by another process"),
            )
            .next(format!(
                "end that process (`ss -ltnp sport = :{port}` shows it), or choose another port with {flag}"
            ))
        } else {
            CommandError::file(doing(), &error)
        }
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|error| CommandError::file(doing(), &error))?;
    Ok(listener)
}

/// Proves a port free, or chooses a free one, and lets go of it: the router binds it once per core.
pub(crate) fn find(port: u16, what: &str, flag: &str) -> Result<SocketAddr, CommandError> {
    bind(port, what, flag)?
        .local_addr()
        .map_err(|error| CommandError::file(format!("read the address of the {what}"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named_with_its_flag() {
        let holder = bind(0, "router", "--router-port").unwrap();
        let port = holder.local_addr().unwrap().port();

        let refused = find(port, "router", "--router-port").unwrap_err();

        assert_eq!(refused.code, code::IN_USE);
        assert!(refused.why.contains(&port.to_string()), "{refused}");
        assert!(refused.next.as_deref().unwrap().contains("--router-port"));
    }
}
