//! Who is spoken to, and as whom.

use std::path::Path;

use ::tests::certificates::Certificates;
use ::tests::pulsar::{PASSWORD, STRANGER, USER};
use tempfile::TempDir;

use super::*;

/// Each test has it for itself for a while.
struct Guarded {
    server: tokio::sync::Mutex<Pulsar>,
    folder: TempDir,
}

/// Accounts, and TLS for `localhost` and 127.0.0.1, for which a certificate has to be shown.
async fn guarded() -> Arc<Guarded> {
    static SERVER: Shared<Guarded> = Shared::new();
    let start = async || {
        let folder = TempDir::new().expect("a folder");
        let certificates = Certificates::make(folder.path(), "DNS:localhost,IP:127.0.0.1", USER).expect("are made");
        let options = PulsarOptions {
            accounts: true,
            certificates: Some(certificates),
            client_certificate: true,
            ..PulsarOptions::default()
        };
        let server = Pulsar::with(options).await.expect("Pulsar starts").keep_nothing();
        Guarded { server: tokio::sync::Mutex::new(server), folder }
    };
    SERVER.get(start).await
}

fn oauth(issuer: &str, more: Value) -> Value {
    let mut settings = json!({ "issuer_url": issuer });
    let (Value::Object(fields), Value::Object(more)) = (&mut settings, more) else { panic!("objects") };
    fields.extend(more);
    json!({ "oauth": settings.to_string() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_authenticate_works_and_is_refused() {
    let guarded = guarded().await;
    let (server, folder) = (guarded.server.lock().await, &guarded.folder);
    let token = server.token(USER).await.expect("is signed");
    let stranger = server.token(STRANGER).await.expect("is signed");
    let key_file = folder.path().join("key.json");
    let credentials = json!({"type": "client_credentials", "client_id": USER, "client_secret": PASSWORD}).to_string();
    std::fs::write(&key_file, &credentials).expect("is written");
    let inline = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, credentials);
    let issuer = server.issuer(Duration::from_secs(600)).await.expect("starts");
    let url = issuer.url();
    let client = |secret: &str| json!({"client_id": USER, "client_secret": secret});
    let with = |mut one: Value, more: Value| {
        one.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        one
    };
    let auth = Some((TargetFaultKind::Auth, "authenticat"));
    let unusable = TargetFaultKind::Misconfigured("CONFIG_UNUSABLE");
    for (more, expect) in [
        (json!({"token": token}), None),
        (json!({"basic_name": USER, "basic_password": PASSWORD}), None),
        (oauth(&url, client(PASSWORD)), None),
        (oauth(&format!("{url}/"), with(client(PASSWORD), json!({"audience": "pulsar", "scope": "produce"}))), None),
        (oauth(&url, json!({"credentials_url": format!("file://{}", key_file.display())})), None),
        (oauth(&url, json!({"credentials_url": format!("data:application/json;base64,{inline}")})), None),
        (json!({}), auth),
        (json!({"token": format!("{token}x")}), auth),
        (json!({"basic_name": USER, "basic_password": "another"}), auth),
        (oauth(&url, client("another")), Some((TargetFaultKind::Auth, "invalid_client"))),
        (oauth(&url, with(client(PASSWORD), json!({"scope": "all"}))), Some((TargetFaultKind::Auth, "invalid_scope"))),
        (oauth(&url, json!({"credentials_url": "file:///etc/passwd"})), Some((unusable, "connectors.secret_dirs"))),
        (oauth(&url, json!({"credentials_url": "https://x/"})), Some((unusable, "must begin with file: or data:"))),
        (oauth(&url, json!({"credentials_url": "data:,x"})), Some((unusable, "is no data URL"))),
        (json!({"token": stranger}), Some((TargetFaultKind::Permission, "not authorized"))),
    ] {
        let mut config = server.config("guarded", &more);
        config["connection_timeout_secs"] = 10.into();
        let node = TestNode::new(&[folder.path().to_owned()], PathBuf::from("/nowhere"), &[]);
        match (node.open(NAME, "pulsar", config.clone()).await, expect) {
            (Ok(sink), None) => {
                delivers(&*sink, &numbered(1..=3)).await;
                sink.close().await;
            }
            (Ok(_), Some(_)) => panic!("{config} opens"),
            (Err(fault), None) => panic!("{config}: {fault:?}"),
            (Err(fault), Some((kind, words))) => {
                assert_eq!(fault.kind, kind, "{config}: {fault:?}");
                assert!(fault.message.contains(words), "{config}: {fault:?}");
            }
        }
    }
    issuer.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ends_is_renewed_on_the_same_connection() {
    let guarded = guarded().await;
    let server = guarded.server.lock().await;
    let mut issuer = server.issuer(Duration::from_secs(3)).await.expect("starts");
    let settings = oauth(&issuer.url(), json!({"client_id": USER, "client_secret": PASSWORD}));
    let sink = opened(server.config("renewed", &settings)).await;
    let mut next = 0;
    let renewed = wait::until(LIMIT, "a token is renewed twice", async || {
        next += 1;
        delivered(&*sink, &numbered(next..=next)).await;
        let asked = issuer.asked()?;
        ensure!(asked.1 >= 3, "{asked:?}");
        Ok(asked)
    });
    let asked = renewed.await.expect("is renewed");
    println!("measured: {next} batches with {asked:?} tokens");
    let stats = server.stats("renewed").await.expect("reads");
    assert_eq!(stats["publishers"].as_array().map(Vec::len), Some(1));
    // Without an issuer the connection ends with its token, and the next one cannot be made.
    issuer.kill().expect("kills");
    let lost = wait::until(LIMIT, "the connector cannot log in", async || {
        next += 1;
        let outcomes = deliver(&*sink, &numbered(next..=next)).await;
        let Outcome::TargetFault(fault) = &outcomes[0] else { anyhow::bail!("{outcomes:?}") };
        ensure!(fault.message.contains("the issuer of tokens"), "{fault:?}");
        Ok(())
    });
    lost.await.expect("cannot log in");
    issuer.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_right_to_publish_shows_with_the_first_message_and_is_over_when_it_is_given() {
    let guarded = guarded().await;
    let server = guarded.server.lock().await;
    let token = server.token(USER).await.expect("is signed");
    // It gives the right as well.
    server.create_deduplicating("public/rights").await.expect("makes the namespace");
    let topic = "public/rights/topic";
    let sink = opened(server.config(topic, &json!({"token": token}))).await;
    delivered(&*sink, &numbered(1..=1)).await;
    server.allow("public/rights", USER, false).await.expect("takes the right");
    server.unload(topic).await.expect("unloads");
    let refused = wait::until(LIMIT, "it is refused", async || {
        let outcomes = deliver(&*sink, &numbered(2..=2)).await;
        let Outcome::TargetFault(fault) = &outcomes[0] else { anyhow::bail!("{outcomes:?}") };
        ensure!(fault.kind == TargetFaultKind::Permission, "{fault:?}");
        Ok(fault.clone())
    });
    let refused = refused.await.expect("is refused");
    assert!(refused.message.contains("not authorized"), "{}", refused.message);
    server.allow("public/rights", USER, true).await.expect("gives it");
    delivers(&*sink, &numbered(2..=2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let guarded = guarded().await;
    let server = guarded.server.lock().await;
    let files = server.certificates().expect("speaks TLS").clone();
    let text = |path: &Path| std::fs::read_to_string(path).expect("is there");
    let token = server.token(USER).await.expect("is signed");
    let client = json!({"client_cert_path": files.client, "client_key_path": files.client_key});
    let with_client = |mut more: Value| {
        more.as_object_mut().expect("an object").extend(client.as_object().expect("an object").clone());
        more
    };
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let down = Some(TargetFaultKind::Down);
    for (scheme, more, expect) in [
        ("pulsar+ssl", with_client(json!({})), untrusted),
        ("pulsar+ssl", with_client(json!({"ca_cert_path": files.other_ca})), untrusted),
        (
            "pulsar+ssl",
            with_client(json!({"ca_cert_path": files.ca, "tls_server_name": "other.example.org"})),
            untrusted,
        ),
        ("pulsar+ssl", with_client(json!({"ca_cert_path": files.ca})), None),
        ("PULSAR+SSL", with_client(json!({"ca_cert_path": files.ca, "tls_server_name": "localhost"})), None),
        (
            "pulsar+ssl",
            json!({"ca_cert": text(&files.ca), "client_cert": text(&files.client), "client_key": text(&files.client_key)}),
            None,
        ),
        ("pulsar+ssl", with_client(json!({"tls_verify": false})), None),
        ("pulsar+ssl", json!({"ca_cert_path": files.ca}), down),
        ("pulsar", json!({}), down),
    ] {
        let mut config = server.config("secret", &more);
        config["server"] = format!("{scheme}://127.0.0.1:{}", server.tls_port()).into();
        config["token"] = token.clone().into();
        config["connection_timeout_secs"] = 5.into();
        match (open(config.clone()).await, expect) {
            (Ok(sink), None) => {
                delivers(&*sink, &[record(1, "x"), record(2, vec![b'y'; 300_000])]).await;
                // The broker names addresses with TLS to who comes with it.
                assert!(ports::connections_to(server.tls_port()).expect("counts") > 0);
                assert_eq!(ports::connections_to(server.port()).expect("counts"), 0);
                sink.close().await;
            }
            (Err(fault), Some(expect)) => assert_eq!(fault.kind, expect, "{config} {fault:?}"),
            (Ok(_), Some(_)) => panic!("{config} opens"),
            (Err(fault), None) => panic!("{config}: {fault:?}"),
        }
    }
    let missing = server.config("secret", &json!({"server": "pulsar+ssl://127.0.0.1", "ca_cert_path": "/nowhere/ca"}));
    assert_eq!(refused(missing).await.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
}
