//! The way of authentication that MySQL 8 begins with, which MariaDB does not speak: a script in the place of the server,
//! after MySQL's documentation of the protocol, and openssl for what it has to decrypt.

use std::path::Path;
use std::process::Command;

use bytes::BufMut;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

const NONCE: [u8; 20] = *b"0123456789abcdefghij";
const OTHER_NONCE: [u8; 20] = *b"jihgfedcba9876543210";
const PASSWORD: &str = "p@ss wörd";
const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

/// The server's side.
struct Server {
    stream: TcpStream,
    buffer: BytesMut,
    sequence: u8,
}

impl Server {
    async fn say(&mut self, content: &[u8]) {
        let mut out = BytesMut::new();
        put_packet(self.sequence, content, &mut out);
        self.stream.write_all(&out).await.expect("writes");
    }

    async fn hear(&mut self) -> Bytes {
        let (sequence, packet) = read_packet(&mut self.stream, &mut self.buffer).await.expect("reads");
        self.sequence = sequence + 1;
        packet
    }

    /// Greets with this way of authentication, and gives the answer to its challenge.
    async fn greet(&mut self, plugin: &str) -> Vec<u8> {
        let capabilities = WANTED.bits();
        let mut greeting = Vec::new();
        greeting.put_slice(b"\x0a8.0.40\0");
        greeting.put_u32_le(7);
        greeting.put_slice(&NONCE[..8]);
        greeting.put_u8(0);
        greeting.put_u16_le(capabilities as u16);
        greeting.put_u8(COLLATION);
        greeting.put_u16_le(2);
        greeting.put_u16_le((capabilities >> 16) as u16);
        greeting.put_u8(21);
        greeting.put_bytes(0, 10);
        greeting.put_slice(&NONCE[8..]);
        greeting.put_u8(0);
        greeting.put_slice(plugin.as_bytes());
        greeting.put_u8(0);
        self.say(&greeting).await;
        let packet = self.hear().await;
        let response: HandshakeResponse<'_> = ParseBuf(&packet).parse(()).expect("is a login");
        assert_eq!((response.user(), response.db_name()), (&b"me"[..], Some(&b"data"[..])));
        response.scramble_buf().to_vec()
    }
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_vec()
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)
fn answer_to(nonce: &[u8]) -> Vec<u8> {
    let once = sha256(&[PASSWORD.as_bytes()]);
    let mask = sha256(&[&sha256(&[&once]), nonce]);
    once.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()
}

async fn log_in_to<F: Future<Output = ()>>(script: impl FnOnce(Server) -> F) -> Result<u32, TargetFault> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("is bound");
    let login = Login {
        username: "me".into(),
        password: PASSWORD.into(),
        database: "data".into(),
        connector: "c".into(),
        tls: None,
    };
    let client = async {
        let socket = TcpStream::connect(address).await.expect("connects");
        let socket = Outgoing::new(socket, CancellationToken::new()).expect("is a socket");
        login.log_in(socket).await.map(|welcome| welcome.connection_id)
    };
    let server = async {
        let (stream, _) = listener.accept().await.expect("accepts");
        script(Server { stream, buffer: BytesMut::new(), sequence: 0 }).await;
    };
    tokio::join!(client, server).0
}

#[tokio::test]
async fn a_password_that_the_server_remembers_is_proved() {
    let connection = log_in_to(|mut server| async move {
        assert_eq!(server.greet("caching_sha2_password").await, answer_to(&NONCE));
        server.say(&[MORE, KNOWN]).await;
        server.sequence += 1;
        server.say(OK).await;
    });
    assert_eq!(connection.await, Ok(7));
}

#[tokio::test]
async fn another_way_brings_another_challenge() {
    let connection = log_in_to(|mut server| async move {
        server.greet("mysql_native_password").await;
        let mut switch = b"\xfecaching_sha2_password\0".to_vec();
        switch.extend(OTHER_NONCE);
        switch.push(0);
        server.say(&switch).await;
        assert_eq!(*server.hear().await, *answer_to(&OTHER_NONCE));
        server.say(&[MORE, KNOWN]).await;
        server.sequence += 1;
        server.say(OK).await;
    });
    assert_eq!(connection.await, Ok(7));
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).current_dir(folder).output().expect("starts openssl");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test]
async fn a_password_that_is_wanted_goes_encrypted_by_the_servers_key() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path();
    openssl(path, &["genrsa", "-out", "key.pem", "2048"]);
    openssl(path, &["rsa", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    let connection = log_in_to(|mut server| async move {
        server.greet("caching_sha2_password").await;
        server.say(&[MORE, FULL]).await;
        assert_eq!(*server.hear().await, [WANTS_PUBLIC_KEY]);
        let mut key = vec![MORE];
        key.extend(std::fs::read(path.join("public.pem")).expect("reads"));
        server.say(&key).await;
        std::fs::write(path.join("secret"), server.hear().await).expect("writes");
        let decrypt = "pkeyutl -decrypt -inkey key.pem -pkeyopt rsa_padding_mode:oaep -in secret -out plain";
        openssl(path, &decrypt.split(' ').collect::<Vec<_>>());
        let plain = std::fs::read(path.join("plain")).expect("reads");
        let password: Vec<u8> = plain.iter().zip(NONCE.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(password, [PASSWORD.as_bytes(), &[0]].concat());
        server.say(OK).await;
    });
    assert_eq!(connection.await, Ok(7));
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_told() {
    for rest in ["", "\n-----END PUBLIC KEY-----\n", "\nAAAA\n-----END PUBLIC KEY-----\n"] {
        let connection = log_in_to(|mut server| async move {
            server.greet("caching_sha2_password").await;
            server.say(&[MORE, FULL]).await;
            assert_eq!(*server.hear().await, [WANTS_PUBLIC_KEY]);
            let mut key = vec![MORE];
            key.extend(PUBLIC_KEY);
            key.extend(rest.as_bytes());
            server.say(&key).await;
        });
        let fault = connection.await.expect_err("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Down, "{rest}");
        assert!(fault.message.contains("a key that is none"), "{}", fault.message);
    }
}

#[tokio::test]
async fn a_password_is_never_sent_in_the_clear() {
    let connection = log_in_to(|mut server| async move {
        server.greet("mysql_native_password").await;
        server.say(b"\xfemysql_clear_password\0").await;
        let rest = read_packet(&mut server.stream, &mut server.buffer).await;
        rest.expect_err("it has nothing to say to that");
    });
    let fault = connection.await.expect_err("is refused");
    assert_eq!(fault.kind, TargetFaultKind::Auth);
    assert!(fault.message.contains("over TLS only"), "{}", fault.message);
}

#[tokio::test]
async fn whoever_is_no_such_server_is_told_apart() {
    for nonsense in [&b"SSH-2.0-OpenSSH_9.2"[..], b"\x0a8.0"] {
        let connection = log_in_to(|mut server| async move { server.say(nonsense).await });
        assert_eq!(connection.await.expect_err("is refused").kind, TargetFaultKind::Down);
    }
    let full = log_in_to(|mut server| async move { server.say(b"\xff\x10\x04Too many connections").await });
    let fault = full.await.expect_err("is refused");
    assert_eq!((fault.kind, fault.message.contains("Too many connections")), (TargetFaultKind::Down, true));
}
