//! The server's half of a SOCKS5 handshake (RFC 1928, 1929), as far as the driver speaks it: a password, and CONNECT.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const WITH_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What the driver is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Connected = 0,
    Refused = 5,
}

/// Where the client wants to go. Nothing is said to one that does not know the password but that.
pub(super) async fn wanted<S>(client: &mut S, user: &str, password: &str) -> io::Result<(String, u16)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    expect(client, VERSION).await?;
    let methods = text(client).await?;
    if !methods.contains(&WITH_PASSWORD) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(refused("no password is offered"));
    }
    client.write_all(&[VERSION, WITH_PASSWORD]).await?;
    expect(client, PASSWORD_VERSION).await?;
    let login = (text(client).await?, text(client).await?);
    if login != (user.as_bytes().to_vec(), password.as_bytes().to_vec()) {
        client.write_all(&[PASSWORD_VERSION, 1]).await?;
        return Err(refused("wrong password"));
    }
    client.write_all(&[PASSWORD_VERSION, 0]).await?;

    expect(client, VERSION).await?;
    expect(client, CONNECT).await?;
    expect(client, 0).await?;
    let host = match client.read_u8().await? {
        IPV4 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        IPV6 => Ipv6Addr::from(client.read_u128().await?).to_string(),
        NAME => String::from_utf8(text(client).await?).map_err(|_| refused("the name is no text"))?,
        _ => return Err(refused("an address of an unknown form")),
    };
    Ok((host, client.read_u16().await?))
}

pub(super) async fn reply<S: AsyncWrite + Unpin>(client: &mut S, reply: Reply) -> io::Result<()> {
    // The address at the other end is nobody's concern.
    client.write_all(&[VERSION, reply as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
}

async fn expect<S: AsyncRead + Unpin>(client: &mut S, byte: u8) -> io::Result<()> {
    if client.read_u8().await? == byte { Ok(()) } else { Err(refused("no SOCKS5")) }
}

/// A byte for the length, and as many bytes.
async fn text<S: AsyncRead + Unpin>(client: &mut S) -> io::Result<Vec<u8>> {
    let mut text = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut text).await?;
    Ok(text)
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server makes of these bytes, and what it answers.
    async fn check(bytes: &[u8]) -> (Result<(String, u16), String>, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(1 << 10);
        client.write_all(bytes).await.expect("fits");
        client.shutdown().await.expect("ends");
        let wanted = wanted(&mut server, "u", "pw").await.map_err(|error| error.to_string());
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("reads");
        (wanted, answer)
    }

    fn asked(address: &[u8]) -> Vec<u8> {
        [b"\x05\x02\x00\x02\x01\x01u\x02pw\x05\x01\x00", address].concat()
    }

    #[tokio::test]
    async fn addresses_of_each_form_are_read() {
        for (address, expect) in [
            (&b"\x01\x7f\x00\x00\x01\x69\x89"[..], ("127.0.0.1", 27_017)),
            (b"\x03\x04db-1\x00\x50", ("db-1", 80)),
            (b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x69\x89", ("::1", 27_017)),
        ] {
            let (wanted, answer) = check(&asked(address)).await;
            assert_eq!(wanted, Ok((expect.0.to_owned(), expect.1)));
            assert_eq!(answer, [5, 2, 1, 0]);
        }
    }

    #[tokio::test]
    async fn who_does_not_know_the_password_gets_nowhere() {
        let (wanted, answer) = check(b"\x05\x01\x02\x01\x01u\x02no\x05\x01\x00\x01\x7f\x00\x00\x01\x69\x89").await;
        assert_eq!((wanted, answer), (Err("wrong password".to_owned()), vec![5, 2, 1, 1]));
        let (wanted, answer) = check(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x69\x89").await;
        assert_eq!((wanted, answer), (Err("no password is offered".to_owned()), vec![5, 0xff]));
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x04\x01\x00\x50", b"", &asked(b"\x01")[..12]] {
            assert!(check(bytes).await.0.is_err(), "{bytes:?}");
        }
        let (wanted, _) = check(&asked(b"\x02\x7f\x00\x00\x01\x69\x89")).await;
        assert_eq!(wanted, Err("an address of an unknown form".to_owned()));
    }
}
