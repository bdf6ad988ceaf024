//! Where connections go, and over what.

use std::path::Path;

use ::tests::certificates::Certificates;

use super::*;

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = server_alone().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let config = server.config(TABLE, &json!({ "nodes": [host] }));
        let fault = denying.open("rows", "cassandra", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host} {fault:?}");
    }
    assert_eq!(ports::connections_to(server.port()).expect("counts"), 0);
}

/// How a connector with this configuration fares.
async fn check_tls(server: &Cassandra, more: Value, expect: Option<TargetFaultKind>) {
    let mut config = server.config(TABLE, &more);
    config["enable_tls"] = json!(true);
    match (node().open("rows", "cassandra", config).await, expect) {
        (Ok(sink), None) => {
            assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered], "{more}");
            sink.close().await;
        }
        (Err(fault), Some(kind)) => assert_eq!(fault.kind, kind, "{more} {fault:?}"),
        (Ok(_), Some(_)) => panic!("{more}: opened"),
        (Err(fault), None) => panic!("{more}: {fault:?}"),
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("reads")
}

async fn server_with_tls(names: &str, client_certificate: bool) -> (tempfile::TempDir, Certificates, Cassandra) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let made = Certificates::make(folder.path(), names, "sluice").expect("makes certificates");
    let certificates = Some(made.clone());
    let options = CassandraOptions { certificates, tls_only: true, client_certificate, ..CassandraOptions::default() };
    let server = Cassandra::with(options).await.expect("Cassandra starts");
    server.make_table(TABLE, COLUMNS).await.expect("makes the table");
    (folder, made, server)
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let (_folder, made, server) = server_with_tls("DNS:db.example.org", false).await;
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let (ca, name) = (&made.ca, "db.example.org");
    check_tls(&server, json!({}), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca }), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca, "tls_server_name": name }), None).await;
    check_tls(&server, json!({ "ca_cert": text(ca), "tls_server_name": name }), None).await;
    check_tls(&server, json!({ "ca_cert_path": made.other_ca, "tls_server_name": name }), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca, "tls_server_name": "other.example.org" }), untrusted).await;
    check_tls(&server, json!({ "tls_server_name": name }), untrusted).await;
    check_tls(&server, json!({ "tls_verify": false }), None).await;
    let unusable = Some(TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    check_tls(&server, json!({ "ca_cert_path": "/nowhere/ca.pem" }), unusable).await;
    let fault = refused(server.config(TABLE, &json!({}))).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "the server wants TLS: {fault:?}");
    server.finish();
}

/// The node tells its address, and its certificate has the name of the configuration only.
#[tokio::test]
async fn the_name_of_the_configuration_holds_for_the_address_that_a_node_tells() {
    let (_folder, made, server) = server_with_tls("DNS:localhost", true).await;
    let ca = &made.ca;
    let down = Some(TargetFaultKind::Down);
    check_tls(&server, json!({ "nodes": ["localhost"], "ca_cert_path": ca }), down).await;
    let files = json!({
        "nodes": ["localhost"], "ca_cert_path": ca, "client_cert_path": made.client, "client_key_path": made.client_key,
    });
    check_tls(&server, files, None).await;
    let inline = json!({
        "nodes": ["localhost"], "ca_cert": text(ca), "client_cert": text(&made.client),
        "client_key": text(&made.client_key),
    });
    check_tls(&server, inline, None).await;
    server.finish();
}
