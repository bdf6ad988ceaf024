//! Decisions only: no socket, no clock.

use std::collections::BTreeSet;

use bytes::Buf;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::mqtt::config::Config;
use crate::sinks::mqtt::message::Publisher;
use crate::sinks::mqtt::suspects::Cause;
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
    let records: Vec<(u64, &str)> = (1..).zip(payloads.iter().copied()).collect();
    numbered(qos, &records)
}

/// Records with these numbers.
fn numbered(qos: u8, records: &[(u64, &str)]) -> (Run, Receiver<Vec<Outcome>>) {
    let publisher = Publisher::new(&config(qos), "b");
    let publish =
        |(number, payload): &(u64, &str)| publisher.publish(&record(*number, *payload)).expect("can be published");
    let (done, answer) = oneshot::channel();
    (Run { publishes: records.iter().map(publish).collect(), done }, answer)
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
    out.moved(bytes.len());
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

fn gone() -> Loss {
    Loss { fault: down(), cause: Cause::Closed }
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
    let kinds: Vec<Option<(TargetFaultKind, bool)>> = outcomes.iter().map(kind).collect();
    let held = Some((TargetFaultKind::Interrupted, false));
    assert_eq!(kinds, [None, Some((TargetFaultKind::Permission, false)), None, None, held, held]);
}

/// Of a target fault, and whether the sink has to be opened again.
fn kind(outcome: &Outcome) -> Option<(TargetFaultKind, bool)> {
    match outcome {
        Outcome::TargetFault(fault) => Some((fault.kind, fault.reopen)),
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => None,
    }
}

#[test]
fn what_was_on_the_wire_behind_a_record_that_has_to_go_again_is_not_sent_again_before_it() {
    let (mut window, mut out) = window(3);
    let (records, mut outcomes) = run(1, &["a", "b", "c"]);
    window.take(records);
    sent(&mut window, &mut out);
    window.acknowledged(&answer(1, 0x87));
    window.lost(&gone());
    window.resume(Kept::Session, LIMITS);
    assert_eq!(sent(&mut window, &mut Outbox::default()), []);
    let kinds: Vec<_> = outcomes.try_recv().expect("all are answered").iter().map(kind).collect();
    let held = Some((TargetFaultKind::Interrupted, false));
    assert_eq!(kinds, [Some((TargetFaultKind::Permission, false)), held, held]);

    // Refused only when it was sent for the second time.
    let (records, mut outcomes) = run(1, &["a", "b", "c"]);
    window.take(records);
    sent(&mut window, &mut Outbox::default());
    window.lost(&gone());
    window.resume(Kept::Session, Limits { on_wire_max: 1, ..LIMITS });
    assert_eq!(sent(&mut window, &mut Outbox::default()), [again(4, "a")]);
    window.acknowledged(&answer(4, 0x97));
    assert_eq!(sent(&mut window, &mut Outbox::default()), []);
    let kinds: Vec<_> = outcomes.try_recv().expect("all are answered").iter().map(kind).collect();
    assert_eq!(kinds, [Some((TargetFaultKind::Throttled { retry_after: None }, false)), held, held]);
}

#[test]
fn a_message_that_was_taken_before_it_was_sent_again_is_not_published_again() {
    let (mut window, mut out) = window(3);
    let (records, mut outcomes) = run(2, &["a", "b"]);
    window.take(records);
    sent(&mut window, &mut out);
    window.lost(&gone());
    let mut out = Outbox::default();
    window.resume(Kept::Session, Limits { on_wire_max: 1, ..LIMITS });
    assert_eq!(sent(&mut window, &mut out), [again(1, "a")]);
    window.taken(&answer(2, 0), &mut out);
    assert_eq!(sent(&mut window, &mut out), [Sent::Release(2)]);
    window.taken(&answer(1, 0), &mut out);
    window.completed(&answer(1, 0));
    assert_eq!(sent(&mut window, &mut out), [Sent::Release(1), Sent::Release(2)]);
    window.completed(&answer(2, 0));
    assert_eq!(outcomes.try_recv().expect("all are answered"), vec![Outcome::Delivered; 2]);
}

#[test]
fn a_lost_connection_sends_the_same_again_in_the_same_order() {
    for (kept, is_again) in [(Kept::Session, true), (Kept::Nothing, false)] {
        let (mut window, mut out) = window(3);
        let (records, _outcomes) = run(1, &["a", "b", "c", "d", "e"]);
        window.take(records);
        sent(&mut window, &mut out);
        window.acknowledged(&answer(2, 0));
        assert!(!window.lost(&gone()));
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
    ] {
        let (mut window, mut out) = window(3);
        let (records, mut outcomes) = run(2, &["a", "b"]);
        window.take(records);
        sent(&mut window, &mut out);
        assert!(!window.completed(&answer(1, 0)), "it was never taken");
        assert!(window.taken(&answer(1, 0), &mut out));
        assert_eq!(sent(&mut window, &mut out), [Sent::Release(1)]);
        window.lost(&gone());
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
fn a_target_that_asks_for_releases_and_takes_none_is_not_read_for_ever() {
    let (mut window, mut out) = window(3);
    let mut asked = 0;
    while out.takes_answers() {
        window.taken(&answer(9, 0), &mut out);
        asked += 1;
        assert!(asked <= 1 << 17, "{} bytes wait", out.bytes.len());
    }
    out.bytes.advance(4);
    out.moved(4);
    assert!(out.takes_answers(), "as soon as the socket takes something");
}

#[test]
fn the_last_attempt_is_made_alone_and_only_the_culprit_is_given_up() {
    let (mut window, mut out) = window(2);
    let (records, mut outcomes) = run(1, &["a", "b"]);
    window.take(records);
    sent(&mut window, &mut out);
    let (records, mut others) = run(1, &["c"]);
    window.take(records);
    sent(&mut window, &mut out);
    for _ in 0..2 {
        assert!(!window.lost(&gone()));
        out = Outbox::default();
        window.resume(Kept::Session, LIMITS);
        sent(&mut window, &mut out);
    }
    window.acknowledged(&answer(1, 0));
    assert_eq!(sent(&mut window, &mut out), [again(2, "b")]);
    assert!(window.lost(&gone()), "something was given up");
    let mut out = Outbox::default();
    window.resume(Kept::Session, LIMITS);
    assert_eq!(sent(&mut window, &mut out), [again(3, "c")]);
    window.acknowledged(&answer(3, 0));
    let outcomes = outcomes.try_recv().expect("all are answered");
    assert_eq!(others.try_recv().expect("is answered"), [Outcome::Delivered]);
    assert_eq!(outcomes[0], Outcome::Delivered);
    assert!(matches!(&outcomes[1], Outcome::TargetFault(fault) if fault.message.contains("alone")), "{outcomes:?}");
    // Its packet id is not given to another message while the target may hold it.
    let (records, _outcomes) = run(1, &["x"]);
    window.take(records);
    window.next_packet_id = NonZeroU16::new(2).expect("not zero");
    assert_eq!(sent(&mut window, &mut out), [publish(3, "x")]);
}

/// One attempt of the pipeline for `payload` as record `number`, and one more connection lost with each sending.
fn attempt(window: &mut Window, number: u64, payload: &str, cause: &Cause) -> (usize, Outcome) {
    let mut out = Outbox::default();
    let (record, mut outcomes) = numbered(1, &[(number, payload)]);
    window.take(record);
    let mut sendings = 0;
    while !sent(window, &mut out).is_empty() {
        sendings += 1;
        window.lost(&Loss { fault: down(), cause: cause.clone() });
        out = Outbox::default();
        window.resume(Kept::Session, LIMITS);
    }
    (sendings, outcomes.try_recv().expect("is answered").remove(0))
}

fn neighbour(window: &mut Window) {
    let mut out = Outbox::default();
    let (record, mut outcomes) = numbered(1, &[(99, "n")]);
    window.take(record);
    let Sent::Publish { id, .. } = sent(window, &mut out)[0] else { panic!("is a PUBLISH") };
    assert!(window.acknowledged(&answer(id, 0)));
    assert_eq!(outcomes.try_recv().expect("is answered"), [Outcome::Delivered]);
}

#[test]
fn a_message_that_costs_each_of_its_connections_while_others_are_taken_is_at_fault_itself() {
    for max_retries in [0, 1, 3] {
        let (mut window, _) = window(max_retries);
        let (sendings, outcome) = attempt(&mut window, 7, "p", &Cause::Closed);
        assert_eq!(sendings as u64, max_retries + 1);
        assert!(matches!(outcome, Outcome::TargetFault(_)), "nobody was taken in between: {outcome:?}");
        if max_retries == 0 {
            // Nobody knows yet that it was alone by plan.
            assert!(matches!(attempt(&mut window, 7, "p", &Cause::Closed), (1, Outcome::TargetFault(_))));
        }
        assert!(matches!(attempt(&mut window, 7, "p", &Cause::Closed), (1, Outcome::TargetFault(_))));
        neighbour(&mut window);
        assert!(matches!(attempt(&mut window, 7, "p", &Cause::Unrelated), (1, Outcome::TargetFault(_))));
        for _ in 0..3 {
            let (sendings, outcome) = attempt(&mut window, 7, "p", &Cause::Closed);
            assert_eq!(sendings, 1, "it costs one connection from now on");
            assert!(
                matches!(&outcome, Outcome::RecordFault(fault) if &*fault.class == "connection_closed" && !fault.offline)
            );
        }
        // Another one begins as everybody does.
        let (sendings, outcome) = attempt(&mut window, 8, "q", &Cause::Closed);
        assert_eq!((sendings as u64, matches!(outcome, Outcome::TargetFault(_))), (max_retries + 1, true));
    }
}

#[test]
fn a_suspect_waits_for_an_empty_wire_and_holds_it() {
    let (mut window, mut out) = window(0);
    assert_eq!(attempt(&mut window, 2, "b", &Cause::Closed).0, 1);
    let (records, mut outcomes) = numbered(1, &[(1, "a"), (2, "b"), (3, "c")]);
    window.take(records);
    assert_eq!(sent(&mut window, &mut out), [publish(2, "a")]);
    window.acknowledged(&answer(2, 0));
    assert_eq!(sent(&mut window, &mut out), [publish(3, "b")]);
    window.acknowledged(&answer(3, 0));
    assert_eq!(sent(&mut window, &mut out), [publish(4, "c")]);
    window.acknowledged(&answer(4, 0));
    assert_eq!(outcomes.try_recv().expect("all are answered"), vec![Outcome::Delivered; 3]);
    let (records, _outcomes) = numbered(1, &[(2, "b"), (3, "c")]);
    window.take(records);
    assert_eq!(sent(&mut window, &mut out).len(), 2, "it was taken, and nobody suspects it any more");
}

#[test]
fn what_the_target_says_of_a_message_when_it_closes_counts_when_it_is_alone() {
    let refused = Outcome::RecordFault(RecordFault::refused("packet_too_large", "m"));
    for max_retries in [0, 2] {
        let (mut window, mut out) = window(max_retries);
        let (records, mut outcomes) = numbered(1, &[(1, "a"), (2, "b")]);
        window.take(records);
        sent(&mut window, &mut out);
        window.lost(&Loss { fault: down(), cause: Cause::Refused(refused.clone()) });
        if max_retries == 0 {
            let faults = vec![Outcome::TargetFault(down()); 2];
            assert_eq!(outcomes.try_recv().expect("all are answered"), faults, "which of them is not known");
            window.resume(Kept::Session, LIMITS);
            assert_eq!(attempt(&mut window, 1, "a", &Cause::Refused(refused.clone())), (1, refused.clone()));
            continue;
        }
        window.resume(Kept::Session, LIMITS);
        sent(&mut window, &mut Outbox::default());
        window.acknowledged(&answer(1, 0));
        window.lost(&Loss { fault: down(), cause: Cause::Refused(refused.clone()) });
        window.resume(Kept::Session, LIMITS);
        assert_eq!(sent(&mut window, &mut Outbox::default()), [again(2, "b")]);
        window.lost(&Loss { fault: down(), cause: Cause::Refused(refused.clone()) });
        assert_eq!(outcomes.try_recv().expect("all are answered"), [Outcome::Delivered, refused.clone()]);
    }
}

#[test]
fn without_retries_everything_on_the_wire_is_given_up_at_once() {
    let (mut window, mut out) = window(0);
    let (records, mut outcomes) = run(1, &["a", "b", "c", "d", "e"]);
    window.take(records);
    sent(&mut window, &mut out);
    assert!(window.lost(&gone()));
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
    out.moved(27);
    out.handed_over = 14;
    window.handed_over(&out);
    assert!(outcomes.try_recv().is_err());
    window.lost(&gone());
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
    window.lost(&gone());
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
                    window.lost(&gone());
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
