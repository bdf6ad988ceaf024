//! Decisions only: no socket, no clock.

use std::collections::BTreeSet;

use bytes::Buf;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::sinks::mqtt::config::Config;
use crate::sinks::mqtt::message::Publisher;
use crate::sinks::opened::record;

const LIMITS: Limits = Limits { on_wire_max: 4, packet_bytes_max: 1_000 };

fn config(qos: u8) -> Config {
    serde_json::from_value(json!({
        "server": "mqtt://a", "protocol_version": "v4", "keepalive_secs": 60, "connect_timeout_secs": 10,
        "enable_tls": false, "qos": qos, "retain": false, "max_retries": 3, "payload_format": "raw", "tls_verify": true
    }))
    .expect("is a configuration")
}

fn run(qos: u8, payloads: &[&str]) -> (Run, Receiver<Vec<Outcome>>) {
    let publisher = Publisher::new(&config(qos), "b");
    let publish = |payload: &&str| publisher.publish(&record(1, *payload)).expect("can be published");
    let (done, answer) = oneshot::channel();
    (Run { publishes: payloads.iter().map(publish).collect(), done }, answer)
}

/// A packet that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    Publish { id: u16, payload: String, again: bool },
    Release(u16),
}

fn publish(id: u16, payload: &str) -> Sent {
    Sent::Publish { id, payload: payload.into(), again: false }
}

fn again(id: u16, payload: &str) -> Sent {
    Sent::Publish { id, payload: payload.into(), again: true }
}

/// Takes everything out, as a socket would.
fn sent(window: &mut Window, out: &mut Outbox) -> Vec<Sent> {
    window.fill(out);
    let mut bytes = out.bytes.split();
    out.taken += bytes.len() as u64;
    out.handed_over = out.taken;
    window.handed_over(out);
    let mut packets = Vec::new();
    while bytes.has_remaining() {
        let (first, length) = (bytes.get_u8(), bytes.get_u8());
        assert!(length < 128, "short packets only");
        let mut body = bytes.split_to(length.into());
        if first == 0x62 {
            packets.push(Sent::Release(body.get_u16()));
            continue;
        }
        let topic_bytes = body.get_u16();
        body.advance(topic_bytes.into());
        let id = if first & 0b110 == 0 { 0 } else { body.get_u16() };
        let payload = String::from_utf8(body.to_vec()).expect("is text");
        packets.push(Sent::Publish { id, payload, again: first & 0b1000 != 0 });
    }
    packets
}

fn answer(id: u16, reason: u8) -> Answer {
    Answer { packet_id: NonZeroU16::new(id).expect("not zero"), reason, words: None }
}

fn down() -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, "gone")
}

fn window(max_retries: u64) -> (Window, Outbox) {
    (Window::new(max_retries, LIMITS), Outbox::default())
}

#[test]
fn answers_find_their_records_in_any_order() {
    let (mut window, mut out) = window(3);
    let (records, mut outcomes) = run(1, &["a", "b", "c", "d", "e", "f"]);
    window.take(records);
    assert_eq!(sent(&mut window, &mut out).len(), 4, "as many as the target takes");
    assert!(window.acknowledged(&answer(3, 0)) && window.acknowledged(&answer(1, 0x90)));
    assert_eq!(sent(&mut window, &mut out), [publish(5, "e"), publish(6, "f")]);
    assert!(!window.acknowledged(&answer(1, 0)), "answers nothing");
    for id in [6, 5, 4] {
        assert!(window.acknowledged(&answer(id, 0x10)));
    }
    assert!(outcomes.try_recv().is_err());
    assert!(window.acknowledged(&answer(2, 0)));
    let outcomes = outcomes.try_recv().expect("all are answered");
    assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "topic_name_invalid"));
    assert!(outcomes[1..].iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
    assert!(window.is_idle() && window.wants_run());
}

#[test]
fn a_record_that_has_to_go_again_holds_what_was_not_sent_behind_it() {
    let (mut window, mut out) = window(3);
    let (records, mut outcomes) = run(1, &["a", "b", "c", "d", "e", "f"]);
    window.take(records);
    sent(&mut window, &mut out);
    window.acknowledged(&answer(2, 0x87));
    assert_eq!(sent(&mut window, &mut out), []);
    for id in [1, 3, 4] {
        window.acknowledged(&answer(id, 0));
    }
    let outcomes = outcomes.try_recv().expect("all are answered");
    let held = |outcome: &Outcome| matches!(outcome, Outcome::TargetFault(fault) if fault.kind == TargetFaultKind::Permission && !fault.reopen);
    let pattern: Vec<bool> = outcomes.iter().map(held).collect();
    assert_eq!(pattern, [false, true, false, false, true, true]);
}

#[test]
fn a_lost_connection_sends_the_same_again_in_the_same_order() {
    for (kept, is_again) in [(Kept::Session, true), (Kept::Unknown, true), (Kept::Nothing, false)] {
        let (mut window, mut out) = window(3);
        let (records, _outcomes) = run(1, &["a", "b", "c", "d", "e"]);
        window.take(records);
        sent(&mut window, &mut out);
        window.acknowledged(&answer(2, 0));
        assert!(!window.lost(&down()));
        let mut out = Outbox::default();
        window.resume(kept, Limits { on_wire_max: 2, ..LIMITS });
        let repeated = if is_again { again } else { publish };
        assert_eq!(sent(&mut window, &mut out), [repeated(1, "a"), repeated(3, "c")], "{kept:?}");
        window.acknowledged(&answer(1, 0));
        window.acknowledged(&answer(3, 0));
        assert_eq!(sent(&mut window, &mut out), [repeated(4, "d"), publish(5, "e")], "{kept:?}");
    }
}

#[test]
fn qos_2_releases_what_was_taken_and_publishes_again_what_may_be_forgotten() {
    for (kept, expect) in [
        (Kept::Session, vec![Sent::Release(1), again(2, "b")]),
        (Kept::Nothing, vec![publish(1, "a"), publish(2, "b")]),
        (Kept::Unknown, vec![again(1, "a"), again(2, "b")]),
    ] {
        let (mut window, mut out) = window(3);
        let (records, mut outcomes) = run(2, &["a", "b"]);
        window.take(records);
        sent(&mut window, &mut out);
        assert!(!window.completed(&answer(1, 0)), "it was never taken");
        assert!(window.taken(&answer(1, 0), &mut out));
        assert_eq!(sent(&mut window, &mut out), [Sent::Release(1)]);
        window.lost(&down());
        let mut out = Outbox::default();
        window.resume(kept, LIMITS);
        assert_eq!(sent(&mut window, &mut out), expect, "{kept:?}");
        for id in [1, 2] {
            window.taken(&answer(id, 0), &mut out);
            window.completed(&answer(id, 0x92));
        }
        assert_eq!(outcomes.try_recv().expect("all are answered"), vec![Outcome::Delivered; 2]);
    }
}

#[test]
fn a_packet_id_that_nobody_knows_is_released_all_the_same() {
    let (mut window, mut out) = window(3);
    assert!(!window.taken(&answer(9, 0), &mut out));
    assert_eq!(sent(&mut window, &mut out), [Sent::Release(9)]);
}

#[test]
fn the_last_attempt_is_made_alone_and_only_the_culprit_is_given_up() {
    let (mut window, mut out) = window(2);
    let (records, mut outcomes) = run(1, &["a", "b", "c"]);
    window.take(records);
    sent(&mut window, &mut out);
    for _ in 0..2 {
        assert!(!window.lost(&down()));
        out = Outbox::default();
        window.resume(Kept::Session, LIMITS);
        sent(&mut window, &mut out);
    }
    window.acknowledged(&answer(1, 0));
    assert_eq!(sent(&mut window, &mut out), [again(2, "b")]);
    assert!(window.lost(&down()), "something was given up");
    let mut out = Outbox::default();
    window.resume(Kept::Session, LIMITS);
    assert_eq!(sent(&mut window, &mut out), [again(3, "c")]);
    window.acknowledged(&answer(3, 0));
    let outcomes = outcomes.try_recv().expect("all are answered");
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    assert!(matches!(&outcomes[1], Outcome::TargetFault(fault) if fault.message.contains("alone")), "{outcomes:?}");
    // Its packet id is not given to another message while the target may hold it.
    let (records, _outcomes) = run(1, &["x"]);
    window.take(records);
    window.next_packet_id = NonZeroU16::new(2).expect("not zero");
    assert_eq!(sent(&mut window, &mut out), [publish(3, "x")]);
}

#[test]
fn without_retries_everything_on_the_wire_is_given_up_at_once() {
    let (mut window, mut out) = window(0);
    let (records, mut outcomes) = run(1, &["a", "b", "c", "d", "e"]);
    window.take(records);
    sent(&mut window, &mut out);
    assert!(window.lost(&down()));
    assert_eq!(outcomes.try_recv().expect("all are answered"), vec![Outcome::TargetFault(down()); 5]);
    assert!(window.is_idle());
}

#[test]
fn qos_0_is_delivered_when_the_socket_has_it() {
    let (mut window, mut out) = window(3);
    let (records, mut outcomes) = run(0, &["a", "b"]);
    window.take(records);
    window.fill(&mut out);
    assert!(outcomes.try_recv().is_err());
    // The first whole and the second in part.
    out.bytes.advance(27);
    out.taken = 27;
    out.handed_over = 14;
    window.handed_over(&out);
    assert!(outcomes.try_recv().is_err());
    window.lost(&down());
    let mut out = Outbox::default();
    window.resume(Kept::Session, LIMITS);
    assert_eq!(sent(&mut window, &mut out), [publish(0, "b")]);
    assert_eq!(outcomes.try_recv().expect("all are answered"), vec![Outcome::Delivered; 2]);
}

#[test]
fn nothing_more_is_sent_for_whoever_no_longer_waits() {
    let (mut window, mut out) = window(3);
    let (records, outcomes) = run(1, &["a", "b", "c", "d", "e"]);
    window.take(records);
    sent(&mut window, &mut out);
    drop(outcomes);
    window.acknowledged(&answer(1, 0));
    assert_eq!(sent(&mut window, &mut out), []);
    assert!(window.wants_run(), "three are still on the wire, and there is room for one");
    window.lost(&down());
    window.resume(Kept::Session, LIMITS);
    assert_eq!(sent(&mut window, &mut Outbox::default()), []);
}

#[test]
fn a_packet_that_the_target_would_not_take_is_not_sent() {
    let (mut window, mut out) = window(3);
    let large = "x".repeat(2_000);
    let (records, mut outcomes) = run(1, &["a", &large, "c"]);
    window.take(records);
    assert_eq!(sent(&mut window, &mut out), [publish(1, "a"), publish(2, "c")]);
    window.acknowledged(&answer(1, 0));
    window.acknowledged(&answer(2, 0));
    let outcomes = outcomes.try_recv().expect("all are answered");
    assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if fault.offline), "{outcomes:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Run(u8),
    Answer(u16),
    Lose(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (1u8..6).prop_map(Step::Run),
        6 => any::<u16>().prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens: the window is kept, first sendings are in order, no packet id is on the wire twice, and in the
    /// end every run has one outcome per record.
    #[test]
    fn the_rules_hold_whatever_happens(qos in 1u8..=2, max_retries in 0u64..4, steps in steps()) {
        let (mut window, mut out) = window(max_retries);
        let mut waiting: Vec<(usize, Receiver<Vec<Outcome>>)> = Vec::new();
        let mut on_wire: Vec<u16> = Vec::new();
        let (mut named, mut sent_before) = (0u32, BTreeSet::new());
        let mut look = |window: &mut Window, out: &mut Outbox, on_wire: &mut Vec<u16>| -> Result<(), TestCaseError> {
            for packet in sent(window, out) {
                let Sent::Publish { id, payload, .. } = &packet else { continue };
                prop_assert!(!on_wire.contains(id), "{packet:?} while {on_wire:?}");
                on_wire.push(*id);
                let number: u32 = payload.parse().expect("is a number");
                let last = sent_before.last().copied();
                prop_assert!(!sent_before.insert(number) || last < Some(number), "{number} after {last:?}");
            }
            prop_assert!(on_wire.len() <= LIMITS.on_wire_max, "{on_wire:?}");
            Ok(())
        };
        for step in steps {
            match step {
                Step::Run(count) if window.wants_run() => {
                    let names: Vec<String> = (named..).take(count.into()).map(|number| number.to_string()).collect();
                    named += u32::from(count);
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let (records, outcomes) = run(qos, &names);
                    window.take(records);
                    waiting.push((count.into(), outcomes));
                }
                Step::Run(_) => {}
                Step::Answer(_) if on_wire.is_empty() => {}
                Step::Answer(which) => {
                    let id = on_wire.remove(usize::from(which) % on_wire.len());
                    if qos == 1 {
                        window.acknowledged(&answer(id, 0));
                    } else {
                        window.taken(&answer(id, 0), &mut out);
                        out.bytes.clear();
                        window.completed(&answer(id, 0));
                    }
                }
                Step::Lose(is_kept) => {
                    window.lost(&down());
                    on_wire.clear();
                    out = Outbox::default();
                    window.resume(if is_kept { Kept::Session } else { Kept::Nothing }, LIMITS);
                }
            }
            look(&mut window, &mut out, &mut on_wire)?;
        }
        window.end_all(&Outcome::TargetFault(down()));
        for (count, mut outcomes) in waiting {
            prop_assert_eq!(outcomes.try_recv().expect("is answered").len(), count);
        }
    }
}
