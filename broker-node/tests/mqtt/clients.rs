//! Clients that somebody else wrote.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use broker_node::mqtt::{Auth, PasswordFile};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::raw::PATIENCE;
use crate::server::{Server, Setup, server};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

async fn run(program: &str, server: &Server, arguments: &[&str]) -> (bool, String) {
    let command = Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &server.address.port().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, command).await.expect("ends in time").expect("is installed");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

struct Subscriber {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    async fn start(server: &Server, arguments: &[&str]) -> Self {
        // Its debug lines would wait in a buffer.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &server.address.port().to_string(), "-d"])
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto_sub is installed");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut subscriber = Self { _child: child, lines };
        while !subscriber.line().await.starts_with("Subscribed") {}
        subscriber
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.expect("readable").expect("mosquitto_sub goes on")
    }

    /// The next line that is not a debug line.
    async fn message(&mut self) -> String {
        loop {
            let line = self.line().await;
            if !line.starts_with("Client ") && !line.starts_with("Subscribed") {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn mosquitto_publishes_and_subscribes_in_every_version() {
    let server = server().await;
    let mut expect = Vec::new();
    for version in VERSIONS {
        let mut subscriber = Subscriber::start(&server, &["-V", version, "-t", "wanted/+", "-q", "2", "-v"]).await;
        for (qos, sender) in [("0", "mqttv31"), ("1", "mqttv311"), ("2", "mqttv5"), ("2", "mqttv31"), ("1", "mqttv5")] {
            let topic = format!("wanted/{version}");
            let text = format!("{sender} {qos}");
            let (success, error) =
                run("mosquitto_pub", &server, &["-V", sender, "-t", &topic, "-q", qos, "-m", &text]).await;
            assert!(success, "{error}");
            assert_eq!(subscriber.message().await, format!("{topic} {text}"));
            expect.push((topic, text));
        }
    }
    let stored = server.queues.stored().into_iter();
    let stored: Vec<_> =
        stored.map(|message| (message.topic, String::from_utf8_lossy(&message.payload).into_owned())).collect();
    assert_eq!(stored, expect);
}

#[tokio::test]
async fn mosquitto_publishes_many_lines_over_one_connection() {
    let server = server().await;
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    let lines: String = (0..2000).map(|line| format!("{line}\n")).collect();
    std::io::Write::write_all(&mut file, lines.as_bytes()).expect("written");
    for (version, qos) in [("mqttv311", "1"), ("mqttv5", "2")] {
        let before = server.queues.stored().len();
        let child = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &server.address.port().to_string()])
            .args(["-V", version, "-q", qos, "-t", "wanted/lines", "-l"])
            .stdin(file.reopen().expect("open"))
            .kill_on_drop(true)
            .status();
        let status = tokio::time::timeout(PATIENCE, child).await.expect("ends in time").expect("is installed");
        assert!(status.success());
        let stored = server.queues.stored();
        let numbers: Vec<String> =
            stored[before..].iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect();
        assert_eq!(numbers, (0..2000).map(|line| line.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn mosquitto_leaves_a_will() {
    let server = server().await;
    let will = ["-t", "x", "--will-topic", "wanted/will", "--will-payload", "gone", "--will-qos", "1"];
    let subscriber = Subscriber::start(&server, &will).await;
    drop(subscriber);
    assert_eq!(server.queues.until_stored(1).await[0].topic, "wanted/will");
}

#[tokio::test]
async fn passwords_made_by_mosquitto_open_the_door() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("passwords");
    std::fs::write(&path, "# users\n").expect("written");
    for (hash, user, password) in [("sha512-pbkdf2", "alice", "secret"), ("sha512", "bob", "täglich:1")] {
        set_password(&path, hash, user, password).await;
    }
    for (allow_anonymous, anonymous) in [(false, false), (true, true)] {
        let auth = Auth::new(Some(PasswordFile::load(&path).expect("sound")), allow_anonymous);
        let server = Setup { auth, ..Setup::default() }.start(&["#"]).await;
        for version in VERSIONS {
            let publish = ["-V", version, "-t", "t", "-m", "m", "-q", "1"];
            for (user, password, expect) in [
                ("alice", "secret", true),
                ("bob", "täglich:1", true),
                ("alice", "Secret", false),
                ("alice", "", false),
                ("carol", "secret", false),
            ] {
                let arguments: Vec<&str> = publish.into_iter().chain(["-u", user, "-P", password]).collect();
                let (success, error) = run("mosquitto_pub", &server, &arguments).await;
                assert_eq!(success, expect, "{version} {user} {password}: {error}");
            }
            let (success, error) = run("mosquitto_pub", &server, &publish).await;
            assert_eq!(success, anonymous, "{version}: {error}");
            if !success {
                assert!(error.to_lowercase().contains("not authori"), "{error}");
            }
        }
    }
}

async fn set_password(path: &Path, hash: &str, user: &str, password: &str) {
    let mut child = Command::new("mosquitto_passwd")
        .args(["-H", hash, "-b", path.to_str().expect("text"), user, password])
        .stderr(Stdio::piped())
        .spawn()
        .expect("mosquitto_passwd is installed");
    let mut error = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut error).await.expect("readable");
    assert!(child.wait().await.expect("ends").success(), "{error}");
}

#[tokio::test]
async fn rumqttc_publishes_and_subscribes_over_mqtt_3_1_1() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let server = server().await;
    let mut options = MqttOptions::new("r4", "127.0.0.1", server.address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe("wanted/#", QoS::AtLeastOnce).await.expect("queued");
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for index in 0..30_usize {
        client.publish("wanted/r", qos[index % 3], false, vec![index as u8]).await.expect("queued");
    }
    let mut received = Vec::new();
    let receive = async {
        while received.len() < 30 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.expect("connected") {
                received.push(publish.payload[0]);
            }
        }
    };
    tokio::time::timeout(PATIENCE, receive).await.expect("received in time");
    assert_eq!(received, (0..30).collect::<Vec<u8>>());
    assert_eq!(server.queues.stored().len(), 30);
}

#[tokio::test]
async fn rumqttc_publishes_and_subscribes_over_mqtt_5() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let server = server().await;
    let options = MqttOptions::new("r5", "127.0.0.1", server.address.port());
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe("wanted/#", QoS::AtLeastOnce).await.expect("queued");
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for index in 0..30_usize {
        let properties =
            PublishProperties { user_properties: vec![("n".into(), index.to_string())], ..Default::default() };
        let payload = vec![index as u8];
        let publish = client.publish_with_properties("wanted/r", qos[index % 3], false, payload, properties);
        publish.await.expect("queued");
    }
    let mut received = Vec::new();
    let receive = async {
        while received.len() < 30 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.expect("connected") {
                let properties = publish.properties.expect("user properties");
                assert_eq!(properties.user_properties, [("n".to_owned(), publish.payload[0].to_string())]);
                received.push(publish.payload[0]);
            }
        }
    };
    tokio::time::timeout(PATIENCE, receive).await.expect("received in time");
    assert_eq!(received, (0..30).collect::<Vec<u8>>());
}
