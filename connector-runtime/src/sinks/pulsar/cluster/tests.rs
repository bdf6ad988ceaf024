use tokio_util::sync::CancellationToken;

use super::super::auth::Auth;
use super::*;

fn cluster() -> Cluster {
    let dialer = Dialer {
        trust: None,
        auth: Arc::new(Auth::None),
        deny_networks: Arc::new([]),
        connect_timeout: Duration::from_secs(1),
        aborted: CancellationToken::new(),
    };
    let servers = servers("pulsar://first,second", false).expect("are addresses");
    Cluster::new(dialer, servers, "topic".to_owned(), Duration::from_secs(1))
}

fn address(host: &str, port: u16, behind: Option<&str>) -> Address {
    Address { host: host.to_owned(), port, behind: behind.map(str::to_owned) }
}

fn named(url: Option<&str>, through_proxy: bool) -> Owner {
    Owner {
        broker_url: url.map(str::to_owned),
        broker_url_tls: Some("pulsar+ssl://b:1".to_owned()),
        proxy_through_service_url: Some(through_proxy),
        ..Owner::default()
    }
}

#[test]
fn servers_are_read_with_and_without_ports() {
    let check = |url: &str, has_tls, expect: Option<&[(&str, u16)]>| {
        let found = servers(url, has_tls);
        let found: Option<Vec<(&str, u16)>> =
            found.as_ref().map(|found| found.iter().map(|address| (address.host.as_str(), address.port)).collect());
        assert_eq!(found.as_deref(), expect, "{url}");
    };
    check("pulsar://a", false, Some(&[("a", 6_650)]));
    check("pulsar+ssl://a", true, Some(&[("a", 6_651)]));
    check("PULSAR://a:1,b,c:3/x?y", false, Some(&[("a", 1), ("b", 6_650), ("c", 3)]));
    check("pulsar://[fd00::1]:7,[fd00::2]", false, Some(&[("[fd00::1]", 7), ("[fd00::2]", 6_650)]));
    // One of them that cannot be read is no reason to go to the others only.
    for none in ["pulsar://", "pulsar://a:1,b:x", "pulsar://a,,b", "pulsar://:7", "pulsar://a:70000"] {
        check(none, false, None);
    }
}

#[test]
fn who_answers_for_others_is_come_to_itself() {
    let cluster = cluster();
    let (first, other) = (address("first", 1, None), address("b", 7, None));
    let check = |owner: &Owner, asked: &Address, expect: &Address| {
        assert_eq!(cluster.address(owner, asked).as_ref(), Ok(expect), "{owner:?}");
    };
    check(&named(Some("pulsar://b:7"), false), &first, &other);
    check(&named(Some("pulsar://b:7"), true), &other, &other);
    check(&named(Some("pulsar://b:7"), true), &first, &address("first", 1, Some("b:7")));
    // Through the one that answered, whomever it led to before.
    check(&named(Some("pulsar://c"), true), &address("first", 1, Some("b:7")), &address("first", 1, Some("c:6650")));
}

#[test]
fn an_address_that_the_connector_cannot_use_is_told_for_what_it_is() {
    let asked = address("first", 1, None);
    for url in [None, Some("")] {
        let fault = cluster().address(&named(url, false), &asked).expect_err("names none");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_WANTS_TLS"), "{}", fault.message);
    }
    let fault = cluster().address(&named(Some("pulsar://b:x"), false), &asked).expect_err("is none");
    assert_eq!(fault.kind, TargetFaultKind::Down);
}

#[test]
fn the_number_of_partitions_outlives_a_broker_that_cannot_say_it() {
    let (before, now) = (Instant::now(), Instant::now() + PARTITIONS_FRESH_FOR);
    let known = Partitions { count: 4, since: before };
    let missing = || TargetFault::new(TargetFaultKind::Missing, "not found");
    let throttled = TargetFault::new(TargetFaultKind::Throttled { retry_after: None }, "later");
    assert_eq!(refreshed(Some(known), Ok(5), now), Ok(Partitions { count: 5, since: now }));
    for fault in [down("nobody"), throttled] {
        assert_eq!(refreshed(Some(known), Err(fault.clone()), now), Ok(Partitions { count: 4, since: now }));
        assert_eq!(refreshed(None, Err(fault.clone()), now), Err(fault));
    }
    assert_eq!(refreshed(Some(known), Err(missing()), now), Err(missing()));
}
