//! What the server sees of the connection.

use super::*;

#[tokio::test]
async fn what_is_agreed_is_what_is_configured() {
    for (number, heartbeat_secs, frame_max, channel_max) in
        [(1, 0, 4_096, 1_u16), (2, 7, 131_072, 3), (3, 300, 8_192, 2_047)]
    {
        let place = Place::new(&format!("agreed {number}")).await;
        let more = json!({"heartbeat_secs": heartbeat_secs, "frame_max": frame_max, "channel_max": channel_max});
        let sink = place.open(&more).await;
        let connection = place.connection().await;
        for (field, expect) in [
            ("timeout", json!(heartbeat_secs)),
            ("frame_max", json!(frame_max)),
            ("channel_max", json!(channel_max)),
            ("user", json!(USER)),
            ("auth_mechanism", json!("PLAIN")),
            ("ssl", json!(false)),
            ("user_provided_name", json!("sluice/messages")),
        ] {
            assert_eq!(connection[field], expect, "{field} of {connection}");
        }
        let client = &connection["client_properties"];
        assert_eq!((&client["product"], &client["version"]), (&json!("Sluice"), &json!(env!("CARGO_PKG_VERSION"))));
        let channels = channel_max.min(8);
        let counted = wait::until(LIMIT, "the channels are counted", async || {
            let connection = place.connection().await;
            ensure!(connection["channels"] == channels, "{connection}");
            Ok(())
        });
        counted.await.expect("counts");
        // Many frames, and properties beside them.
        let large = record(1, vec![b'x'; 300_000]);
        assert_eq!(deliver(&*sink, std::slice::from_ref(&large)).await, [Outcome::Delivered]);
        assert!(place.messages_when(QUEUE, 1).await[0].payload == large.message.payload);
        sink.close().await;
        place.connections_become(0).await;
    }
}

#[tokio::test]
async fn more_than_the_server_allows_is_not_asked_for() {
    let place = Place::new("allowed").await;
    let sink = place.open(&json!({"frame_max": 1_048_576, "channel_max": 65_535})).await;
    let connection = place.connection().await;
    assert_eq!((&connection["frame_max"], &connection["channel_max"]), (&json!(131_072), &json!(2_047)));
    let large = record(1, vec![b'x'; 900_000]);
    assert_eq!(deliver(&*sink, &[large]).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn confirmations_are_asked_for_unless_they_are_given_up() {
    for confirms in [true, false] {
        let place = Place::new(&format!("confirms {confirms}")).await;
        let _sink = place.open(&json!({"publisher_confirms": confirms, "channel_max": 2})).await;
        let shown = wait::until(LIMIT, "the channels are shown", async || {
            let channels = place.server.get(&["vhosts", &place.name, "channels"]).await?;
            let channels = channels.as_array().cloned().unwrap_or_default();
            ensure!(channels.len() == 2, "{} channels", channels.len());
            ensure!(channels.iter().all(|channel| channel["confirm"].is_boolean()), "not yet described");
            Ok(channels)
        });
        for channel in shown.await.expect("are shown") {
            assert_eq!(channel["confirm"], confirms);
        }
    }
}

#[tokio::test]
async fn heartbeats_keep_an_idle_connection_and_nothing_is_sent_without_them() {
    let place = Place::new("idle").await;
    let sink = place.open(&json!({"heartbeat_secs": 1})).await;
    let bytes = async || {
        let connection = place.connection().await;
        (connection["recv_oct"].as_u64().unwrap_or_default(), connection["name"].clone())
    };
    let (before, name) = bytes().await;
    // The server gives a connection up after two intervals without a word; this is five.
    let kept = wait::until(LIMIT, "heartbeats arrive", async || {
        let (now, same) = bytes().await;
        assert_eq!(same, name, "another connection");
        // Each has eight bytes.
        ensure!(now >= before + 10 * 8, "{} bytes", now - before);
        Ok(())
    });
    kept.await.expect("arrive");
    assert_eq!(deliver(&*sink, &numbered(1)).await, [Outcome::Delivered]);
    assert_eq!(place.connection().await["name"], name);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_made_again_when_it_is_needed() {
    let place = Place::new("closed").await;
    let sink = place.open(&json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(1)).await, [Outcome::Delivered]);
    let connection = place.connection().await;
    let name = connection["name"].as_str().expect("has a name");
    place.server.delete(&["connections", name]).await.expect("closes");
    place.connections_become(0).await;
    // Nobody was disturbed, and nobody is.
    assert_eq!(deliver(&*sink, &numbered(1)).await, [Outcome::Delivered]);
    place.connections_become(1).await;
    assert_eq!(place.messages_when(QUEUE, 2).await.len(), 2);
}

#[tokio::test]
async fn a_closed_sink_says_goodbye() {
    let place = Place::new("goodbye").await;
    let sink = place.open(&json!({})).await;
    place.connections_become(1).await;
    let name = place.connection().await["name"].as_str().expect("has a name").to_owned();
    let started = Instant::now();
    sink.close().await;
    println!("measured: closed within {:?}", started.elapsed());
    place.connections_become(0).await;
    // `127.0.0.1:1 -> 127.0.0.1:2`, without what the client calls itself.
    let peers = name.split(" - ").next().expect("has peers");
    let log = place.server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(peers)).collect();
    assert!(!lines.iter().any(|line| line.contains("closed unexpectedly")), "{lines:#?}");
    assert_eq!(fault(&deliver(&*sink, &numbered(1)).await[0]).kind, TargetFaultKind::Interrupted);
}
