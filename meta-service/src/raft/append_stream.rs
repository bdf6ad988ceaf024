//! The way of the log to one member: append requests and their answers, in order, on one connection.
//!
//! ```text
//! POST /raft/stream, Upgrade: sluice-raft ─► 101 ─► request, request … ─► openraft's stream ─► answer, answer …
//! ```
//!
//! A connection of its own, taken out of HTTP, because a request costs a frame in it and no more.
//!
//! One request is under way at a time, and the next one is not even made before: what comes meanwhile goes into it
//! together. Openraft takes the answer to a request as one to all that were made by then and end at the same entry. Of a
//! later one without entries, which only tells what is committed, it would so believe that the member had taken it, and
//! with it this leader, before the member said so: a read could be proved by an answer that is older than the read.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use api_types::RaftId;
use futures::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use reqwest::Upgraded;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
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

    /// The answer, and whether all entries were taken: what follows stands on them.
    async fn exchange(
        &mut self,
        request: AppendEntriesRequest<Types>,
    ) -> io::Result<(StreamAppendResult<Types>, bool)> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let until = Instant::now() + APPEND_TIMEOUT;
        timeout_at(until, self.connection.write_all(&wire::encode(&request)?)).await??;
        let answer = self.frames.next::<AppendEntriesResponse<Types>>(&mut self.connection);
        let answer = timeout_at(until, answer).await??.ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = answer.into_stream_result(prev, last);
        let taken = answer.as_ref().is_ok_and(|matched| *matched == last);
        Ok((answer, taken))
    }
}

/// Sends the requests and returns their answers, in order. Ends after the first that is no success; a stream whose
/// requests were all taken is put into `kept`, for the next ones.
pub(super) fn answers<'s, C, S>(
    stream: AppendStream<C>,
    kept: &'s mut Option<AppendStream<C>>,
    requests: S,
) -> impl Stream<Item = Answer> + Send + 's
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    let session = Some((stream, kept, requests));
    futures::stream::unfold(session, |session| async move {
        let (mut stream, kept, mut requests) = session?;
        let Some(request) = requests.next().await else {
            *kept = Some(stream);
            return None;
        };
        match stream.exchange(request).await {
            Ok((answer, true)) => Some((Ok(answer), Some((stream, kept, requests)))),
            Ok((answer, false)) => Some((Ok(answer), None)),
            Err(error) => Some((Err(NetworkError::new(&error).into()), None)),
        }
    })
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
    let mut answers = pin!(node.raft().stream_append(requests));
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|_| io::Error::other("raft has stopped"))?;
        write.write_all(&wire::encode(&AppendEntriesResponse::from(answer))?).await?;
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
    use std::time::Duration;

    use futures::channel::mpsc;
    use openraft::EntryPayload;
    use openraft::impls::Entry;
    use tokio::io::{DuplexStream, duplex};

    use super::super::types::{LogId, Vote};
    use super::*;

    type Request = AppendEntriesRequest<Types>;

    fn log_id(index: u64) -> LogId {
        LogId::new_term_index(3, index)
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
            let more = tokio::time::timeout(APPEND_TIMEOUT / 2, self.receive()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }

    fn send(to: &mpsc::UnboundedSender<Request>, sent: Sent) {
        to.unbounded_send(request(sent)).expect("is read");
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_is_under_way_at_a_time() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = mpsc::unbounded();
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
        let (sender, receiver) = mpsc::unbounded();
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
    async fn a_conflict_ends_the_session() {
        let (mut member, stream) = Member::new();
        let (sender, receiver) = mpsc::unbounded();
        let mut kept = None;
        let mut answers = Box::pin(answers(stream, &mut kept, receiver));
        send(&sender, (5, 5, 4));
        let member = async move {
            assert_eq!(member.receive().await, Some((5, 5, 4)));
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
            let (sender, receiver) = mpsc::unbounded();
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
