//! Who may come in, and to whom one may go.

use std::path::Path;

use ::tests::kafka::{GUEST, PASSWORD, USER};

use super::*;

static SECURE: Shared = Shared::new();

/// Accounts, rights and TLS under its own name.
async fn secure() -> Arc<Kafka> {
    let options =
        KafkaOptions { accounts: true, tls_names: Some("IP:127.0.0.1".to_owned()), ..KafkaOptions::default() };
    SECURE.get(options).await
}

fn login(mechanism: &str, user: &str, password: &str) -> Value {
    json!({"sasl_mechanism": mechanism, "sasl_username": user, "sasl_password": password})
}

fn with(server: &Kafka, listener: Listener, topic: &str, parts: &[Value]) -> Value {
    let mut config = server.config(topic, &json!({"bootstrap_servers": server.bootstrap(listener)}));
    for part in parts {
        let (Some(config), Some(part)) = (config.as_object_mut(), part.as_object()) else { panic!("objects") };
        config.extend(part.clone());
    }
    config
}

fn pem(path: &Path) -> String {
    std::fs::read_to_string(path).expect("reads")
}

#[tokio::test]
async fn the_right_password_opens_and_a_wrong_one_is_told_in_the_brokers_words() {
    let server = secure().await;
    server.create_topic("logins", 1, &[]).await.expect("makes the topic");
    let tls = json!({"enable_tls": true, "ca_cert_path": server.certificates().expect("speaks TLS").ca});
    let mut count = 0;
    for (listener, more) in [(Listener::Sasl, json!({})), (Listener::SaslTls, tls)] {
        for mechanism in ["plain", "scram_sha_256", "scram_sha_512"] {
            let config =
                |password: &str| with(&server, listener, "logins", &[more.clone(), login(mechanism, USER, password)]);
            let sink = opened(config(PASSWORD)).await;
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{mechanism}");
            count += 1;
            let fault = refused(config("wrong")).await;
            assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Auth, true), "{mechanism}: {}", fault.message);
            assert!(fault.message.to_lowercase().contains("authentication failed"), "{}", fault.message);
            assert!(!format!("{fault:?}").contains(PASSWORD), "{fault:?}");
        }
    }
    assert_eq!(messages(&server, "logins").await.len(), count);
    // A listener that does not speak the mechanism, or no SASL at all.
    let fault = refused(with(&server, Listener::Sasl, "logins", &[])).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "{}", fault.message);
}

#[tokio::test]
async fn rights_on_the_topic_are_missed_when_it_opens_and_when_it_writes() {
    let server = secure().await;
    server.create_topic("rights", 1, &[]).await.expect("makes the topic");
    let config = |more| with(&server, Listener::Sasl, "rights", &[login("plain", GUEST, PASSWORD), more]);
    let fault_of = refused(config(json!({}))).await;
    assert_eq!(fault_of.kind, TargetFaultKind::Permission);
    assert!(fault_of.message.contains("Topic authorization failed"), "{}", fault_of.message);

    server.allow_guest("Describe", "rights").await.expect("allows");
    for acks in ["1", "all"] {
        let sink = opened(config(json!({"acks": acks}))).await;
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Permission, "{outcomes:?}");
        assert!(fault(&outcomes[0]).reopen);
    }
    // What the page says is needed is enough, also for an idempotent producer.
    server.allow_guest("Write", "rights").await.expect("allows");
    for acks in ["1", "all"] {
        let sink = opened(config(json!({"acks": acks}))).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{acks}");
    }
}

#[tokio::test]
async fn tls_trusts_the_ca_it_is_given_and_no_other() {
    let server = secure().await;
    server.create_topic("tls", 1, &[]).await.expect("makes the topic");
    let certificates = server.certificates().expect("speaks TLS");
    let config = |more: Value| with(&server, Listener::Tls, "tls", &[json!({"enable_tls": true}), more]);
    for more in [
        json!({"ca_cert_path": certificates.ca}),
        json!({"ca_cert": format!("{}{}", pem(&certificates.server), pem(&certificates.ca))}),
        json!({"tls_verify": false}),
    ] {
        let sink = opened(config(more)).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    }
    let other = ::tests::scratch::Scratch::new("other-ca").expect("scratch");
    let others = ::tests::certificates::Certificates::make(other.path(), "IP:127.0.0.1", "x").expect("makes");
    // The system's roots, and a CA that has nothing to do with it.
    for more in [json!({}), json!({"ca_cert_path": others.ca})] {
        let fault = refused(config(more)).await;
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "{}", fault.message);
    }
    for more in [json!({"ca_cert_path": "/nowhere/ca.pem"}), json!({"ca_cert": "-----BEGIN X-----\n-----END X-----"})] {
        let fault = refused(config(more)).await;
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"), "{}", fault.message);
    }
    let mut other = other;
    other.passed();
    // Each talks to the other's listener.
    let fault = refused(with(&server, Listener::Tls, "tls", &[])).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "{}", fault.message);
    let fault = refused(with(&server, Listener::Plain, "tls", &[json!({"enable_tls": true})])).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "{}", fault.message);
}

#[tokio::test]
async fn a_certificate_under_another_name_is_refused_and_a_client_certificate_is_shown() {
    let options = KafkaOptions {
        tls_names: Some("DNS:elsewhere.example".to_owned()),
        client_certificate: true,
        ..KafkaOptions::default()
    };
    let server = Kafka::with(options).await.expect("Kafka starts");
    server.create_topic("tls", 1, &[]).await.expect("makes the topic");
    let certificates = server.certificates().expect("speaks TLS");
    let by_path = json!({"client_cert_path": certificates.client, "client_key_path": certificates.client_key});
    let inline = json!({"client_cert": pem(&certificates.client), "client_key": pem(&certificates.client_key)});
    let config = |more: &[Value]| {
        let tls = json!({"enable_tls": true, "ca_cert_path": certificates.ca});
        with(&server, Listener::Tls, "tls", &[&[tls][..], more].concat())
    };
    let fault = refused(config(std::slice::from_ref(&by_path))).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "{}", fault.message);
    let unverified = json!({"tls_verify": false});
    for more in [by_path, inline] {
        let sink = opened(config(&[more, unverified.clone()])).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    }
    let fault = refused(config(&[unverified])).await;
    assert_eq!(fault.kind, TargetFaultKind::Auth, "{}", fault.message);
    server.finish();
}

/// Which of them is asked first is not ours to choose, so it is tried a few times.
#[tokio::test]
async fn one_server_that_is_refused_does_not_speak_for_the_others() {
    let names = "IP:127.0.0.1".to_owned();
    let server = Kafka::with(KafkaOptions { tls_names: Some(names), ..KafkaOptions::default() }).await;
    let server = server.expect("Kafka starts");
    server.create_topic("tls", 1, &[]).await.expect("makes the topic");
    let tls = json!({"enable_tls": true, "ca_cert_path": server.certificates().expect("speaks TLS").ca});
    let config = with(&server, Listener::Tls, "tls", &[tls]);
    let good = config["bootstrap_servers"].as_str().expect("a text").to_owned();
    // The same by a name that its certificate does not have.
    let bad = good.replace("127.0.0.1", "localhost");
    assert_ne!(good, bad);
    let named = |servers: String| {
        let mut config = config.clone();
        config["bootstrap_servers"] = servers.into();
        config
    };
    let fault = refused(named(bad.clone())).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "{}", fault.message);
    for _ in 0..8 {
        let sink = opened(named(format!("{bad},{good}"))).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn a_password_that_changes_is_missed_at_the_next_connection_and_read_again() {
    let options = KafkaOptions { accounts: true, ..KafkaOptions::default() };
    let mut server = Kafka::with(options).await.expect("Kafka starts");
    server.create_topic("rotated", 1, &[]).await.expect("makes the topic");
    let config = |password: &str| {
        let more = [login("scram_sha_512", USER, password), json!({"message_timeout_ms": 3_000})];
        with(&server, Listener::Sasl, "rotated", &more)
    };
    let (old, new) = (config(PASSWORD), config("another"));
    let sink = opened(old.clone()).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    server.set_scram_password(USER, "SCRAM-SHA-512", "another").await.expect("sets the password");
    server.kill(0).expect("kills");
    server.start_again(0).await.expect("starts again");
    // The report says no more than that the time is over.
    let missed = ::tests::wait::until(LIMIT, "the password is missed", async || {
        let outcomes = deliver(&*sink, &[record(2, "x")]).await;
        anyhow::ensure!(fault(&outcomes[0]).kind == TargetFaultKind::Auth, "{outcomes:?}");
        Ok(fault(&outcomes[0]).clone())
    });
    let missed = missed.await.expect("is missed");
    assert!(missed.reopen, "{missed:?}");
    sink.close().await;
    assert_eq!(refused(old).await.kind, TargetFaultKind::Auth);
    let sink = opened(new).await;
    assert_eq!(deliver(&*sink, &[record(3, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

fn node_that_denies(network: &str) -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[network])
}

#[tokio::test]
async fn denied_networks_are_not_written_to_whoever_names_them() {
    // Brokers that send their clients elsewhere.
    let options = KafkaOptions { advertised_host: "127.0.0.2".to_owned(), ..KafkaOptions::default() };
    let server = Kafka::with(options).await.expect("Kafka starts");
    let config = |name: &str| server.config("t", &json!({"bootstrap_servers": name}));
    let bootstrap = server.bootstrap(Listener::Plain);
    let port = bootstrap.rsplit(':').next().expect("has a port").to_owned();
    for (deny, name) in [
        ("127.0.0.1", bootstrap.clone()),
        ("127.0.0.0/8", format!("localhost:{port}")),
        ("127.0.0.2", bootstrap.clone()),
    ] {
        let opened = node_that_denies(deny).open(NAME, "kafka", config(&name)).await;
        let fault = opened.err().expect("does not open");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{deny}: {}", fault.message);
        assert!(fault.message.contains("deny_networks"), "{}", fault.message);
    }
    server.finish();

    let allowed = server_with("allowed", 1, &[]).await;
    let sink = node_that_denies("10.0.0.0/8").open(NAME, "kafka", allowed.config("allowed", &json!({}))).await;
    let sink = sink.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
}

/// A name may lead elsewhere when librdkafka looks it up again: then its own log tells where it connects to.
#[tokio::test]
async fn a_connection_into_a_denied_network_ends_the_sink() {
    let server = server().await;
    let fences = crate::secrets::SecretFences { env_prefix: "SLUICE_SECRET_".into(), secret_dirs: Vec::new() };
    let entry = crate::registry::kind("kafka").expect("is a kind");
    let sent = server.config("t", &json!({}));
    let valid = crate::config::validate(entry, sent.as_object().expect("is an object"), &fences).expect("is valid");
    let resolved = crate::config::resolve(entry, &valid.effective, &fences);
    let config: Config = resolved.expect("resolves").typed().expect("fits");
    let deny: Arc<[Network]> = Arc::new(["127.0.0.0/8".parse().expect("is a network")]);
    let target = Target::new(NAME.to_owned(), 1, deny);
    let settings = settings::settings(&config, "sluice/test", true).expect("is usable");
    let (producer, ended) = (Producer::start(&settings, Arc::clone(&target)).expect("starts"), Arc::clone(&target));
    tokio::time::timeout(LIMIT, ended.aborted.cancelled()).await.expect("is aborted");
    assert_eq!(target.end().kind, TargetFaultKind::Misconfigured("TARGET_DENIED"));
    tokio::time::timeout(LIMIT, producer.ended()).await.expect("ends by itself");
}
