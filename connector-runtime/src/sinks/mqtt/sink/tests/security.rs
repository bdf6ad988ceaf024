//! Who may connect, where to, and who the target is.

use std::path::Path;
use std::process::Command;

use super::servers::free_port;
use super::*;

fn with_users(more: &str) -> Server {
    Server::mosquitto_with(|folder| {
        let output = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(folder.join("users"))
            .args(["dev", "pass wörd"])
            .output()
            .expect("mosquitto_passwd is installed");
        assert!(output.status.success(), "{output:?}");
        std::fs::write(folder.join("acl"), "user dev\ntopic write open/#\ntopic readwrite read/#\n").expect("writes");
        format!("allow_anonymous false\npassword_file {0}/users\nacl_file {0}/acl\n{more}", folder.display())
    })
}

#[tokio::test]
async fn a_wrong_password_is_the_targets_refusal_in_every_version() {
    let server = with_users("");
    for version in ["v3", "v4", "v5"] {
        let config = |password: &str| {
            json!({"server": server.url(), "protocol_version": version, "username": "dev", "password": password,
                   "topic_prefix": "open/"})
        };
        let fault = open(config("wrong")).await.err().expect("is refused");
        assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Auth, true), "{version}");
        assert!(fault.message.contains("not authorized") && !fault.message.contains("wrong"), "{}", fault.message);
        let anonymous = json!({"server": server.url(), "protocol_version": version});
        assert_eq!(open(anonymous).await.err().expect("is refused").kind, TargetFaultKind::Auth, "{version}");
        let sink = opened(config("pass wörd")).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{version}");
    }
}

#[tokio::test]
async fn a_topic_that_is_not_allowed_is_the_targets_refusal_where_it_can_say_so() {
    let server = with_users("");
    for qos in [1, 2] {
        let config = json!({"server": server.url(), "username": "dev", "password": "pass wörd", "qos": qos});
        let sink = opened(config).await;
        let records = [with_topic(1, "open/a", "1"), with_topic(2, "shut/a", "2"), with_topic(3, "open/a", "3")];
        let calls = records.iter().map(|record| deliver(&*sink, std::slice::from_ref(record)));
        let outcomes: Vec<Outcome> = futures::future::join_all(calls).await.into_iter().flatten().collect();
        assert_eq!((fault(&outcomes[1]).kind, fault(&outcomes[1]).reopen), (TargetFaultKind::Permission, false));
        assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    }
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = Server::mosquitto("");
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "[::1]", "0.0.0.0", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let config = json!({"server": format!("mqtt://{host}:{}", server.port)});
        let fault = denying.open(NAME, "mqtt", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host}");
    }
    assert_eq!(server.logged("New client connected"), 0);
    let sink = opened(json!({"server": format!("mqtt://localhost:{}", server.port)})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
}

/// A CA, a certificate of it for `name`, and one for a client.
fn certificates(folder: &Path, name: &str) {
    let script = "
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
            -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=$who \
                -keyout $who.key -out $who.csr
            printf 'subjectAltName=%s\\nbasicConstraints=CA:FALSE\\n' \"$1\" > $who.ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $who.ext -out $who.pem
        done";
    let output = Command::new("bash")
        .args(["-c", script, "certificates", name])
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let (tls, mutual) = (free_port(), free_port());
    let server = Server::mosquitto_with(|folder| {
        certificates(folder, "DNS:broker.example.org");
        let files = format!("certfile {0}/server.pem\nkeyfile {0}/server.key\ncafile {0}/ca.pem\n", folder.display());
        format!(
            "allow_anonymous true\nlistener {tls} 127.0.0.1\n{files}\n\
             listener {mutual} 127.0.0.1\n{files}require_certificate true\nuse_identity_as_username true\n"
        )
    });
    let subscriber = Subscriber::start(server.port, "#").await;
    let url = format!("mqtts://127.0.0.1:{tls}");
    let plain_scheme = format!("mqtt://127.0.0.1:{tls}");
    let mutual = format!("mqtts://127.0.0.1:{mutual}");
    let file = |name: &str| server.folder().join(name);
    let text = |name: &str| std::fs::read_to_string(file(name)).expect("is there");
    let (ca, name) = (file("ca.pem"), "broker.example.org");
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let down = Some(TargetFaultKind::Down);
    for (config, expect) in [
        (json!({"server": url}), untrusted),
        (json!({"server": url, "ca_cert_path": ca}), untrusted),
        (json!({"server": url, "ca_cert_path": ca, "tls_server_name": name}), None),
        (json!({"server": url, "ca_cert": text("ca.pem"), "tls_server_name": name}), None),
        (json!({"server": url, "ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted),
        (json!({"server": url, "tls_verify": false}), None),
        (json!({"server": plain_scheme, "enable_tls": true, "tls_verify": false}), None),
        (json!({"server": plain_scheme, "connect_timeout_secs": 1}), down),
        (json!({"server": server.url(), "enable_tls": true, "connect_timeout_secs": 1}), down),
        (json!({"server": mutual, "tls_verify": false}), down),
        (
            json!({"server": mutual, "tls_verify": false, "client_cert_path": file("client.pem"),
                   "client_key_path": file("client.key")}),
            None,
        ),
        (
            json!({"server": mutual, "tls_verify": false, "client_cert": text("client.pem"),
                   "client_key": text("client.key"), "qos": 0}),
            None,
        ),
    ] {
        match (open(config.clone()).await, expect) {
            (Ok(sink), None) => {
                let before = subscriber.count();
                let records = [record(1, "x"), record(2, vec![b'y'; 300_000])];
                assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2], "{config}");
                assert_eq!(subscriber.messages(before + 2).await.len(), before + 2);
            }
            (Err(fault), Some(expect)) => assert_eq!(fault.kind, expect, "{config} {fault:?}"),
            (Ok(_), Some(_)) => panic!("{config} opens"),
            (Err(fault), None) => panic!("{config}: {fault:?}"),
        }
    }
    until("the client is named by its certificate", || server.logged("u'client'") == 2).await;

    let missing = json!({"server": url, "ca_cert_path": file("nowhere.pem")});
    let fault = open(missing).await.err().expect("no such file");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
}

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    let server = with_users("");
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let config = json!({"server": server.url(), "username": "dev", "password": password, "topic_prefix": "open/"});
    let sink = node.sink_for(NAME, "mqtt", config);
    let queue = MemoryQueue::numbered(3);
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    until("the target wants another password", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), "pass wörd").expect("writes");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 3);
}
