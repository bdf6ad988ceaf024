//! Against brokers that somebody else wrote: Mosquitto and NATS.

mod limits;
mod losses;
mod security;
mod servers;
mod subscriber;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use api_types::{Message, Record};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::servers::Server;
use self::subscriber::{Subscriber, properties, topic, user};
use super::*;
use crate::pipeline::tests::double::{MemoryQueue, Setup, until};
use crate::registry::OrderClass;
use crate::sink::TargetFaultKind;
use crate::sinks::opened::{TestNode, deliver, fault, record};

const NAME: &str = "bridge";

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn open(config: Value) -> Result<Box<dyn Sink>, TargetFault> {
    node().open(NAME, "mqtt", config).await
}

async fn opened(config: Value) -> Box<dyn Sink> {
    open(config.clone()).await.unwrap_or_else(|fault| panic!("{config}: {fault:?}"))
}

fn with_topic(number: u64, topic: &str, payload: impl Into<Vec<u8>>) -> Record {
    let mut record = record(number, payload);
    record.message.topic = topic.to_owned();
    record
}

/// What the target fault of an outcome is; panics for any other outcome.
/// The class of a record fault, and whether the target was asked.
fn record_fault(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::RecordFault(fault) => (&fault.class, !fault.offline),
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no record fault"),
    }
}

#[tokio::test]
async fn every_version_and_qos_is_delivered_and_retained_as_configured() {
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "to/#").await;
    let mut expect = Vec::new();
    for version in ["v3", "v4", "v5"] {
        for qos in [0u8, 1, 2] {
            for retain in [false, true] {
                let name = format!("{version}/{qos}/{retain}");
                let config = json!({"server": server.url(), "protocol_version": version, "qos": qos, "retain": retain,
                                    "topic_prefix": "to/", "client_id_prefix": format!("{version}{qos}")});
                let sink = opened(config).await;
                let records = [with_topic(1, &name, "one"), with_topic(2, &name, "two")];
                assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2], "{name}");
                sink.close().await;
                expect.push((format!("to/{name}"), qos, "one".to_owned()));
                expect.push((format!("to/{name}"), qos, "two".to_owned()));
            }
        }
    }
    let mut arrived: Vec<(String, u8, String)> = Vec::new();
    for publish in subscriber.messages(expect.len()).await {
        let payload = String::from_utf8(publish.payload.to_vec()).expect("is text");
        arrived.push((topic(&publish).to_owned(), publish.qos as u8, payload));
    }
    arrived.sort();
    expect.sort();
    assert_eq!(arrived, expect);
    drop(subscriber);

    // Whoever comes later gets the last of the retained ones, and then what is published now.
    let later = Subscriber::start_as("later", server.port, "to/#", QoS::ExactlyOnce).await;
    let sink = opened(json!({"server": server.url(), "topic_prefix": "to/"})).await;
    assert_eq!(deliver(&*sink, &[with_topic(3, "end", "end")]).await, [Outcome::Delivered]);
    until("the last message arrives", || later.all().iter().any(|publish| topic(publish) == "to/end")).await;
    let kept: Vec<_> = later.all().into_iter().filter(|publish| topic(publish) != "to/end").collect();
    assert!(kept.iter().all(|publish| publish.retain && publish.payload == "two"), "{kept:?}");
    let mut topics: Vec<String> = kept.iter().map(|publish| topic(publish).to_owned()).collect();
    topics.sort();
    let of_version = |version| (0..3).map(move |qos| format!("to/{version}/{qos}/true"));
    assert_eq!(topics, ["v3", "v4", "v5"].into_iter().flat_map(of_version).collect::<Vec<_>>());
}

/// Topics and payloads of every kind that MQTT allows.
fn shapes(count: u64) -> Vec<Message> {
    let payload = |number: u64| -> Vec<u8> {
        match number % 8 {
            0 => Vec::new(),
            1 => vec![number as u8],
            2 => b"\0\0nul\0".to_vec(),
            3 => b"\xff\xfe\x80".to_vec(),
            4 => format!("{{\"number\":{number}}}").into_bytes(),
            5 if number % 1000 == 5 => vec![b'x'; 256 << 10],
            5 => vec![b'm'; 1 + (number % 300) as usize],
            6 => "text with umlauts: äöü".into(),
            _ => number.to_be_bytes().to_vec(),
        }
    };
    let topics = ["plain", "deep/er/and/deeper", "späße/日本/😀", "with space", "/leading", "trailing/", "a//b"];
    let message = |number: u64| Message {
        topic: topics[(number % 7) as usize].to_owned(),
        client_id: format!("device-{}", number % 20),
        payload: payload(number).into(),
        // Names the message, whatever its payload.
        user_properties: vec![("number".into(), number.to_string())],
        ..Message::default()
    };
    (0..count).map(message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_records_of_every_shape_arrive_equal_in_order_and_once() {
    const COUNT: u64 = 10_000;
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "to/#").await;
    let sink = node().sink_for(NAME, "mqtt", json!({"server": server.url(), "topic_prefix": "to/"}));
    assert_eq!(sink.order, OrderClass::Lanes);
    let sent = shapes(COUNT);
    let queue = MemoryQueue::with(sent.clone());
    let started = Instant::now();
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.send_fail_total), (COUNT, 0));

    let arrived = subscriber.messages(COUNT as usize).await;
    assert_eq!(arrived.len(), COUNT as usize);
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut seen = vec![false; COUNT as usize];
    for publish in &arrived {
        let properties = properties(publish);
        let number: u64 = user(&properties, "number")[0].parse().expect("is a number");
        let message = &sent[number as usize];
        assert_eq!(topic(publish).strip_prefix("to/"), Some(message.topic.as_str()));
        assert!(publish.payload == message.payload, "{number}");
        assert!(!std::mem::replace(&mut seen[number as usize], true), "{number} arrived twice");
        let before = last.insert((message.client_id.clone(), message.topic.clone()), number);
        assert!(before < Some(number), "{number} came after {before:?}");
    }
}

#[tokio::test]
async fn version_5_forwards_every_property_and_says_where_the_record_is_from() {
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "#").await;
    let sink = opened(json!({"server": server.url()})).await;
    let mut record = record(5, b"\xff".to_vec());
    record.message.qos = 2;
    record.message.retain = true;
    record.message.content_type = Some("application/cbor".into());
    record.message.response_topic = Some("answers/here".into());
    record.message.correlation_data = Some(b"\0\x01".to_vec().into());
    record.message.user_properties = vec![("a".into(), "1".into()), ("a".into(), "2".into())];
    assert_eq!(deliver(&*sink, std::slice::from_ref(&record)).await, [Outcome::Delivered]);
    let publish = subscriber.messages(1).await.remove(0);
    assert_eq!((topic(&publish), &publish.payload[..]), ("plant/one", &b"\xff"[..]));
    let properties = properties(&publish);
    assert_eq!(properties.content_type.as_deref(), Some("application/cbor"));
    assert_eq!(properties.response_topic.as_deref(), Some("answers/here"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\0\x01"[..]));
    for (name, expect) in [
        ("a", vec!["1", "2"]),
        ("mqtt.topic", vec!["plant/one"]),
        ("mqtt.client_id", vec!["device-5"]),
        ("mqtt.qos", vec!["2"]),
        ("mqtt.retain", vec!["true"]),
        ("mqtt.timestamp", vec!["1700000000005"]),
        ("mqtt.id", vec!["1-7-5"]),
        ("sluice.hops", vec!["1"]),
    ] {
        assert_eq!(user(&properties, name), expect, "{name}");
    }

    // What comes back is known, and ends here.
    record.message.user_properties = properties.user_properties;
    let outcomes = deliver(&*sink, &[record, with_topic(6, "plant/two", "fresh")]).await;
    assert_eq!(record_fault(&outcomes[0]), ("loop", false));
    assert_eq!(outcomes[1], Outcome::Delivered);
    assert_eq!(topic(&subscriber.messages(2).await[1]), "plant/two");
}

#[tokio::test]
async fn an_envelope_is_one_json_object_in_every_version() {
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "#").await;
    for (place, version) in ["v3", "v4", "v5"].into_iter().enumerate() {
        let config = json!({"server": server.url(), "protocol_version": version, "payload_format": "envelope"});
        let sink = opened(config).await;
        assert_eq!(deliver(&*sink, &[record(5, "{\"t\":1}")]).await, [Outcome::Delivered]);
        let publish = subscriber.messages(place + 1).await.remove(place);
        let envelope: Value = serde_json::from_slice(&publish.payload).expect("is JSON");
        assert_eq!((&envelope["id"], &envelope["payload"]), (&json!("1-7-5"), &json!({"t": 1})), "{version}");
        let content_type = (version == "v5").then_some("application/json");
        assert_eq!(properties(&publish).content_type.as_deref(), content_type);
    }
}

#[tokio::test]
async fn each_version_introduces_itself_by_a_client_id_that_stays() {
    let server = Server::mosquitto("");
    let mut ids = Vec::new();
    for (version, level, prefix) in [
        ("v3", 1, None),
        ("v4", 2, None),
        ("v5", 5, None),
        ("v5", 5, Some("site-a_")),
        ("v3", 1, Some("thirteen-chars-and-more")),
    ] {
        let mut config = json!({"server": server.url(), "protocol_version": version, "keepalive_secs": 77,
                                "username": "dév", "password": "p w"});
        config["client_id_prefix"] = json!(prefix);
        for _ in 0..2 {
            let before = server.logged("New client connected");
            opened(config.clone()).await.close().await;
            until("the connection is logged", || server.logged("New client connected") > before).await;
            let log = server.log();
            let line = log.lines().rfind(|line| line.contains("New client connected")).expect("was logged");
            assert!(line.contains(&format!("(p{level}, c1, k77, u'dév')")), "{line}");
            let id = line.split(" as ").nth(1).and_then(|rest| rest.split(' ').next()).expect("names the client");
            ids.push(id.to_owned());
        }
    }
    assert!(ids.chunks(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    assert_eq!((ids[0].len(), &ids[0][..6]), (17, "sluice"));
    assert_eq!(&ids[6][..7], "site-a_");
    assert_eq!((ids[8].len(), &ids[8][..12]), (23, "thirteen-cha"));
    // Another connector is another client.
    let other = node().open("other", "mqtt", json!({"server": server.url()})).await.expect("opens");
    until("the connection is logged", || server.logged("New client connected") > 10).await;
    assert!(!server.log().lines().last().is_some_and(|line| line.contains(&ids[0])), "{}", server.log());
    drop(other);
}

#[tokio::test]
async fn nats_takes_311_and_says_what_it_does_not_speak() {
    let server = Server::nats();
    let config = |version: &str, qos: u8, password: &str| {
        json!({"server": server.url(), "protocol_version": version, "qos": qos, "username": "sink", "password": password,
               "topic_prefix": "to/"})
    };
    let fault_of = async |config: Value| open(config.clone()).await.err().unwrap_or_else(|| panic!("{config} opens"));
    assert_eq!(
        fault_of(config("v5", 1, "sinkpw")).await.kind,
        TargetFaultKind::Misconfigured("TARGET_PROTOCOL_VERSION")
    );
    // It hangs up on MQTT 3.1 without a word.
    let fault_of_31 = fault_of(config("v3", 1, "sinkpw")).await;
    assert_eq!(fault_of_31.kind, TargetFaultKind::Down);
    assert_eq!(&*fault_of_31.message, "the target closed the connection instead of accepting MQTT 3.1");
    assert_eq!(fault_of(config("v4", 1, "wrong")).await.kind, TargetFaultKind::Auth);

    let subscriber = nats_subscriber(server.port).await;
    let sink = opened(config("v4", 1, "sinkpw")).await;
    let records: Vec<Record> = (0..1000).map(|number| with_topic(number, "a/b", format!("m{number}"))).collect();
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 1000]);
    let expect: Vec<String> = (0..1000).map(|number| format!("m{number}")).collect();
    until("all of them arrive", || subscriber.payloads.lock().expect("no panic").len() >= 1000).await;
    assert!(*subscriber.payloads.lock().expect("no panic") == expect, "each once and in order");

    // Under a client id of its own: NATS makes one wait that changes hands fast.
    let sink = node().open("other", "mqtt", config("v4", 2, "sinkpw")).await.expect("opens");
    let outcomes = deliver(&*sink, &records[..2]).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Down);
    assert!(fault(&outcomes[0]).message.contains("does it speak QoS 2?"), "{outcomes:?}");
}

/// NATS speaks 3.1.1 only.
struct NatsSubscriber {
    payloads: Arc<std::sync::Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

impl Drop for NatsSubscriber {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn nats_subscriber(port: u16) -> NatsSubscriber {
    let mut options = rumqttc::MqttOptions::new("reader", "127.0.0.1", port);
    options.set_credentials("sink", "sinkpw");
    let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
    client.subscribe("to/#", rumqttc::QoS::AtLeastOnce).await.expect("room for one request");
    let payloads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (into, (told, subscribed)) = (Arc::clone(&payloads), oneshot::channel());
    let reading = tokio::spawn(async move {
        let (mut told, _client) = (Some(told), client);
        while let Ok(event) = events.poll().await {
            match event {
                rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) => {
                    let payload = String::from_utf8(publish.payload.to_vec()).expect("is text");
                    into.lock().expect("no panic").push(payload);
                }
                rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_)) => {
                    let _ = told.take().map(|told| told.send(()));
                }
                _ => {}
            }
        }
    });
    subscribed.await.expect("the subscription is acknowledged");
    NatsSubscriber { payloads, reading }
}
