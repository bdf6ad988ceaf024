//! The beginning of a connection in CQL's native protocol, as far as the relay looks at it: who it is from.
//!
//! ```text
//! frame = version, flags, stream (2 bytes), opcode, length (4 bytes), body
//! driver ──OPTIONS──► server ──SUPPORTED──► driver ──STARTUP (CLIENT_ID)──► whatever follows
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADER_BYTES: usize = 9;
const OPCODE_AT: usize = 4;
const LENGTH_AT: usize = 5;
const STARTUP: u8 = 0x01;
const OPTIONS: u8 = 0x05;
/// Of what is said before a login: a few options.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// A driver asks once; it may fall back to another version of the protocol.
const FRAMES_MAX: usize = 8;

pub(super) const CLIENT_ID: &str = "CLIENT_ID";

/// One frame, with its header.
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut frame = vec![0; HEADER_BYTES];
        stream.read_exact(&mut frame).await?;
        let length = &frame[LENGTH_AT..HEADER_BYTES];
        let length = length.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        if length > FRAME_BYTES_MAX {
            return Err(refused("a frame before the login is too long"));
        }
        frame.resize(HEADER_BYTES + length, 0);
        stream.read_exact(&mut frame[HEADER_BYTES..]).await?;
        Ok(Self(frame))
    }

    fn opcode(&self) -> u8 {
        self.0[OPCODE_AT]
    }

    fn body(&self) -> &[u8] {
        &self.0[HEADER_BYTES..]
    }

    async fn pass_on(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&self.0).await?;
        // TLS may hold what it has taken.
        stream.flush().await
    }
}

/// Why nothing came of a connection.
#[derive(Debug)]
pub(super) enum Unadmitted {
    /// It has gone, or is nobody that we know.
    Client(io::Error),
    Server(io::Error),
}

/// Passes on what a driver says until it has named itself. One that is not `client_id` gets no further than to the
/// options of the server.
pub(super) async fn admit<C, S>(first: Frame, client: &mut C, server: &mut S, client_id: &str) -> Result<(), Unadmitted>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut frame = first;
    for _ in 0..FRAMES_MAX {
        match frame.opcode() {
            STARTUP if text_of(frame.body(), CLIENT_ID) == Some(client_id.as_bytes()) => {
                return frame.pass_on(server).await.map_err(Unadmitted::Server);
            }
            OPTIONS => {
                frame.pass_on(server).await.map_err(Unadmitted::Server)?;
                let answer = Frame::read(server).await.map_err(Unadmitted::Server)?;
                answer.pass_on(client).await.map_err(Unadmitted::Client)?;
            }
            _ => return Err(Unadmitted::Client(refused("nobody that we know"))),
        }
        frame = Frame::read(client).await.map_err(Unadmitted::Client)?;
    }
    Err(Unadmitted::Client(refused("too many frames before the login")))
}

/// Of a map of texts: a number of pairs, and for each text its length and its bytes.
fn text_of<'b>(body: &'b [u8], wanted: &str) -> Option<&'b [u8]> {
    let (mut rest, mut found) = (body, None);
    for _ in 0..number(&mut rest)? {
        let (name, value) = (text(&mut rest)?, text(&mut rest)?);
        if name == wanted.as_bytes() {
            found = Some(value);
        }
    }
    found
}

fn text<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = number(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let ([high, low], after) = rest.split_first_chunk()?;
    *rest = after;
    Some(usize::from(u16::from_be_bytes([*high, *low])))
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("is short").to_be_bytes();
        [&[4, 0, 0, 0, opcode], &length[..], body].concat()
    }

    fn startup(options: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&u16::try_from(text.len()).expect("is short").to_be_bytes(), text.as_bytes()].concat();
        let mut body = u16::try_from(options.len()).expect("are few").to_be_bytes().to_vec();
        for (name, value) in options {
            body.extend([text(name), text(value)].concat());
        }
        frame(STARTUP, &body)
    }

    /// What the server gets, and the driver, of a driver that says these frames.
    async fn check(said: &[&[u8]], expect: Result<(), &str>) -> (Vec<u8>, Vec<u8>) {
        let (mut driver, mut client) = tokio::io::duplex(1 << 20);
        let (mut server, mut answering) = tokio::io::duplex(1 << 20);
        driver.write_all(&said.concat()).await.expect("fits");
        answering.write_all(&frame(0x06, b"supported").repeat(FRAMES_MAX)).await.expect("fits");
        driver.shutdown().await.expect("ends");
        let first = Frame::read(&mut client).await.expect("a frame");
        let admitted = admit(first, &mut client, &mut server, "it is me").await;
        let admitted = admitted.map_err(|unadmitted| match unadmitted {
            Unadmitted::Client(error) | Unadmitted::Server(error) => error.to_string(),
        });
        assert_eq!(admitted, expect.map_err(str::to_owned));
        drop((client, server));
        let (mut got, mut answered) = (Vec::new(), Vec::new());
        answering.read_to_end(&mut got).await.expect("reads");
        driver.read_to_end(&mut answered).await.expect("reads");
        (got, answered)
    }

    #[tokio::test]
    async fn the_driver_of_this_sink_is_let_in() {
        let own = startup(&[("CQL_VERSION", "3.0.0"), (CLIENT_ID, "it is me")]);
        let (got, answered) = check(&[&frame(OPTIONS, b""), &own], Ok(())).await;
        assert_eq!(got, [frame(OPTIONS, b""), own.clone()].concat());
        assert_eq!(answered, frame(0x06, b"supported"));
        let (got, answered) = check(&[&own], Ok(())).await;
        assert_eq!((got, answered), (own, Vec::new()));
    }

    #[tokio::test]
    async fn nobody_else_says_anything_to_the_server() {
        let unknown = Err("nobody that we know");
        for said in [
            startup(&[("CQL_VERSION", "3.0.0")]),
            startup(&[(CLIENT_ID, "it is m")]),
            // The last one counts, as it does for whoever reads the map.
            startup(&[(CLIENT_ID, "it is me"), (CLIENT_ID, "it is not")]),
            frame(STARTUP, b"\0\x02\0\x09CLIENT_ID\0\x08it is"),
            frame(STARTUP, b""),
            frame(0x07, b"SELECT"),
        ] {
            let (got, answered) = check(&[&said], unknown).await;
            assert_eq!((got.len(), answered.len()), (0, 0), "{said:?}");
        }
        let options = frame(OPTIONS, b"");
        check(&[&options.repeat(FRAMES_MAX + 1)], Err("too many frames before the login")).await;
        let long = [&[4, 0, 0, 0, OPTIONS][..], &(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
        check(&[&options, &long], Err("a frame before the login is too long")).await;
    }
}
