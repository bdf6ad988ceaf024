//! nginx before a server, which holds the parts of uploads back until they are let go.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::*;

pub(super) struct Held {
    front: Front,
    /// Parts that wait now.
    waiting: watch::Sender<usize>,
    is_open: watch::Sender<bool>,
    _gate: AbortOnDropHandle<()>,
}

impl Held {
    /// `url`: the server's, without TLS.
    pub(super) async fn before(url: &str) -> Self {
        let gate = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let gate_at = gate.local_addr().expect("has an address");
        // The gate is asked for as the server would be, when the whole part has come.
        let lines = format!(
            "if ($arg_partNumber) {{ rewrite ^ /held last; }} client_max_body_size 64m; client_body_buffer_size 1m;
             proxy_set_header Host $http_host;
             location = /held {{ proxy_pass http://{gate_at}$request_uri; }} location / {{ proxy_pass {url}; }}"
        );
        let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
        let (waiting, is_open) = (watch::Sender::new(0), watch::Sender::new(false));
        let (parts, opens) = (waiting.clone(), is_open.subscribe());
        let server = url.trim_start_matches("http://").to_owned();
        let gate = tokio::spawn(async move {
            while let Ok((part, _)) = gate.accept().await {
                tokio::spawn(pass(part, server.clone(), parts.clone(), opens.clone()));
            }
        });
        Self { front, waiting, is_open, _gate: AbortOnDropHandle::new(gate) }
    }

    pub(super) fn url(&self) -> String {
        self.front.url()
    }

    /// Until so many parts wait.
    pub(super) async fn holds(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let holds = tokio::time::timeout(Duration::from_secs(60), waiting.wait_for(|waiting| *waiting == count));
        holds.await.expect("as many parts wait").expect("the gate is here");
    }

    /// These and all that come.
    pub(super) fn let_go(&self) {
        self.is_open.send_replace(true);
    }

    pub(super) fn finish(self) {
        self.front.finish();
    }
}

async fn pass(mut part: TcpStream, server: String, waiting: watch::Sender<usize>, mut opens: watch::Receiver<bool>) {
    waiting.send_modify(|waiting| *waiting += 1);
    let mut begun = Vec::new();
    let is_wanted = loop {
        tokio::select! {
            opened = opens.wait_for(|is_open| *is_open) => break opened.is_ok(),
            // Whoever sends it may give it up.
            read = part.read_buf(&mut begun) => if !matches!(read, Ok(1..)) { break false },
        }
    };
    waiting.send_modify(|waiting| *waiting -= 1);
    if !is_wanted {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    if server.write_all(&begun).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut part, &mut server).await;
    }
}
