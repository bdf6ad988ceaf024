//! Keys of the configuration, of a role, and of the place where the node runs. What is found in the environment is found by
//! a process of its own: no test changes the environment of the others.

use std::process::Stdio;

use ::tests::s3::SECRET;

use super::*;

/// How a process of its own is told what to do.
const CONFIG: &str = "SLUICE_TEST_S3_CONFIG";
/// Whether there is another object after the first one.
const TWICE: &str = "SLUICE_TEST_S3_TWICE";

/// Of Debian's package libfaketime: gives a process another clock.
fn other_clock() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder").filter_map(Result::ok);
    let library = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    folders.map(library).find(|path| path.exists()).expect("Debian package libfaketime")
}

/// Not run by itself: one record, by a configuration in the environment.
#[tokio::test]
#[ignore = "run by the tests beside it, in a process of its own"]
async fn one_record_in_a_process_of_its_own() {
    let config = std::env::var(CONFIG).expect("is told its configuration");
    let config = serde_json::from_str(&config).expect("is JSON");
    let sink = node().open("objects", "s3", config).await.expect("opens");
    println!("outcome: {:?}", deliver(&*sink, &records(1)).await[0]);
    if std::env::var_os(TWICE).is_some() {
        assert_eq!(deliver(&*sink, &records(2)).await, vec![Outcome::Delivered; 2]);
    }
}

/// What became of it, with these variables and no others of AWS.
async fn elsewhere(config: &Value, variables: &[(&str, &str)]) -> String {
    let mut process = tokio::process::Command::new(std::env::current_exe().expect("this program"));
    let name = "sinks::s3::sink::tests::credentials::one_record_in_a_process_of_its_own";
    process.args([name, "--exact", "--ignored", "--nocapture"]).env(CONFIG, config.to_string());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        process.env_remove(name);
    }
    // No folder with files of AWS, and no machine of theirs.
    process.env("HOME", "/nowhere").env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
    let output = process.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let outcome = text.split_once("outcome: ").and_then(|(_, rest)| rest.lines().next());
    outcome.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

/// Without keys.
fn keyless(mut config: Value) -> Value {
    for field in ["access_key_id", "secret_access_key"] {
        config.as_object_mut().expect("an object").remove(field);
    }
    config
}

#[tokio::test]
async fn without_keys_they_are_found_as_other_clients_of_aws_find_them() {
    let server = server().await;
    let config = keyless(server.config(BUCKET, &json!({})));
    let none = elsewhere(&config, &[]).await;
    assert!(none.contains("kind: Auth") && none.contains("no credentials"), "{none}");
    let keys = [("AWS_ACCESS_KEY_ID", "sluice"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    assert_eq!(elsewhere(&config, &keys).await, "Delivered");
    let wrong = [("AWS_ACCESS_KEY_ID", "sluice"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let refused = elsewhere(&config, &wrong).await;
    assert!(refused.contains("kind: Auth") && refused.contains("SignatureDoesNotMatch"), "{refused}");
    let with_token = [keys[0], keys[1], ("AWS_SESSION_TOKEN", "not-a-token")];
    let refused = elsewhere(&config, &with_token).await;
    assert!(refused.contains("kind: Auth") && refused.contains("InvalidToken"), "{refused}");
    // Keys of the configuration are not mixed with others.
    let own = server.config(BUCKET, &json!({}));
    assert_eq!(elsewhere(&own, &with_token).await, "Delivered");
    server.finish();
}

#[tokio::test]
async fn a_profile_has_keys_too() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("credentials");
    let text = format!("[lake]\naws_access_key_id = sluice\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&file, text).expect("writes");
    let profile = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().expect("text")), ("AWS_PROFILE", "lake")];
    assert_eq!(elsewhere(&keyless(server.config(BUCKET, &json!({}))), &profile).await, "Delivered");
    server.finish();
}

#[tokio::test]
async fn the_role_of_a_container_is_asked_for() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let role = minio.temporary().await.expect("gives some");
    let keys = json!({
        "AccessKeyId": role.access_key_id, "SecretAccessKey": role.secret_access_key, "Token": role.session_token,
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let lines = format!("location /role {{ default_type application/json; return 200 '{keys}'; }}");
    let agent = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let uri = format!("{}/role", agent.url());
    let config = keyless(minio.config(BUCKET, &json!({})));
    assert_eq!(elsewhere(&config, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]).await, "Delivered");
    let asked = agent.passed().expect("reads");
    assert!(!asked.is_empty() && asked.iter().all(|request| request.uri == "/role" && request.status == 200));
    agent.finish();
    minio.finish();
}

#[tokio::test]
async fn keys_of_a_role_are_renewed_before_they_end_and_not_sooner() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let role = minio.temporary().await.expect("gives some");
    let config = keyless(minio.config(BUCKET, &json!({})));
    let soon = (chrono::Utc::now() + Duration::from_secs(110)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    for (ends, is_renewed) in [("2099-01-01T00:00:00Z", false), (&*soon, true)] {
        let keys = json!({
            "AccessKeyId": role.access_key_id, "SecretAccessKey": role.secret_access_key, "Token": role.session_token,
            "Expiration": ends,
        });
        let agent = places(&format!("location /role {{ default_type application/json; return 200 '{keys}'; }}")).await;
        let uri = format!("{}/role", agent.url());
        let outcome = elsewhere(&config, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri), (TWICE, "yes")]).await;
        assert_eq!(outcome, "Delivered");
        // The objects are two, and each was signed: also what ends within two minutes is good for the first one.
        let asked = || agent.passed().expect("reads").len();
        match is_renewed {
            true => double::until("they are asked for again", || asked() >= 2).await,
            false => drop(agent.passed_are(1).await.expect("once")),
        }
        agent.finish();
    }
    assert_eq!(minio.keys(BUCKET).await.expect("lists").len(), 2);
    minio.finish();
}

/// Where a role's keys are asked for, and what comes back.
async fn places(lines: &str) -> Front {
    Front::start(FrontOptions { lines: lines.to_owned(), ..FrontOptions::default() }).await.expect("nginx starts")
}

#[tokio::test]
async fn a_place_that_cannot_be_asked_is_down_and_nobody_else_is_asked_in_its_stead() {
    let server = server().await;
    let config = keyless(server.config(BUCKET, &json!({})));
    // Keys that would do, of the instance: whoever asks for them is another one.
    let keys = json!({
        "AccessKeyId": "sluice", "SecretAccessKey": SECRET, "Token": "", "Expiration": "2099-01-01T00:00:00Z",
        "Code": "Success", "Message": "",
    });
    let places = places(&format!(
        "location = /broken {{ return 500 'no luck today'; }} location = /busy {{ return 429; }}
         location = /refused {{ return 403 'not you'; }} location = /wrong {{ return 404; }}
         location = /latest/api/token {{ return 200 'a-token'; }}
         location = /latest/meta-data/iam/security-credentials/ {{ return 200 'a-role'; }}
         location = /latest/meta-data/iam/security-credentials/a-role {{ return 200 '{keys}'; }}"
    ))
    .await;
    let url = places.url();
    let instance = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)];
    let nowhere = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/role");
    let role = |path: &str| ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}{path}"));
    for (path, expect, words) in [
        ("/broken", "kind: Down", "no luck today"),
        ("/busy", "kind: Throttled", "429"),
        ("/refused", "kind: Auth", "not you"),
        ("/wrong", "kind: Auth", "not found"),
    ] {
        let (name, value) = role(path);
        let outcome = elsewhere(&config, &[instance[0], instance[1], (name, &value)]).await;
        assert!(outcome.contains(expect) && outcome.contains(words), "{path}: {outcome}");
        assert!(outcome.contains("no credentials from the role of the container"), "{path}: {outcome}");
    }
    let outcome = elsewhere(&config, &[instance[0], instance[1], nowhere]).await;
    assert!(outcome.contains("kind: Down") && outcome.contains("refused"), "{outcome}");
    let unreadable = [("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")];
    let outcome = elsewhere(&config, &[instance[0], instance[1], unreadable[0], unreadable[1]]).await;
    assert!(outcome.contains("kind: Auth") && outcome.contains("from the web identity"), "{outcome}");
    let asked: Vec<String> = places.passed().expect("reads").into_iter().map(|request| request.uri).collect();
    assert!(asked.iter().all(|uri| !uri.starts_with("/latest")), "the instance was asked: {asked:?}");
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0);
    places.finish();
    server.finish();
}

#[tokio::test]
async fn the_security_token_service_that_is_not_reached_is_down() {
    let server = server().await;
    let config = keyless(server.config(BUCKET, &json!({})));
    let folder = tempfile::tempdir().expect("temporary folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token").expect("writes");
    let identity = [
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().expect("text")),
        // No region, and so no host, has this name.
        ("AWS_REGION", "nowhere-1"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
    ];
    let outcome = elsewhere(&config, &identity).await;
    assert!(outcome.contains("kind: Down") && outcome.contains("no credentials from the web identity"), "{outcome}");
    assert!(!outcome.contains("a-token"), "{outcome}");
    server.finish();
}

#[tokio::test]
async fn a_process_that_a_profile_names_is_not_run_and_said_so() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let (file, ran) = (folder.path().join("config"), folder.path().join("ran"));
    std::fs::write(&file, format!("[default]\ncredential_process = /usr/bin/touch {}\n", ran.display()))
        .expect("writes");
    let profile = [("AWS_CONFIG_FILE", file.to_str().expect("text"))];
    let outcome = elsewhere(&keyless(server.config(BUCKET, &json!({}))), &profile).await;
    assert!(outcome.contains("kind: Auth") && outcome.contains("credential_process is not run"), "{outcome}");
    assert!(!ran.exists());
    server.finish();
}

#[tokio::test]
async fn the_role_of_an_instance_is_asked_for_and_one_that_should_be_there_is_missed() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let role = minio.temporary().await.expect("gives some");
    let keys = json!({
        "AccessKeyId": role.access_key_id, "SecretAccessKey": role.secret_access_key, "Token": role.session_token,
        "Expiration": "2099-01-01T00:00:00Z", "Code": "Success", "Message": "",
    });
    let instance = |keys: &str| {
        format!(
            "location = /latest/api/token {{ return 200 'a-token'; }}
             location = /latest/meta-data/iam/security-credentials/ {{ return 200 'a-role'; }}
             location = /latest/meta-data/iam/security-credentials/a-role {{ {keys} }}"
        )
    };
    let config = keyless(minio.config(BUCKET, &json!({})));
    for (answer, expect) in [(format!("return 200 '{keys}';"), "Delivered"), ("return 503;".to_owned(), "kind: Down")] {
        let places = places(&instance(&answer)).await;
        let url = places.url();
        let instance = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)];
        let outcome = elsewhere(&config, &instance).await;
        assert!(outcome.contains(expect), "{answer}: {outcome}");
        let asked = places.passed().expect("reads");
        assert_eq!((&*asked[0].method, &*asked[0].uri), ("PUT", "/latest/api/token"), "IMDSv2: {asked:?}");
        places.finish();
    }
    let instance =
        [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    let outcome = elsewhere(&config, &instance).await;
    assert!(outcome.contains("kind: Down") && outcome.contains("the role of the instance"), "{outcome}");
    minio.finish();
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_as_such() {
    let library = other_clock();
    let server = server().await;
    let config = server.config(BUCKET, &json!({}));
    let skewed =
        [("LD_PRELOAD", library.to_str().expect("text")), ("FAKETIME", "+2h"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let refused = elsewhere(&config, &skewed).await;
    assert!(refused.contains("CLOCK_SKEWED") && refused.contains("RequestTimeTooSkewed"), "{refused}");
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0);
    server.finish();
}

#[tokio::test]
async fn a_rotated_secret_is_read_again() {
    let server = server().await;
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("secret"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let secret = format!("${{file:{}}}", folder.join("secret").display());
    let sink = node.sink_for("objects", "s3", server.config(BUCKET, &json!({"secret_access_key": secret})));
    let queue = numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("the target wants another", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("secret"), SECRET).expect("writes");
    queue.all_committed().await;
    all_are_there_once(&server, 3);
    server.finish();
}

#[tokio::test]
async fn temporary_credentials_work_with_their_token_only() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let temporary = minio.temporary().await.expect("gives some");
    let keys = json!({"access_key_id": temporary.access_key_id, "secret_access_key": temporary.secret_access_key});
    let mut with_token = keys.clone();
    with_token["session_token"] = temporary.session_token.into();
    let mut with_another = keys.clone();
    with_another["session_token"] = "another".into();
    for (more, expect) in
        [(&with_token, None), (&keys, Some("InvalidTokenId")), (&with_another, Some("InvalidTokenId"))]
    {
        let sink = node().open("objects", "s3", minio.config(BUCKET, more)).await.expect("opens");
        let outcomes = deliver(&*sink, &records(2)).await;
        match expect {
            None => assert_eq!(outcomes, vec![Outcome::Delivered; 2]),
            Some(words) => {
                assert_eq!(kind(&outcomes[0]), TargetFaultKind::Auth, "{outcomes:?}");
                assert!(fault(&outcomes[0]).message.contains(words), "{outcomes:?}");
            }
        }
    }
    let keys = minio.keys(BUCKET).await.expect("lists");
    assert_eq!(keys.len(), 1);
    let object = minio.object(BUCKET, &keys[0]).await.expect("reads");
    assert_eq!(array(object.as_bytes()).len(), 2);
    minio.finish();
}
