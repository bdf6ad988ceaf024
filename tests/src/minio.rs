//! MinIO as S3, for what versitygw has not: tokens of temporary credentials, and the very words of AWS for a key that nobody
//! has.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process::{self, Process};
use crate::s3::REGION;
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

const PROGRAM: &str = "minio-20260212";
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(60);
const ROOT: &str = "sluice-root";
const ROOTS_SECRET: &str = "roots-secret";

pub struct Minio {
    process: Process,
    port: u16,
    scratch: Scratch,
}

/// What a role is given for a while.
#[derive(Clone, Debug)]
pub struct Temporary {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
}

impl Minio {
    /// `None`, and says so, where `scripts/setup` could not build it.
    pub async fn start() -> Result<Option<Self>> {
        let Some(program) = cache::program(PROGRAM)? else {
            eprintln!("not run: MinIO is not here; `scripts/setup all` builds it with Go");
            return Ok(None);
        };
        let scratch = Scratch::new("minio")?;
        let folder = scratch.path();
        std::fs::create_dir(folder.join("data"))?;
        let port = ports::free()?;
        let mut command = Command::new(cache::readable(&program, folder)?);
        command
            .env("HOME", folder)
            .env("MINIO_ROOT_USER", ROOT)
            .env("MINIO_ROOT_PASSWORD", ROOTS_SECRET)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            .arg(folder.join("data"));
        let process = Process::spawn_unprivileged("minio", &mut command, &folder.join("minio.log"), folder)?;
        let minio = Self { process, port, scratch };
        // Its own word for ready comes before it knows its users.
        let ready = wait::until(START_LIMIT, "MinIO is ready", async || minio.curl("s3", &[], "").await);
        ready.await.with_context(|| minio.process.log_tail())?;
        Ok(Some(minio))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Of a connector that writes to this bucket as root, with these fields more.
    pub fn config(&self, bucket: &str, more: &Value) -> Value {
        let mut config = json!({
            "bucket": bucket, "region": REGION, "endpoint": self.url(), "access_key_id": ROOT,
            "secret_access_key": ROOTS_SECRET, "linger_ms": 0,
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    pub async fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.curl("s3", &["-X", "PUT"], bucket).await.map(drop)
    }

    /// What stands under this key.
    pub async fn object(&self, bucket: &str, key: &str) -> Result<String> {
        self.curl("s3", &[], &format!("{bucket}/{key}")).await
    }

    /// Keys of a bucket.
    pub async fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let list = self.curl("s3", &[], &format!("{bucket}?list-type=2")).await?;
        Ok(texts(&list, "Key"))
    }

    /// Uploads that were begun and neither finished nor removed, of this very key: MinIO lists no others.
    pub async fn unfinished(&self, bucket: &str, key: &str) -> Result<usize> {
        let key = key.replace('/', "%2F");
        let list = self.curl("s3", &[], &format!("{bucket}?prefix={key}&uploads=")).await?;
        Ok(texts(&list, "UploadId").len())
    }

    pub async fn temporary(&self) -> Result<Temporary> {
        let action = "Action=AssumeRole&Version=2011-06-15&DurationSeconds=900";
        let answer = self.curl("sts", &["-X", "POST", "-d", action], "").await?;
        let text = |name| texts(&answer, name).pop().with_context(|| format!("no {name} in {answer}"));
        Ok(Temporary {
            access_key_id: text("AccessKeyId")?,
            secret_access_key: text("SecretAccessKey")?,
            session_token: text("SessionToken")?,
        })
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn curl(&self, service: &str, arguments: &[&str], path: &str) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "--aws-sigv4", &format!("aws:amz:{REGION}:{service}")]);
        curl.args(["-u", &format!("{ROOT}:{ROOTS_SECRET}")]);
        if service == "s3" {
            curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        }
        curl.args(arguments).arg(format!("{}/{path}", self.url()));
        Ok(process::run(&mut curl, ASK_LIMIT).await?.success()?.stdout)
    }
}

/// The texts of these elements.
fn texts(document: &str, element: &str) -> Vec<String> {
    let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
    let parts = document.split(&*begin).skip(1);
    parts.filter_map(|rest| rest.split_once(&*end)).map(|(text, _)| text.to_owned()).collect()
}
