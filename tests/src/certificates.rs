//! A certification authority with one server and one client, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SCRIPT: &str = r#"
set -e
key() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"; }
sign() { openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem"; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
  -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$1" >server.ext
printf 'extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n' >client.ext
key server server && sign server
key client "$2" && sign client
"#;

/// Files in PEM form.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub server: PathBuf,
    pub server_key: PathBuf,
    pub client: PathBuf,
    pub client_key: PathBuf,
}

impl Certificates {
    /// For a server with these names (`DNS:db.example.org,IP:127.0.0.1`), and a client with this common name.
    pub fn make(folder: &Path, server_names: &str, client: &str) -> Result<Self> {
        let made = Command::new("bash")
            .args(["-c", SCRIPT, "certificates", server_names, client])
            .current_dir(folder)
            .output()
            .context("start bash")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = |name: &str| folder.join(name);
        Ok(Self {
            ca: file("ca.pem"),
            server: file("server.pem"),
            server_key: file("server.key"),
            client: file("client.pem"),
            client_key: file("client.key"),
        })
    }
}
