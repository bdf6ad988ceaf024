//! A certification authority with a server and a client, and what must not be trusted: an expired certificate of the
//! same server, and another authority. Made by openssl.

use std::os::unix::fs::PermissionsExt;
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
key expired server && cp server.ext expired.ext
openssl x509 -req -in expired.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days -1 -extfile expired.ext -out expired.pem
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other-ca \
  -keyout other_ca.key -out other_ca.pem -addext basicConstraints=critical,CA:TRUE
"#;

/// Files in PEM form.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub server: PathBuf,
    pub server_key: PathBuf,
    pub client: PathBuf,
    pub client_key: PathBuf,
    /// For the same names as `server`.
    pub expired: PathBuf,
    pub expired_key: PathBuf,
    /// Has signed nothing.
    pub other_ca: PathBuf,
}

impl Certificates {
    /// The same, with the expired certificate as the server's.
    pub fn expired(&self) -> Self {
        Self { server: self.expired.clone(), server_key: self.expired_key.clone(), ..self.clone() }
    }

    /// Copies of all files, for their owner alone.
    pub fn copied_to(&self, folder: &Path) -> Result<Self> {
        let copied = |file: &PathBuf| -> Result<PathBuf> {
            let copy = folder.join(file.file_name().context("a file without a name")?);
            std::fs::copy(file, &copy).with_context(|| file.display().to_string())?;
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600))?;
            Ok(copy)
        };
        Ok(Self {
            ca: copied(&self.ca)?,
            server: copied(&self.server)?,
            server_key: copied(&self.server_key)?,
            client: copied(&self.client)?,
            client_key: copied(&self.client_key)?,
            expired: copied(&self.expired)?,
            expired_key: copied(&self.expired_key)?,
            other_ca: copied(&self.other_ca)?,
        })
    }

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
            expired: file("expired.pem"),
            expired_key: file("expired.key"),
            other_ca: file("other_ca.pem"),
        })
    }
}
