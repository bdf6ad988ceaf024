//! From the user's address to the broker that has a topic.

use super::relay::{Change, Relay};
use super::*;

#[tokio::test]
async fn no_address_in_a_denied_network_is_connected_to_whoever_names_it() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.1/32"]);
    let staying = Relay::start(server.port(), Change::Nothing).await.config("denied");
    let leading = Relay::start(server.port(), Change::Leads).await.config("denied");
    let redirecting = Relay::start(server.port(), Change::Redirects).await.config("denied");
    // The user's own address is fine, and the one that the broker names for the topic is not.
    for config in [server.config("denied", &json!({})), leading.clone(), redirecting] {
        let fault = denying.open(NAME, "pulsar", config.clone()).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{config}: {fault:?}");
    }
    let sink = denying.open(NAME, "pulsar", staying).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    delivered(&*sink, &numbered(1..=1)).await;
    sink.close().await;
    let sink = opened(leading).await;
    delivers(&*sink, &numbered(2..=2)).await;
}

#[tokio::test]
async fn nobody_at_home_is_down_and_the_next_server_is_asked() {
    let server = server().await;
    let nobody = ports::free().expect("is free");
    let two = format!("pulsar://127.0.0.1:{nobody},127.0.0.1:{}", server.port());
    let sink = opened(json!({"server": two, "topic": "two-servers"})).await;
    delivered(&*sink, &numbered(1..=1)).await;
    let fault = refused(json!({"server": format!("pulsar://127.0.0.1:{nobody}"), "topic": "x"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Down);
    // Something else listens there.
    let other = refused(json!({"server": format!("pulsar://127.0.0.1:{}", server.admin_port()), "topic": "x",
                               "connection_timeout_secs": 5}))
    .await;
    assert_eq!(other.kind, TargetFaultKind::Down);
}

#[tokio::test]
async fn who_is_sent_to_another_broker_asks_there() {
    let server = server().await;
    let relay = Relay::start(server.port(), Change::Redirects).await;
    let sink = opened(relay.config("redirected")).await;
    delivered(&*sink, &numbered(1..=2)).await;
    sink.close().await;
    assert_eq!(texts(&server, "redirected").await, as_texts(1..=2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_leads_to_the_broker_and_stands_for_it() {
    let server = server().await;
    let proxy = server.proxy().await.expect("the proxy starts");
    server.create_partitioned("proxied", 3).await.expect("makes the topic");
    let config = json!({"server": format!("pulsar://127.0.0.1:{}", proxy.port()), "topic": "proxied"});
    let sink = opened(config).await;
    delivered(&*sink, &numbered(1..=60)).await;
    // One to ask, and one that is passed on to the broker.
    assert_eq!(ports::connections_to(proxy.port()).expect("counts"), 2);
    for partition in 0..3 {
        server.unload(&format!("proxied-partition-{partition}")).await.expect("unloads");
    }
    delivers(&*sink, &numbered(61..=90)).await;
    let mut found = texts(&server, "proxied").await;
    found.sort_by_key(|text| text.parse::<u64>().unwrap_or(0));
    assert_eq!(found, as_texts(1..=90));
    sink.close().await;
    connections_become(proxy.port(), 0).await;
    proxy.finish();
}
