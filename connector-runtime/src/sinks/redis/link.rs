//! One connection: requests go out behind each other, without waiting for the replies of those before.
//!
//! ```text
//!   ask ─Request─► channel ─► out ─► socket
//!   ask ◄─Answers── waiting ◄── replies, in the order of the commands
//! ```
//!
//! The client of the redis crate gives up the replies that came of a pipeline when its connection breaks. Here they
//! count: what was confirmed is not sent again, and the command that made the server hang up is known.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use combine::stream::Decoder;
use futures::StreamExt;
use redis::{RedisResult, Value, parse_redis_value_async};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fault::{broken, down, interrupted, target_fault, unreadable};
use super::lines::AsciiLines;
use crate::sink::TargetFault;

/// For replies that the server sent before it hung up.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
/// Bytes on their way on one connection without a reply. Above it the connection takes no more; a single request that
/// is larger goes alone.
const UNANSWERED_BYTES_MAX: usize = 4 << 20;
/// Requests that wait for the connection: as many as a batch has lanes. Those above it wait at the door.
const REQUESTS_MAX: usize = 64;

pub(super) struct Link {
    requests: mpsc::Sender<Request>,
    driver: JoinHandle<()>,
}

/// Replies in the order of the commands; fewer than there were commands when the connection was lost.
pub(super) struct Answers {
    pub(super) replies: Vec<Value>,
    pub(super) lost: Option<TargetFault>,
}

struct Request {
    /// Commands as they go over the wire.
    bytes: Vec<u8>,
    replies: usize,
    answered: oneshot::Sender<Answers>,
}

impl Link {
    /// A server that needs longer for a reply is as good as gone: the records are safer in the queue.
    pub(super) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static, answer_within: Duration) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        Self { requests, driver: tokio::spawn(drive(stream, answer_within, receiver)) }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Sends these commands, which have so many replies.
    pub(super) async fn ask(&self, bytes: Vec<u8>, replies: usize) -> Answers {
        let (answered, answers) = oneshot::channel();
        let gone = || Answers { replies: Vec::new(), lost: Some(down("the connection is closed")) };
        if self.requests.send(Request { bytes, replies, answered }).await.is_err() {
            return gone();
        }
        answers.await.unwrap_or_else(|_| gone())
    }
}

/// The socket closes without another word.
impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Requests that were taken and not yet answered.
#[derive(Default)]
struct Waiting {
    requests: VecDeque<Unanswered>,
    bytes: usize,
    /// Since when the next reply is due.
    since: Option<Instant>,
}

struct Unanswered {
    bytes: usize,
    expected: usize,
    replies: Vec<Value>,
    answered: oneshot::Sender<Answers>,
}

async fn drive(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    answer_within: Duration,
    mut requests: mpsc::Receiver<Request>,
) {
    let mut waiting = Waiting::default();
    let fault = converse(stream, answer_within, &mut requests, &mut waiting).await;
    requests.close();
    for Unanswered { replies, answered, .. } in waiting.requests {
        // Who no longer waits was dropped half-way.
        let _ = answered.send(Answers { replies, lost: Some(fault.clone()) });
    }
    while let Some(request) = requests.recv().await {
        let _ = request.answered.send(Answers { replies: Vec::new(), lost: Some(fault.clone()) });
    }
}

/// Until the connection is lost.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    answer_within: Duration,
    requests: &mut mpsc::Receiver<Request>,
    waiting: &mut Waiting,
) -> TargetFault {
    let (reader, mut writer) = tokio::io::split(stream);
    let reader = AsciiLines::new(reader);
    let replies = futures::stream::unfold((reader, Decoder::new()), |(mut reader, mut decoder)| async move {
        let reply: RedisResult<Value> = parse_redis_value_async(&mut decoder, &mut reader).await;
        Some((reply, (reader, decoder)))
    });
    let mut replies = std::pin::pin!(replies);
    let mut out = Out::default();
    // Nothing can be written any more; what the server said before it hung up is still read.
    let mut hung_up = None;
    loop {
        let unwritten = out.bytes.len();
        let due = waiting.since.map(|since| since + if hung_up.is_some() { LAST_WORDS_WITHIN } else { answer_within });
        tokio::select! {
            biased;
            reply = replies.next() => match reply {
                Some(Ok(reply)) => {
                    if let Err(fault) = waiting.answer(reply) {
                        return fault;
                    }
                }
                Some(Err(error)) => return hung_up.unwrap_or_else(|| unreadable(&error)),
                None => return down("the server closed the connection"),
            },
            written = out.write(&mut writer), if hung_up.is_none() && out.has_something() => {
                // Bytes that the server's socket takes are a sign of life too: a large value is long on its way. Those
                // behind it are none: the kernel of a server that has stopped takes them for long.
                if waiting.oldest_is_unwritten(unwritten) {
                    waiting.since = Some(Instant::now());
                }
                if let Err(error) = written {
                    hung_up = Some(broken(&error));
                    waiting.since = Some(Instant::now());
                }
            }
            request = requests.recv(), if hung_up.is_none() && waiting.bytes < UNANSWERED_BYTES_MAX => match request {
                Some(request) => {
                    waiting.take(request, &mut out);
                    while waiting.bytes < UNANSWERED_BYTES_MAX && let Ok(request) = requests.try_recv() {
                        waiting.take(request, &mut out);
                    }
                }
                None => return interrupted("the connection is not needed any more"),
            },
            () = until(due) => {
                return hung_up.unwrap_or_else(|| no_reply(answer_within));
            }
        }
    }
}

fn no_reply(within: Duration) -> TargetFault {
    down(format!("no reply within {} ms", within.as_millis()))
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Waiting {
    fn take(&mut self, request: Request, out: &mut Out) {
        let Request { bytes, replies: expected, answered } = request;
        // Dropped before anything of it was sent: nobody wants it any more.
        if answered.is_closed() {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes.len();
        out.bytes.extend_from_slice(&bytes);
        let replies = Vec::with_capacity(expected);
        self.requests.push_back(Unanswered { bytes: bytes.len(), expected, replies, answered });
    }

    /// Something of the request whose reply is due is among these bytes, the last of all that were taken.
    fn oldest_is_unwritten(&self, unwritten: usize) -> bool {
        self.requests.front().is_some_and(|first| unwritten > self.bytes.saturating_sub(first.bytes))
    }

    fn answer(&mut self, reply: Value) -> Result<(), TargetFault> {
        let Some(mut first) = self.requests.pop_front() else {
            return Err(match reply {
                Value::ServerError(error) => target_fault(&error),
                _ => down("the server spoke without being asked"),
            });
        };
        first.replies.push(reply);
        if first.replies.len() < first.expected {
            self.requests.push_front(first);
        } else {
            self.bytes -= first.bytes;
            let _ = first.answered.send(Answers { replies: first.replies, lost: None });
        }
        self.since = (!self.requests.is_empty()).then(Instant::now);
        Ok(())
    }
}

/// What is still to be written.
#[derive(Default)]
struct Out {
    bytes: BytesMut,
    /// TLS holds back what it was given.
    unflushed: bool,
}

impl Out {
    fn has_something(&self) -> bool {
        self.bytes.has_remaining() || self.unflushed
    }

    /// Can be given up at any time.
    async fn write<S: AsyncWrite>(&mut self, writer: &mut WriteHalf<S>) -> std::io::Result<()> {
        if self.bytes.has_remaining() {
            if writer.write_buf(&mut self.bytes).await? == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.unflushed = true;
        } else {
            writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }
}
