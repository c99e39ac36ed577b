//! Which addresses a request may go to: the public ones, and what the operator named. Pure rules; the connector asks
//! them about every address it is going to connect to.
//!
//! A receiver's URL is written by the person who registered it. Without these rules it could name the machine itself, the
//! network around it, or the cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is refused, as a phrase for people.
pub(crate) type Refusal = &'static str;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 4], last: u16, prefix: u8) -> Ipv6Net {
    let [a, b, c, d] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last), prefix)
}

/// IANA's special-purpose registry for IPv4, and the one metadata service that has a public address.
const REFUSED_V4: [(Ipv4Net, Refusal); 17] = [
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(169, 254, 0, 0, 16), "link-local or cloud metadata"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(192, 0, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(168, 63, 129, 16, 32), "cloud metadata"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Ranges of IPv6 that have a use of their own. Everything else outside [`GLOBAL_UNICAST`] is reserved.
const REFUSED_V6: [(Ipv6Net, Refusal); 15] = [
    (v6([0, 0, 0, 0], 1, 128), "loopback"),
    (v6([0, 0, 0, 0], 0, 128), "unspecified"),
    (IPV4_COMPATIBLE, "IPv4 inside IPv6"),
    (v6([0x64, 0xff9b, 1, 0], 0, 48), "IPv4 inside IPv6 (local NAT64)"),
    (v6([0x2001, 2, 0, 0], 0, 48), "benchmarking"),
    (v6([0x2001, 0, 0, 0], 0, 23), "reserved for protocols"),
    (v6([0x2001, 0xdb8, 0, 0], 0, 32), "documentation"),
    (v6([0x3fff, 0, 0, 0], 0, 20), "documentation"),
    (v6([0x100, 0, 0, 0], 0, 64), "discard-only"),
    (v6([0x5f00, 0, 0, 0], 0, 16), "segment routing"),
    (v6([0xfc00, 0, 0, 0], 0, 7), "private"),
    (v6([0xfe80, 0, 0, 0], 0, 10), "link-local"),
    (v6([0xfec0, 0, 0, 0], 0, 10), "site-local"),
    (v6([0xff00, 0, 0, 0], 0, 8), "multicast"),
    (v6([0x3ffe, 0, 0, 0], 0, 16), "reserved"),
];

const IPV4_COMPATIBLE: Ipv6Net = v6([0, 0, 0, 0], 0, 96);
const IPV4_MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0], 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0], 0, 16);
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0], 0, 32);

/// All that IANA has given out for ordinary use.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0], 0, 3);

/// The rules, and the operator's exceptions from them.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
}

impl AddressPolicy {
    /// Refuses everything but public addresses and those in `allowed`.
    ///
    /// An IPv6 address that leads to an IPv4 address (mapped, NAT64, 6to4, Teredo) is judged by that one. A private one is
    /// allowed by naming it as IPv4, or by a range of IPv6 narrower than that of all such addresses.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether a request may go to `address`.
    #[cfg(test)]
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        self.refusal(address).is_none()
    }

    /// Why no request may go to `address`. `None` if one may.
    pub(crate) fn refusal(&self, address: IpAddr) -> Option<Refusal> {
        match address {
            IpAddr::V4(address) => self.refusal_v4(address),
            IpAddr::V6(address) => self.refusal_v6(address),
        }
    }

    fn refusal_v4(&self, address: Ipv4Addr) -> Option<Refusal> {
        let why = REFUSED_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)?;
        if self.names(IpAddr::V4(address), 0) { None } else { Some(why) }
    }

    fn refusal_v6(&self, address: Ipv6Addr) -> Option<Refusal> {
        if let Some((net, inside)) = inside(address) {
            let why = inside.into_iter().flatten().find_map(|inner| self.refusal_v4(inner));
            return why.filter(|_| !self.names(IpAddr::V6(address), net.prefix_len() + 1));
        }
        let named = REFUSED_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why);
        let why = named.or_else(|| (!GLOBAL_UNICAST.contains(&address)).then_some("reserved"))?;
        let is_named = compatible_v4(address).is_some_and(|inner| self.names(IpAddr::V4(inner), 0));
        (!is_named && !self.names(IpAddr::V6(address), 0)).then_some(why)
    }

    /// Whether the operator named `address`, by a prefix at least this long.
    fn names(&self, address: IpAddr, prefix_len_min: u8) -> bool {
        self.allowed.iter().any(|net| net.prefix_len() >= prefix_len_min && net.contains(&address))
    }
}

/// The IPv4 addresses that a packet to this IPv6 address goes to or through, and the range of all such addresses.
fn inside(address: Ipv6Addr) -> Option<(Ipv6Net, [Option<Ipv4Addr>; 2])> {
    let [_, second, third, fourth, .., before_last, last] = address.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    let net = [IPV4_MAPPED, NAT64, SIX_TO_FOUR, TEREDO].into_iter().find(|net| net.contains(&address))?;
    let inside = if net == SIX_TO_FOUR {
        [of(second, third), None]
    } else if net == TEREDO {
        // The server, and the client, whose bits are inverted.
        [of(third, fourth), of(!before_last, !last)]
    } else {
        [of(before_last, last), None]
    };
    Some((net, inside))
}

/// The IPv4 address inside one of the old form, which no network carries any more.
fn compatible_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let is_compatible = IPV4_COMPATIBLE.contains(&address) && !address.is_loopback() && !address.is_unspecified();
    let [.., a, b, c, d] = address.octets();
    is_compatible.then(|| Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(allowed: &[&str]) -> AddressPolicy {
        AddressPolicy::new(allowed.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[track_caller]
    fn check(policy: &AddressPolicy, permitted: bool, addresses: &[&str]) {
        for address in addresses {
            let address = address.parse().unwrap();
            assert_eq!(policy.permits(address), permitted, "{address}: {:?}", policy.refusal(address));
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        check(
            &policy(&[]),
            true,
            &[
                "1.1.1.1",
                "8.8.8.8",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.0.3.0",
                "192.88.98.255",
                "192.88.100.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "198.51.99.255",
                "198.51.101.0",
                "203.0.112.255",
                "203.0.114.0",
                "223.255.255.255",
                "168.63.129.15",
                "168.63.129.17",
                "2000::1",
                "2001:200::1",
                "2001:4860:4860::8888",
                "2001:db7:ffff::1",
                "2001:db9::",
                "2003::1",
                "2a00:1450::1",
                "2606:4700::1111",
                "3ffd::1",
                "3fff:1000::1",
            ],
        );
    }

    #[test]
    fn the_first_and_last_address_of_every_listed_range_is_refused() {
        let policy = policy(&[]);
        for (net, why) in REFUSED_V4 {
            for address in [net.network(), net.broadcast()] {
                assert!(!policy.permits(IpAddr::V4(address)), "{address} of {net} ({why})");
                assert!(!policy.permits(IpAddr::V6(address.to_ipv6_mapped())), "mapped {address} of {net} ({why})");
            }
        }
        for (net, why) in REFUSED_V6 {
            for address in [net.network(), net.broadcast()] {
                assert!(!policy.permits(IpAddr::V6(address)), "{address} of {net} ({why})");
            }
        }
    }

    #[test]
    fn special_addresses_are_refused() {
        check(
            &policy(&[]),
            false,
            &[
                "0.0.0.0",
                "127.0.0.1",
                "127.1.2.3",
                "10.1.2.3",
                "172.20.0.1",
                "192.168.1.1",
                "169.254.169.254",
                "100.100.100.200",
                "192.0.0.192",
                "168.63.129.16",
                "224.0.0.1",
                "255.255.255.255",
                "::",
                "::1",
                "fd00:ec2::254",
                "fd20:ce::254",
                "fe80::1",
                "fec0::1",
                "ff02::1",
                "2001:db8::1",
                "100::1",
                "100:0:0:1::1",
                "400::1",
                "4000::1",
                "8000::",
                "e000::1",
                "fbff::1",
                "fe00::1",
                "1fff::1",
                "64:ff9a::1",
                "200::1",
            ],
        );
    }

    #[test]
    fn ipv4_inside_ipv6_is_judged_by_what_is_inside() {
        let policy = policy(&[]);
        check(
            &policy,
            true,
            &["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:0:808:808:8000:63bf:f7f7:f7f7"],
        );
        check(
            &policy,
            false,
            &[
                "::ffff:127.0.0.1",
                "::ffff:10.0.0.1",
                "64:ff9b::10.0.0.1",
                "64:ff9b::127.0.0.1",
                "64:ff9b::169.254.169.254",
                "2002:7f00:1::1",
                "2002:a00:1::1",
                "2002:a9fe:a9fe::1",
                // The client 10.0.0.1, and the server 10.0.0.1.
                "2001:0:808:808:8000:63bf:f5ff:fffe",
                "2001:0:a00:1:8000:63bf:f7f7:f7f7",
                "2001::1",
            ],
        );
        // Forms that do not lead to the address inside, or that are an operator's own.
        check(&policy, false, &["::127.0.0.1", "::8.8.8.8", "64:ff9b:1::10.0.0.1", "64:ff9b:1::8.8.8.8"]);
    }

    #[test]
    fn a_named_range_is_permitted_and_its_neighbours_are_not() {
        let loopback = policy(&["127.0.0.0/8", "::1/128"]);
        check(&loopback, true, &["127.0.0.1", "127.255.255.255", "::1", "8.8.8.8"]);
        check(&loopback, false, &["10.0.0.1", "::", "fe80::1", "0.0.0.0"]);
        let one = policy(&["10.1.2.3/32", "fd00:1::/32"]);
        check(&one, true, &["10.1.2.3", "fd00:1::9"]);
        check(&one, false, &["10.1.2.2", "10.1.2.4", "fd00:2::9", "127.0.0.1"]);
    }

    #[test]
    fn naming_an_ipv4_range_opens_the_ipv6_forms_that_lead_to_it() {
        let loopback = policy(&["127.0.0.0/8"]);
        check(&loopback, true, &["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::1"]);
        check(&loopback, false, &["::ffff:10.0.0.1", "::1", "2002:a00:1::1", "64:ff9b:1::127.0.0.1"]);
        check(&policy(&["0.0.0.0/0"]), false, &["::1", "::", "64:ff9b:1::8.8.8.8"]);
    }

    #[test]
    fn naming_an_ipv6_range_opens_what_is_in_it() {
        check(&policy(&["::ffff:127.0.0.0/104"]), true, &["::ffff:127.0.0.1"]);
        check(&policy(&["::ffff:127.0.0.0/104"]), false, &["127.0.0.1", "::ffff:10.0.0.1"]);
        check(&policy(&["2002:a00::/24"]), true, &["2002:a00:1::1"]);
        check(&policy(&["2002::/16"]), false, &["2002:a00:1::1"]);
        check(&policy(&["64:ff9b:1::/48"]), true, &["64:ff9b:1::8.8.8.8"]);
    }

    #[test]
    fn naming_the_translator_does_not_open_the_private_networks_behind_it() {
        let translator = policy(&["64:ff9b::/96"]);
        check(&translator, true, &["64:ff9b::8.8.8.8"]);
        check(&translator, false, &["64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254"]);
        check(&policy(&["64:ff9b::/96", "10.0.0.0/8"]), true, &["64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8"]);
        check(&policy(&["64:ff9b::10.0.0.0/104"]), true, &["64:ff9b::10.0.0.1"]);
        check(&policy(&["::/0"]), false, &["64:ff9b::10.0.0.1"]);
    }

    proptest! {
        #[test]
        fn every_address_inside_a_listed_range_is_refused(index in 0..REFUSED_V4.len(), index6 in 0..REFUSED_V6.len(), bits: u128) {
            let policy = policy(&[]);
            let net = REFUSED_V4[index].0;
            let low = u32::try_from(bits & 0xffff_ffff).unwrap() & u32::from(net.hostmask());
            let inside = Ipv4Addr::from(u32::from(net.network()) | low);
            prop_assert!(!policy.permits(inside.into()), "{}", inside);
            prop_assert!(!policy.permits(inside.to_ipv6_mapped().into()), "{}", inside);
            let net = REFUSED_V6[index6].0;
            let inside = Ipv6Addr::from(u128::from(net.network()) | (bits & u128::from(net.hostmask())));
            // Teredo lies within "reserved for protocols" and is judged by the IPv4 addresses inside.
            prop_assert!(TEREDO.contains(&inside) || !policy.permits(inside.into()), "{}", inside);
        }

        #[test]
        fn an_address_that_is_named_by_itself_is_permitted(v4: u32, v6: u128) {
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into()), IpAddr::V6(Ipv4Addr::from(v4).to_ipv6_mapped())] {
                let policy = AddressPolicy::new(vec![IpNet::from(address)]);
                prop_assert!(policy.permits(address), "{}", address);
            }
        }

        #[test]
        fn naming_ranges_only_ever_opens(v6: u128, other: u128, prefix in 0_u8..=128) {
            let address = IpAddr::V6(v6.into());
            let named = AddressPolicy::new(vec![IpNet::new(IpAddr::V6(other.into()), prefix).unwrap()]);
            prop_assert!(named.permits(address) || !policy(&[]).permits(address), "{}", address);
        }
    }
}
