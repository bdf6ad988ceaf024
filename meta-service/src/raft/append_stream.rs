//! The way of the log to one member: append requests and their answers, in order, on one connection.
//!
//! ```text
//! POST /raft/stream, Upgrade: sluice-raft ─► 101 ─► request, request … ─► openraft's stream ─► answer, answer …
//! ```
//!
//! A connection of its own, taken out of HTTP, because a request costs a frame in it and no more. What is committed needs
//! no request of its own while entries follow: the next one carries it.
//!
//! One request is under way at a time, and the next one is not even made before: what comes meanwhile goes into it
//! together. Openraft takes the answer to a request as one to all that were made by then and end at the same entry. Of a
//! notice that was made later it would so believe that the member had taken it, and with it, before the member said
//! anything of the kind, this leader: a read could be proved by an answer that is older than the read.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api_types::RaftId;
use futures::stream::Fuse;
use futures::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use reqwest::Upgraded;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::address::RpcAddress;
use super::frames::Frames;
use super::network::APPEND_TIMEOUT;
use super::node::RaftNode;
use super::server::admitted;
use super::types::Types;
use super::wire;
use crate::seat::Seat;
use crate::status::RaftStatus;

/// What the connection is upgraded to.
pub(super) const PROTOCOL: &str = "sluice-raft";

/// A notice of what is committed waits so long for entries that carry it.
const NOTICE_WAIT: Duration = Duration::from_millis(1);
/// Answers that go out together.
const ANSWERS_MAX: usize = 64;

type Answer = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// The sending end.
pub(super) struct AppendStream<C = Upgraded> {
    connection: C,
    frames: Frames,
}

impl<C: AsyncRead + AsyncWrite + Unpin> AppendStream<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, frames: Frames::default() }
    }

    /// Whether the other end has kept it, and owes nothing.
    pub(super) fn is_idle(&mut self) -> bool {
        let more = self.frames.next::<AppendEntriesResponse<Types>>(&mut self.connection);
        more.now_or_never().is_none()
    }
}

/// Requests that belong together, and their answers.
struct Session<'s, C, S> {
    stream: AppendStream<C>,
    /// Where the stream stays for the next session, if this one ends in order.
    kept: &'s mut Option<AppendStream<C>>,
    requests: Fuse<S>,
    notice: Option<(AppendEntriesRequest<Types>, Instant)>,
    begun: bool,
    failed: bool,
}

/// Sends the requests and returns their answers, in order. Ends after the first that is no success.
pub(super) fn answers<'s, C, S>(
    stream: AppendStream<C>,
    kept: &'s mut Option<AppendStream<C>>,
    requests: S,
) -> impl Stream<Item = Answer> + Send + 's
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    // Openraft's stream must not be asked again once it has ended.
    let requests = requests.fuse();
    let session = Session { stream, kept, requests, notice: None, begun: false, failed: false };
    futures::stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        match session.next().await {
            Some(answer) => Some((answer, Some(session))),
            None => {
                session.keep();
                None
            }
        }
    })
}

impl<C, S> Session<'_, C, S>
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Answer> {
        if self.failed {
            return None;
        }
        let answer = self.work().await;
        self.failed |= answer.as_ref().is_some_and(|answer| !matches!(answer, Ok(Ok(_))));
        answer
    }

    async fn work(&mut self) -> Option<Answer> {
        let request = loop {
            let notice_due = self.notice.as_ref().map(|(_, due)| *due);
            let made = if self.requests.is_done() {
                None
            } else {
                tokio::select! {
                    biased;
                    request = self.requests.next() => request,
                    () = due(notice_due) => None,
                }
            };
            match made {
                // Only the first may be there to find out where the logs part.
                Some(notice) if notice.entries.is_empty() && self.begun => {
                    self.notice = Some((notice, notice_due.unwrap_or_else(|| Instant::now() + NOTICE_WAIT)));
                }
                // Made later than the notice, it says the same and more.
                Some(request) => {
                    self.notice = None;
                    break request;
                }
                // Nothing came in time to carry the notice, or nothing comes any more.
                None => break self.notice.take()?.0,
            }
        };
        self.begun = true;
        Some(self.exchange(request).await.unwrap_or_else(|error| Err(failed(&error))))
    }

    async fn exchange(&mut self, request: AppendEntriesRequest<Types>) -> io::Result<Answer> {
        let AppendStream { connection, frames } = &mut self.stream;
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let until = Instant::now() + APPEND_TIMEOUT;
        timeout_at(until, connection.write_all(&wire::encode(&request)?)).await??;
        let answer = timeout_at(until, frames.next::<AppendEntriesResponse<Types>>(connection)).await??;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?.into_stream_result(prev, last);
        // What follows would stand on entries that were not taken.
        self.failed = answer.as_ref().is_ok_and(|matched| *matched != last);
        Ok(Ok(answer))
    }

    /// A stream that failed is not used again.
    fn keep(self) {
        if !self.failed {
            *self.kept = Some(self.stream);
        }
    }
}

/// Never, without a time.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn failed(error: &io::Error) -> RPCError<Types> {
    NetworkError::new(error).into()
}

/// The receiving end: until the sender goes, somebody else leads, or this node stops.
pub(super) async fn serve(seat: Arc<Seat>, node: Arc<RaftNode>, from: RpcAddress, connection: Upgraded) {
    let status = node.watch_status();
    tokio::select! {
        served = answer_all(seat, &node, from, connection) => if let Err(error) = served {
            tracing::debug!(from = %from.from, %error, "stream of appends ended");
        },
        // A connection whose other end vanished without a word stays; but then somebody else leads before long.
        () = until_another_leads(status, from.from) => {}
        () = node.stopping().cancelled() => {}
    }
}

async fn answer_all(seat: Arc<Seat>, node: &RaftNode, from: RpcAddress, connection: Upgraded) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(connection);
    let requests =
        futures::stream::unfold((read, Frames::default(), seat), move |(mut read, mut frames, seat)| async move {
            let request = match frames.next::<AppendEntriesRequest<Types>>(&mut read).await {
                Ok(request) => request?,
                Err(error) => {
                    tracing::debug!(from = %from.from, %error, "stream of appends cannot be read");
                    return None;
                }
            };
            // The sender may have been removed meanwhile: it hears why when it connects again.
            admitted(&seat, &from).ok()?;
            Some((request, (read, frames, seat)))
        });
    // Openraft reads them in a task of its own, which ends with them.
    let ended = CancellationToken::new();
    let requests = requests.take_until(ended.clone().cancelled_owned());
    let _ends = ended.drop_guard();
    let mut answers = pin!(node.raft().stream_append(requests).ready_chunks(ANSWERS_MAX));
    while let Some(answers) = answers.next().await {
        let mut envelopes = Vec::new();
        for answer in answers {
            let answer = answer.map_err(|_| io::Error::other("raft has stopped"))?;
            envelopes.extend_from_slice(&wire::encode(&AppendEntriesResponse::from(answer))?);
        }
        write.write_all(&envelopes).await?;
    }
    Ok(())
}

async fn until_another_leads(mut status: watch::Receiver<RaftStatus>, sender: RaftId) {
    // Of a new leader the status knows only once its first request was taken.
    let known = status.wait_for(|status| status.leader == Some(sender)).await.is_ok();
    let another = status.wait_for(|status| status.leader.is_some_and(|leader| leader != sender));
    if !known || another.await.is_err() {
        // Raft has stopped, which ends the requests too.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::channel::mpsc;
    use openraft::EntryPayload;
    use openraft::impls::{Entry, leader_id_std};
    use tokio::io::{DuplexStream, duplex};

    use super::super::types::{LogId, Vote};
    use super::*;

    type Request = AppendEntriesRequest<Types>;

    fn log_id(index: u64) -> LogId {
        LogId::new(leader_id_std::CommittedLeaderId::new(3), index)
    }

    /// Entries `first..end`, and what is committed.
    type Sent = (u64, u64, u64);

    fn request((first, end, committed): Sent) -> Request {
        let entry = |index| Entry { log_id: log_id(index), payload: EntryPayload::Blank };
        Request {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(first - 1)),
            leader_commit: Some(log_id(committed)),
            entries: (first..end).map(entry).collect(),
        }
    }

    /// A member whose answers the test writes.
    struct Member {
        connection: DuplexStream,
        frames: Frames,
    }

    impl Member {
        fn new() -> (Self, AppendStream<DuplexStream>) {
            let (near, far) = duplex(1 << 16);
            (Self { connection: far, frames: Frames::default() }, AppendStream::new(near))
        }

        async fn receive(&mut self) -> Option<Sent> {
            let request: Request = self.frames.next(&mut self.connection).await.expect("reads")?;
            let first = request.prev_log_id?.index + 1;
            Some((first, first + request.entries.len() as u64, request.leader_commit?.index))
        }

        async fn answer(&mut self, answer: AppendEntriesResponse<Types>) {
            self.connection.write_all(&wire::encode(&answer).expect("encodes")).await.expect("writes");
        }

        async fn nothing_comes(&mut self) {
            let more = tokio::time::timeout(NOTICE_WAIT * 5, self.receive()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }

    /// Panics, as openraft's streams do, when it is asked again after its end.
    struct OnceOver(Option<mpsc::UnboundedReceiver<Request>>);

    impl Stream for OnceOver {
        type Item = Request;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Request>> {
            let next = self.0.as_mut().expect("asked after its end").poll_next_unpin(context);
            if matches!(next, Poll::Ready(None)) {
                self.0 = None;
            }
            next
        }
    }

    fn requests() -> (mpsc::UnboundedSender<Request>, OnceOver) {
        let (sender, receiver) = mpsc::unbounded();
        (sender, OnceOver(Some(receiver)))
    }

    fn send(to: &mpsc::UnboundedSender<Request>, sent: Sent) {
        to.unbounded_send(request(sent)).expect("is read");
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_is_under_way_at_a_time() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = requests();
        let mut kept = None;
        let mut answers = Box::pin(answers(stream, &mut kept, receiver));
        send(&sender, (5, 6, 4));
        send(&sender, (6, 9, 4));
        send(&sender, (9, 10, 4));
        let member = async move {
            assert_eq!(member.receive().await, Some((5, 6, 4)));
            member.nothing_comes().await;
            member.answer(AppendEntriesResponse::Success).await;
            assert_eq!(member.receive().await, Some((6, 9, 4)));
            member.answer(AppendEntriesResponse::Success).await;
            assert_eq!(member.receive().await, Some((9, 10, 4)));
            member.answer(AppendEntriesResponse::Success).await;
            drop(sender);
            member
        };
        let (_member, seen) = tokio::join!(member, answers.by_ref().collect::<Vec<_>>());
        let seen: Vec<_> = seen.into_iter().map(|answer| answer.expect("no failure").expect("success")).collect();
        assert_eq!(seen, [5, 8, 9].map(|index| Some(log_id(index))));
        drop(answers);
        assert!(kept.is_some(), "nothing is owed, so it can be used again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_was_taken_ends_the_session() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = requests();
        let mut kept = None;
        let mut answers = Box::pin(answers(stream, &mut kept, receiver));
        send(&sender, (5, 9, 4));
        let member = async move {
            assert_eq!(member.receive().await, Some((5, 9, 4)));
            member.answer(AppendEntriesResponse::PartialSuccess(Some(log_id(6)))).await;
        };
        let ((), seen) = tokio::join!(member, answers.by_ref().collect::<Vec<_>>());
        assert!(matches!(&seen[..], [Ok(Ok(Some(matched)))] if *matched == log_id(6)), "{seen:?}");
        drop((answers, sender));
        assert!(kept.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_goes_with_the_entries_that_follow_it() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = requests();
        let mut kept = None;
        let answers = answers(stream, &mut kept, receiver);
        let member = async move {
            send(&sender, (5, 6, 4));
            assert_eq!(member.receive().await, Some((5, 6, 4)));
            member.answer(AppendEntriesResponse::Success).await;
            send(&sender, (6, 6, 5));
            tokio::task::yield_now().await;
            send(&sender, (6, 7, 5));
            assert_eq!(member.receive().await, Some((6, 7, 5)));
            member.answer(AppendEntriesResponse::Success).await;
            member.nothing_comes().await;
            // Alone it waits, but not long; the newest of several is enough.
            send(&sender, (7, 7, 6));
            let sent = Instant::now();
            tokio::task::yield_now().await;
            send(&sender, (7, 7, 7));
            assert_eq!(member.receive().await, Some((7, 7, 7)));
            assert!(sent.elapsed() >= NOTICE_WAIT && sent.elapsed() <= NOTICE_WAIT * 3, "{:?}", sent.elapsed());
            member.answer(AppendEntriesResponse::Success).await;
            // And not at all when nothing can follow.
            send(&sender, (7, 7, 8));
            drop(sender);
            assert_eq!(member.receive().await, Some((7, 7, 8)));
            member.answer(AppendEntriesResponse::Success).await;
            member
        };
        let (_member, seen) = tokio::join!(member, answers.collect::<Vec<_>>());
        assert!(seen.iter().all(|answer| matches!(answer, Ok(Ok(_)))) && seen.len() == 4, "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_of_a_session_never_waits() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = requests();
        let mut kept = None;
        let mut answers = Box::pin(answers(stream, &mut kept, receiver));
        send(&sender, (5, 5, 4));
        let began = Instant::now();
        let member = async move {
            assert_eq!(member.receive().await, Some((5, 5, 4)));
            assert_eq!(began.elapsed(), Duration::ZERO);
            member.answer(AppendEntriesResponse::Conflict).await;
        };
        let ((), seen) = tokio::join!(member, answers.by_ref().collect::<Vec<_>>());
        let conflict = openraft::raft::StreamAppendError::Conflict(log_id(4));
        assert!(matches!(&seen[..], [Ok(Err(error))] if *error == conflict), "{seen:?}");
        drop((answers, sender));
        assert!(kept.is_none(), "the other end ends it after a conflict");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_answer_fails_the_session() {
        let check = async |close: bool, expect_after: Duration| {
            let (mut member, stream) = Member::new();
            let (sender, receiver) = requests();
            let mut kept = None;
            let mut answers = Box::pin(answers(stream, &mut kept, receiver));
            send(&sender, (5, 6, 4));
            let began = Instant::now();
            let member = async move {
                assert_eq!(member.receive().await, Some((5, 6, 4)));
                (!close).then_some(member)
            };
            let (_member, seen) = tokio::join!(member, answers.by_ref().collect::<Vec<_>>());
            assert!(matches!(&seen[..], [Err(RPCError::Network(_))]), "{seen:?}");
            assert!(began.elapsed() >= expect_after && began.elapsed() <= expect_after * 2, "{:?}", began.elapsed());
            drop(answers);
            assert!(kept.is_none());
        };
        check(false, APPEND_TIMEOUT).await;
        check(true, Duration::ZERO).await;
    }
}
