//! Which addresses nobody may make the daemon speak to: those that only machines inside a network reach. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why nothing is sent to this address; `None` where it is one of the public internet.
#[must_use]
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("it means this machine"),
        [127, ..] => Some("it is this machine"),
        [10, ..] | [192, 168, ..] => Some("it is of a private network"),
        [172, second, ..] if second & 0xf0 == 16 => Some("it is of a private network"),
        [100, second, ..] if second & 0xc0 == 64 => Some("it is of a provider's own network"),
        [169, 254, ..] => Some("it is of the local link, where clouds keep their metadata"),
        [168, 63, 129, 16] => Some("it is a cloud's own service"),
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => {
            Some("it is no address of a machine")
        }
        [198, second, ..] if second & 0xfe == 18 => Some("it is of a network for tests"),
        [first, ..] if first & 0xf0 == 224 => Some("it is a group of machines"),
        [first, ..] if first >= 240 => Some("it is no address of a machine"),
        _ => None,
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_unspecified() {
        return Some("it means this machine");
    }
    if address.is_loopback() {
        return Some("it is this machine");
    }
    // An IPv4 address in another dress is what it is.
    let [.., high, low] = segments;
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        forbidden_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            inner(high, low)
        }
        [0x64, 0xff9b, 1, ..] => Some("it is of a private network"),
        [0x2002, high, low, ..] => inner(high, low),
        [0x2001, 0, ..] => Some("it is a tunnel"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x100, 0, 0, 0, ..] => Some("it is no address of a machine"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some("it is of a private network"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("it is of the local link"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Some("it is of a private network"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("it is a group of machines"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_refused_in_every_dress() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "::",
            "::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "::ffff:0:127.0.0.1",
            "3fff::1",
            "100::1",
        ] {
            assert!(forbidden(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn what_is_outside_is_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "172.15.255.255",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "192.1.0.1",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(forbidden(address.parse().unwrap()), None, "{address}");
        }
    }
}
