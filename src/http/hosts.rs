//! Which names a request may call this daemon by, while nobody has to say who they are.
//!
//! A page of the web can have a name of its own lead to this machine, and its scripts then speak with what listens here as if
//! with their own site (DNS rebinding). Such a request names that site in `Host`; addresses and `localhost` it cannot name.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::header;
use axum::http::request::Parts;

use super::problem::Problem;

/// Every name that the request calls this daemon by is an address or `localhost`. Old clients name none; browsers do.
pub(super) fn are_here(parts: &Parts) -> bool {
    let of_uri = parts.uri.host().is_none_or(is_here);
    of_uri && parts.headers.get_all(header::HOST).iter().all(|host| host.to_str().is_ok_and(|host| is_here(name(host))))
}

pub(super) fn misdirected() -> Problem {
    Problem::misdirected(
        "without authentication this answers only to requests for an IP address or localhost; make an API token to be \
         reached by a name",
    )
}

/// The host of `host:port`.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_here(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_here() {
        for (host, here) in [
            ("127.0.0.1:7070", true),
            ("127.0.0.1", true),
            ("localhost:7070", true),
            ("LOCALHOST.", true),
            ("api.localhost", true),
            ("[::1]:7070", true),
            ("[::1]", true),
            ("10.1.2.3:80", true),
            ("evil.example:7070", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("evil.example:127.0.0.1", false),
            ("evil@127.0.0.1", false),
            ("", false),
            ("[evil]", false),
        ] {
            assert_eq!(is_here(name(host)), here, "{host}");
        }
    }
}
