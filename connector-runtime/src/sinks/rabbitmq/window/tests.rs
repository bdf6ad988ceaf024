use amq_protocol::protocol::BasicProperties;
use bytes::Buf;
use serde_json::json;
use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::sinks::opened::record;
use crate::sinks::rabbitmq::message::tests::publisher;
use crate::sinks::shared::runs::held;

const CHANNEL: u16 = 1;
/// Every byte has left.
const ALL: u64 = u64::MAX;

fn window(confirms: bool, channels: u16) -> Window {
    let mut window = Window::new(confirms);
    window.begin(Limits { channels, frame_bytes_max: 4_096 });
    window
}

/// Records with these numbers, each with a payload of so many bytes.
fn run(records: &[(u64, usize)]) -> (Run, Receiver<Vec<Outcome>>) {
    let publisher = publisher(&json!({}));
    let publish =
        |(number, bytes): &(u64, usize)| publisher.publish(&record(*number, vec![b'x'; *bytes])).expect("can be sent");
    let (done, answer) = oneshot::channel();
    (Run { publishes: records.iter().map(publish).collect(), done }, answer)
}

/// Takes the run and sends all of it.
fn sent(window: &mut Window, records: &[(u64, usize)]) -> Receiver<Vec<Outcome>> {
    let (run, answer) = run(records);
    window.take(run);
    loop {
        let mut out = Outbox::default();
        window.fill(&mut out, Instant::now());
        if out.bytes.is_empty() {
            return answer;
        }
    }
}

fn comes_back(window: &mut Window, number: u64, body_bytes: u64) {
    let method =
        basic::Return { reply_code: 312, reply_text: "NO_ROUTE".into(), exchange: "e".into(), routing_key: "k".into() };
    window.returned(CHANNEL, &method);
    let id = record(number, "").id.to_string();
    let properties = BasicProperties::default().with_message_id(id.as_str().into());
    window.returned_properties(CHANNEL, &AMQPContentHeader { class_id: 60, body_size: body_bytes, properties });
    if body_bytes > 0 {
        window.returned_body(CHANNEL, 1);
        window.returned_body(CHANNEL, usize::try_from(body_bytes).expect("is small") - 1);
    }
}

fn classes(answer: &mut Receiver<Vec<Outcome>>) -> Vec<String> {
    let outcomes = answer.try_recv().expect("is answered");
    let class = |outcome: &Outcome| match outcome {
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::RecordFault(fault) | Outcome::Unclear(fault) => fault.class.to_string(),
        Outcome::TargetFault(fault) => fault.kind.class().to_owned(),
    };
    outcomes.iter().map(class).collect()
}

fn close(code: u16, text: &str) -> Close {
    Close { code, text: text.to_owned() }
}

#[test]
fn every_confirm_settles_its_own_records() {
    let mut window = window(true, 1);
    let mut first = sent(&mut window, &[(1, 1), (2, 1), (3, 1)]);
    let mut second = sent(&mut window, &[(4, 1), (5, 1)]);
    window.confirmed(CHANNEL, 5, false, Verdict::Ack, ALL);
    window.confirmed(CHANNEL, 2, false, Verdict::Nack, ALL);
    assert!(first.try_recv().is_err() && second.try_recv().is_err(), "nobody is answered before all are");
    window.confirmed(CHANNEL, 4, true, Verdict::Ack, ALL);
    assert_eq!(classes(&mut first), ["delivered", "target_full", "delivered"]);
    assert_eq!(classes(&mut second), ["delivered", "delivered"]);
    assert!(window.is_idle() && window.waiting_since().is_none());
    // A confirm of nothing, as after a late answer.
    window.confirmed(CHANNEL, 4, false, Verdict::Ack, ALL);
    window.confirmed(9, 1, true, Verdict::Ack, ALL);
    let mut third = sent(&mut window, &[(6, 1), (7, 1)]);
    window.confirmed(CHANNEL, 0, true, Verdict::Nack, ALL);
    assert_eq!(classes(&mut third), ["target_full", "target_full"]);
}

#[test]
fn a_message_that_comes_back_is_known_by_its_id_whatever_is_confirmed_with_it() {
    let mut window = window(true, 1);
    let mut answer = sent(&mut window, &[(1, 5), (2, 0), (3, 5), (4, 5)]);
    comes_back(&mut window, 3, 5);
    comes_back(&mut window, 2, 0);
    window.confirmed(CHANNEL, 4, true, Verdict::Ack, ALL);
    assert_eq!(classes(&mut answer), ["delivered", "unroutable", "unroutable", "delivered"]);

    // The same record again, while nobody waits for the first any more.
    drop(sent(&mut window, &[(9, 1)]));
    let mut again = sent(&mut window, &[(9, 1)]);
    comes_back(&mut window, 9, 1);
    window.confirmed(CHANNEL, 5, false, Verdict::Ack, ALL);
    comes_back(&mut window, 9, 1);
    window.confirmed(CHANNEL, 6, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut again), ["unroutable"]);

    // One that is not ours, or has no id that can be read, is nobody's.
    let mut other = sent(&mut window, &[(10, 1)]);
    comes_back(&mut window, 11, 1);
    window.confirmed(CHANNEL, 7, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut other), ["delivered"]);
}

#[test]
fn a_channel_that_is_closed_takes_its_own_messages_along() {
    let mut window = window(true, 2);
    let lane = |number: u64| {
        let (run, _) = run(&[(number, 1)]);
        run.publishes[0].lane % 2
    };
    let on_first: Vec<u64> = (0..100).filter(|number| lane(*number) == 0).take(2).collect();
    let on_second = (0..100).find(|number| lane(*number) == 1).expect("there is one");
    let mut first = sent(&mut window, &[(on_first[0], 1), (on_first[1], 1)]);
    let mut second = sent(&mut window, &[(on_second, 1)]);
    window.channel_closed(1, &close(404, "NOT_FOUND - no exchange 'e' in vhost '/'"));
    assert_eq!(classes(&mut first), ["target_missing", "target_missing"]);
    assert!(second.try_recv().is_err());
    window.confirmed(2, 1, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut second), ["delivered"]);
    // Its tags begin anew.
    let mut again = sent(&mut window, &[(on_first[0], 1)]);
    window.confirmed(1, 1, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut again), ["delivered"]);
}

#[test]
fn of_messages_that_are_too_large_one_at_a_time_is_at_fault() {
    let mut window = window(true, 1);
    let mut answer = sent(&mut window, &[(1, 10), (2, 70_000), (3, 70_000), (4, 10)]);
    let text = "PRECONDITION_FAILED - message size 70000 is larger than configured max size 65536";
    window.channel_closed(CHANNEL, &close(406, text));
    assert_eq!(classes(&mut answer), ["interrupted", "message_too_large", "interrupted", "interrupted"]);
    // A refusal that names none of them is the target's.
    let mut answer = sent(&mut window, &[(1, 10), (2, 20)]);
    window.channel_closed(CHANNEL, &close(406, text));
    assert_eq!(classes(&mut answer), ["misconfigured", "misconfigured"]);
}

#[test]
fn a_lane_stays_on_its_channel() {
    let mut window = window(true, 8);
    let mut out = Outbox::default();
    let mut channels = std::collections::BTreeSet::new();
    for number in 0..100 {
        let mut same = std::collections::BTreeSet::new();
        for _ in 0..2 {
            let (run, _answer) = run(&[(number, 1)]);
            window.take(run);
            window.fill(&mut out, Instant::now());
            same.insert(out.bytes[2]);
            out.bytes.clear();
        }
        assert_eq!(same.len(), 1, "{number}");
        channels.append(&mut same);
    }
    assert_eq!(channels.into_iter().collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
}

#[test]
fn no_more_is_sent_than_the_server_may_leave_unconfirmed() {
    let mut window = window(true, 1);
    let many: Vec<(u64, usize)> = (0..UNCONFIRMED_MAX as u64 + 10).map(|number| (number, 1)).collect();
    let (run, mut answer) = run(&many);
    window.take(run);
    let mut out = Outbox::default();
    let mut messages = 0;
    loop {
        window.fill(&mut out, Instant::now());
        if out.bytes.is_empty() {
            break;
        }
        assert!(out.bytes.len() < OUT_BYTES_MAX + 4_096, "{} bytes wait", out.bytes.len());
        messages += out.bytes.windows(3).filter(|bytes| bytes == b"x\xce\x01").count();
        let bytes = out.bytes.len();
        out.bytes.advance(bytes);
        out.moved(bytes);
    }
    assert!(!window.wants_run());
    assert!((UNCONFIRMED_MAX - 100..=UNCONFIRMED_MAX).contains(&messages), "{messages}");
    window.confirmed(CHANNEL, UNCONFIRMED_MAX as u64, true, Verdict::Ack, ALL);
    window.fill(&mut out, Instant::now());
    window.confirmed(CHANNEL, UNCONFIRMED_MAX as u64 + 10, true, Verdict::Ack, ALL);
    assert_eq!(answer.try_recv().expect("is answered"), vec![Outcome::Delivered; many.len()]);
}

#[test]
fn without_confirmations_what_the_socket_has_is_delivered() {
    let mut window = window(false, 1);
    let (run, mut answer) = run(&[(1, 10), (2, 10)]);
    window.take(run);
    let mut out = Outbox::default();
    window.fill(&mut out, Instant::now());
    let bytes = out.bytes.len();
    out.bytes.advance(bytes);
    out.moved(bytes);
    window.handed_over(&out);
    assert!(answer.try_recv().is_err(), "the socket has not flushed it");
    out.handed_over = out.taken - 1;
    window.handed_over(&out);
    assert!(answer.try_recv().is_err(), "a byte of the last one is missing");
    assert!(window.waiting_since().is_some());
    out.handed_over = out.taken;
    window.handed_over(&out);
    assert_eq!(classes(&mut answer), ["delivered", "delivered"]);
}

#[test]
fn what_is_blocked_is_answered_and_its_late_confirms_are_nobodys() {
    let now = Instant::now();
    let mut window = window(true, 1);
    let (first, mut early) = run(&[(1, 1)]);
    window.take(first);
    window.fill(&mut Outbox::default(), now);
    let (second, mut late) = run(&[(2, 1)]);
    window.take(second);
    window.fill(&mut Outbox::default(), now + Duration::from_secs(1));
    // More than one write.
    let (third, mut unsent) = run(&[(3, 70_000), (4, 1), (5, 1)]);
    window.take(third);
    window.fill(&mut Outbox::default(), now + Duration::from_secs(1));
    let full = Outcome::TargetFault(TargetFault::new(TargetFaultKind::Full, "blocked"));
    window.end_unsent(&full);
    assert!(!window.end_sent_before(now, &full, ALL), "it has left");
    assert_eq!(classes(&mut early), ["target_full"]);
    assert!(late.try_recv().is_err() && unsent.try_recv().is_err());
    window.confirmed(CHANNEL, 3, true, Verdict::Ack, ALL);
    assert_eq!(classes(&mut late), ["delivered"]);
    let outcomes = unsent.try_recv().expect("is answered");
    assert_eq!(outcomes, [Outcome::Delivered, full, held()]);
}

#[test]
fn what_is_given_back_and_has_not_left_is_told() {
    let now = Instant::now();
    let full = Outcome::TargetFault(TargetFault::new(TargetFaultKind::Full, "blocked"));
    for confirms in [true, false] {
        let mut window = window(confirms, 1);
        let (run, mut answer) = run(&[(1, 10), (2, 10)]);
        window.take(run);
        let mut out = Outbox::default();
        window.fill(&mut out, now);
        assert!(!window.end_sent_before(now - Duration::from_secs(1), &full, 0), "nothing is late");
        // A byte of the second is missing.
        assert!(window.end_sent_before(now, &full, out.end() - 1));
        assert_eq!(classes(&mut answer), ["target_full", "target_full"]);
        assert!(!window.end_sent_before(now, &full, 0), "nothing is left to be given back");
    }
}

#[test]
fn nothing_is_late_for_the_time_of_an_alarm() {
    let now = Instant::now();
    let alarm = Duration::from_secs(20);
    let full = Outcome::TargetFault(TargetFault::new(TargetFaultKind::Full, "blocked"));
    for confirms in [true, false] {
        let mut window = window(confirms, 2);
        let (run, mut answer) = run(&[(1, 1), (2, 1), (3, 1)]);
        window.take(run);
        window.fill(&mut Outbox::default(), now);
        window.shift(alarm);
        assert_eq!(window.waiting_since(), Some(now + alarm));
        window.end_sent_before(now + alarm - Duration::from_millis(1), &full, ALL);
        assert!(answer.try_recv().is_err());
        window.end_sent_before(now + alarm, &full, ALL);
        assert_eq!(classes(&mut answer), ["target_full", "target_full", "target_full"]);
    }
}

#[test]
fn nothing_is_confirmed_before_it_has_left() {
    let mut window = window(true, 1);
    let (run, mut answer) = run(&[(1, 10), (2, 10)]);
    window.take(run);
    let mut out = Outbox::default();
    window.fill(&mut out, Instant::now());
    // A byte of the second is missing.
    let taken = out.end() - 1;
    for (tag, multiple) in [(2, false), (0, false), (u64::MAX, false), (2, true), (0, true), (u64::MAX, true)] {
        window.confirmed(CHANNEL, tag, multiple, Verdict::Ack, taken);
        assert!(answer.try_recv().is_err(), "{tag} {multiple}");
    }
    // The first one is confirmed by now, and the second is not lost.
    window.confirmed(CHANNEL, 1, false, Verdict::Nack, out.end());
    window.confirmed(CHANNEL, u64::MAX, true, Verdict::Nack, out.end());
    assert_eq!(classes(&mut answer), ["delivered", "target_full"]);
    assert!(window.waiting_since().is_none());
}

#[test]
fn a_routing_key_that_is_refused_is_the_fault_of_the_record_that_has_it() {
    let text = "ACCESS_REFUSED - access to topic 'other.x' in exchange 'e' in vhost '/' refused for user 'u'";
    for (routing_key, expect) in [
        ("${topic}", ["interrupted", "routing_key_refused", "interrupted", "interrupted"]),
        // The same for all of them.
        ("other.x", ["target_permission"; 4]),
        // None of them has it.
        ("${topic}.y", ["target_permission"; 4]),
    ] {
        let publisher = publisher(&json!({"routing_key": routing_key}));
        let publish = |(number, topic): (u64, &str)| {
            let mut record = record(number, "x");
            record.message.topic = topic.to_owned();
            publisher.publish(&record).expect("can be sent")
        };
        let mut window = window(true, 1);
        let (done, mut answer) = oneshot::channel();
        let topics = (1..).zip(["own.x", "other.x", "other.x", "own.y"]);
        window.take(Run { publishes: topics.map(publish).collect(), done });
        window.fill(&mut Outbox::default(), Instant::now());
        window.channel_closed(CHANNEL, &close(403, text));
        assert_eq!(classes(&mut answer), expect, "{routing_key}");
    }
}

#[test]
fn a_record_that_is_refused_holds_what_was_not_yet_sent_behind_it() {
    let mut window = window(true, 1);
    let (run, mut answer) = run(&[(1, 1), (2, 70_000), (3, 1)]);
    window.take(run);
    window.fill(&mut Outbox::default(), Instant::now());
    window.confirmed(CHANNEL, 1, false, Verdict::Nack, ALL);
    window.fill(&mut Outbox::default(), Instant::now());
    window.confirmed(CHANNEL, 2, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut answer), ["target_full", "delivered", "interrupted"]);
}

#[test]
fn nothing_is_sent_for_whoever_no_longer_waits() {
    let mut window = window(true, 1);
    let (run, answer) = run(&[(1, 70_000), (2, 1)]);
    window.take(run);
    window.fill(&mut Outbox::default(), Instant::now());
    drop(answer);
    let mut out = Outbox::default();
    window.fill(&mut out, Instant::now());
    assert!(out.bytes.is_empty());
    assert!(window.wants_run() && window.is_idle());
    window.confirmed(CHANNEL, 1, false, Verdict::Ack, ALL);
    let mut next = sent(&mut window, &[(3, 1)]);
    window.confirmed(CHANNEL, 2, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut next), ["delivered"]);
}

#[test]
fn a_lost_connection_answers_all_and_the_next_one_begins_anew() {
    let mut window = window(true, 2);
    let mut answer = sent(&mut window, &[(1, 1), (2, 70_000), (3, 70_000), (4, 1)]);
    window.end_all(&Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, "lost")));
    assert_eq!(classes(&mut answer), vec!["target_unreachable"; 4]);
    assert!(window.is_idle() && window.waiting_since().is_none());
    window.begin(Limits { channels: 1, frame_bytes_max: 4_096 });
    let mut next = sent(&mut window, &[(1, 1)]);
    window.confirmed(CHANNEL, 1, false, Verdict::Ack, ALL);
    assert_eq!(classes(&mut next), ["delivered"]);
}
