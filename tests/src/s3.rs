//! versitygw as S3: a gateway to a folder, in which every object is a file.
//!
//! ```text
//!   sluice ──▶ user `sluice` (key, secret), buckets of its own ──▶ files
//!   tests  ──curl──▶ as the administrator; and they read the files
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Finished, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

const PROGRAM: &str = "versitygw-1.8.0";
const START_LIMIT: Duration = Duration::from_secs(30);
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// Where it keeps what is no object yet.
const UNFINISHED: &str = ".sgwtmp";

pub const REGION: &str = "us-east-1";
pub const USER: &str = "sluice";
/// Everything that a URL would have to escape.
pub const SECRET: &str = "p@ss:w/o?r#d&%20=+";
/// Has no bucket.
pub const STRANGER: &str = "stranger";
pub const STRANGERS_SECRET: &str = "strangers-secret";
const ADMIN: &str = "admin";
const ADMINS_SECRET: &str = "admins-secret";

#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Speaks TLS, and nothing else.
    pub certificates: Option<Certificates>,
    /// Requests at the same time; more are told to slow down.
    pub requests_max: Option<u32>,
}

pub struct S3 {
    process: Process,
    program: PathBuf,
    port: u16,
    options: S3Options,
    scratch: Scratch,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// `PutObject`, `UploadPart`, …
    pub operation: String,
    pub bucket: String,
    pub status: u16,
}

impl S3 {
    pub async fn start() -> Result<Self> {
        Self::with(S3Options::default()).await
    }

    pub async fn with(options: S3Options) -> Result<Self> {
        let scratch = Scratch::new("s3")?;
        let built = cache::program(PROGRAM)?.context("scripts/setup all builds versitygw")?;
        let program = cache::readable(&built, scratch.path())?;
        for folder in ["objects", "users"] {
            std::fs::create_dir(scratch.path().join(folder))?;
        }
        let port = ports::free()?;
        let process = spawn(&program, scratch.path(), port, &options)?;
        let server = Self { process, program, port, options, scratch };
        server.ready().await?;
        for (user, secret) in [(USER, SECRET), (STRANGER, STRANGERS_SECRET)] {
            server.admin(&["create-user", "--access", user, "--secret", secret, "--role", "user"]).await?;
        }
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        let scheme = if self.options.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Of a connector that writes to this bucket, with these fields more.
    pub fn config(&self, bucket: &str, more: &Value) -> Value {
        let mut config = json!({
            "bucket": bucket, "region": REGION, "endpoint": self.url(), "access_key_id": USER,
            "secret_access_key": SECRET, "linger_ms": 0,
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Of [`USER`].
    pub async fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.admin(&["create-bucket", "--bucket", bucket, "--owner", USER]).await
    }

    /// It is not there any more, until [`Self::bring_back`].
    pub fn take_away(&self, bucket: &str) -> Result<()> {
        std::fs::rename(self.bucket(bucket), self.scratch.path().join(bucket)).context("take the bucket away")
    }

    pub fn bring_back(&self, bucket: &str) -> Result<()> {
        std::fs::rename(self.scratch.path().join(bucket), self.bucket(bucket)).context("bring the bucket back")
    }

    /// Gives [`USER`] another secret, at once.
    pub async fn set_secret(&self, secret: &str) -> Result<()> {
        self.admin(&["update-user", "--access", USER, "--secret", secret]).await
    }

    /// Takes the right to write from [`USER`], or gives it back, at once.
    pub async fn set_readonly(&self, bucket: &str, readonly: bool) -> Result<()> {
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Deny", "Principal": {"AWS": [USER]}, "Action": ["s3:PutObject"],
                "Resource": [format!("arn:aws:s3:::{bucket}/*")],
            }],
        });
        let path = format!("{bucket}?policy=");
        match readonly {
            true => self.curl(&["-X", "PUT", "--data-binary", &policy.to_string()], &path).await,
            false => self.curl(&["-X", "DELETE"], &path).await,
        }
        .map(drop)
    }

    /// Begins an upload that nobody will finish.
    pub async fn begin_upload(&self, bucket: &str, key: &str) -> Result<()> {
        self.curl(&["-X", "POST"], &format!("{bucket}/{key}?uploads=")).await.map(drop)
    }

    /// Uploads so many bytes, no faster than this, until the process ends or is dropped; the server has begun to take them.
    pub async fn slow_upload(&self, bucket: &str, bytes: usize, bytes_per_second: u64) -> Result<Process> {
        let file = self.scratch.path().join("slow");
        std::fs::write(&file, vec![b'x'; bytes])?;
        let mut curl = Command::new("curl");
        curl.args(login()).arg("-v").arg("--limit-rate").arg(bytes_per_second.to_string());
        curl.arg("-T").arg(file).arg(format!("{}/{bucket}/slow", self.url()));
        let upload = Process::spawn("curl", &mut curl, &self.scratch.path().join("curl.log"))?;
        wait::until(START_LIMIT, "the upload has begun", async || {
            let log = std::fs::read_to_string(upload.log_path())?;
            ensure!(log.contains("100 Continue"), "{log}");
            Ok(())
        })
        .await?;
        Ok(upload)
    }

    /// Headers of an object, as the server sends them, in lower case.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<String> {
        Ok(self.curl(&["--head"], &format!("{bucket}/{key}")).await?.stdout.to_lowercase())
    }

    /// Complete objects of a bucket, by key.
    pub fn objects(&self, bucket: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut objects = BTreeMap::new();
        let root = self.bucket(bucket);
        if root.exists() {
            collect(&root, &root, &mut objects)?;
        }
        Ok(objects)
    }

    /// Buckets that are there.
    pub fn buckets(&self) -> Result<Vec<String>> {
        let folders = std::fs::read_dir(self.scratch.path().join("objects"))?;
        let names = folders.map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned()));
        // No bucket begins with a dot; a folder for locks of its own does.
        names.filter(|name: &Result<String>| !name.as_ref().is_ok_and(|name| name.starts_with('.'))).collect()
    }

    /// Uploads that were begun and neither finished nor removed.
    pub fn unfinished(&self, bucket: &str) -> Result<usize> {
        let keys = self.bucket(bucket).join(UNFINISHED).join("multipart");
        let mut count = 0;
        for key in folders_of(&keys)? {
            count += folders_of(&key)?.len();
        }
        Ok(count)
    }

    /// What was asked so far, the administrator's requests included.
    pub fn answered(&self) -> Result<Vec<Answered>> {
        let log = std::fs::read_to_string(self.scratch.path().join("access.log"))?;
        let read = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.iter().position(|word| word.starts_with("s3_"))?;
            // Keys and paths of the tests have no spaces where this is asked.
            let status = words.get(at + 3)?.parse().ok()?;
            let operation = words[at].trim_start_matches("s3_").to_owned();
            Some(Answered { operation, bucket: (*words.get(1)?).to_owned(), status })
        };
        Ok(crate::records::complete_lines(&log).filter_map(read).collect())
    }

    /// How many of this kind had a success.
    pub fn count(&self, operation: &str) -> Result<usize> {
        let counted = |answered: &Answered| answered.operation == operation && answered.status < 300;
        Ok(self.answered()?.iter().filter(|answered| counted(answered)).count())
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "versitygw still runs");
        self.process = spawn(&self.program, self.scratch.path(), self.port, &self.options)?;
        self.ready().await
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    fn bucket(&self, bucket: &str) -> PathBuf {
        self.scratch.path().join("objects").join(bucket)
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "versitygw answers", async || {
            let mut curl = tokio::process::Command::new("curl");
            curl.args(["-sS", "-k", "-f", "-o", "/dev/null", &format!("{}/health", self.url())]);
            process::run(&mut curl, ASK_LIMIT).await?.success().map(drop)
        });
        ready.await.with_context(|| self.process.log_tail())
    }

    async fn admin(&self, arguments: &[&str]) -> Result<()> {
        let mut admin = tokio::process::Command::new(&self.program);
        admin
            .env("ADMIN_ACCESS_KEY", ADMIN)
            .env("ADMIN_SECRET_KEY", ADMINS_SECRET)
            .args(["admin", "--allow-insecure", "--endpoint-url", &self.url()])
            .args(arguments);
        process::run(&mut admin, ASK_LIMIT).await?.success().map(drop)
    }

    async fn curl(&self, arguments: &[&str], path: &str) -> Result<Finished> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(login()).args(["-k", "-f"]).args(arguments).arg(format!("{}/{path}", self.url()));
        process::run(&mut curl, ASK_LIMIT).await?.success()
    }
}

/// Of curl, which signs as AWS asks for it.
fn login() -> [String; 7] {
    [
        "-sS".to_owned(),
        "--aws-sigv4".to_owned(),
        format!("aws:amz:{REGION}:s3"),
        "-u".to_owned(),
        format!("{ADMIN}:{ADMINS_SECRET}"),
        "-H".to_owned(),
        "x-amz-content-sha256: UNSIGNED-PAYLOAD".to_owned(),
    ]
}

fn spawn(program: &Path, folder: &Path, port: u16, options: &S3Options) -> Result<Process> {
    let mut command = Command::new(program);
    command
        .env("ROOT_ACCESS_KEY", ADMIN)
        .env("ROOT_SECRET_KEY", ADMINS_SECRET)
        .args(["--port", &format!("127.0.0.1:{port}"), "--region", REGION, "--health", "/health"])
        .args(["--keep-alive", "--quiet", "--iam-cache-disable"])
        .arg("--iam-dir")
        .arg(folder.join("users"))
        .arg("--access-log")
        .arg(folder.join("access.log"));
    if let Some(certificates) = &options.certificates {
        let own = certificates.copied_to(folder)?;
        command.arg("--cert").arg(own.server).arg("--key").arg(own.server_key);
    }
    if let Some(most) = options.requests_max {
        command.args(["--max-requests", &most.to_string()]);
    }
    command.arg("posix").arg(folder.join("objects"));
    Process::spawn_unprivileged("versitygw", &mut command, &folder.join("versitygw.log"), folder)
}

fn collect(root: &Path, folder: &Path, objects: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name() == UNFINISHED {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &path, objects)?;
        } else {
            let key = path.strip_prefix(root)?.to_string_lossy().into_owned();
            objects.insert(key, std::fs::read(&path)?);
        }
    }
    Ok(())
}

fn folders_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}
