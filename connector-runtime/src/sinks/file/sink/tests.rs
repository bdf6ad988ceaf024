//! Against the real file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api_types::ConnectorName;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use super::super::config::Rotation;
use super::super::writer::{Lines, Writer, WriterError};
use super::super::writers::Writers;
use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup};
use crate::sinks::opened::{TestNode, deliver, record};

struct Folder {
    _temporary: tempfile::TempDir,
    path: PathBuf,
    node: TestNode,
}

fn folder() -> Folder {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let path = fs::canonicalize(temporary.path()).expect("exists");
    let node = TestNode::new(&[path.join("root")], path.join("data"), &[]);
    Folder { _temporary: temporary, path: path.join("root"), node }
}

impl Folder {
    fn file(&self) -> PathBuf {
        self.path.join("out.log")
    }

    fn config(&self, more: Value) -> Value {
        let mut config = json!({"local_file_path": self.file()});
        config.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        config
    }

    async fn open(&self, more: Value) -> Box<dyn Sink> {
        self.node.open("a", "file", self.config(more)).await.expect("opens")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).expect("is text")
    }

    /// Names and contents of all files, in order.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = fs::read_dir(&self.path)
            .expect("lists")
            .map(|entry| entry.expect("lists").path())
            .map(|path| (file_name(&path), fs::read_to_string(&path).expect("is text")))
            .collect();
        files.sort();
        files
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("has a name").to_string_lossy().into_owned()
}

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("is a time").to_utc()
}

fn lines(texts: &[&str]) -> Lines {
    let mut lines = Lines::default();
    texts.iter().for_each(|text| lines.push(|bytes| bytes.extend_from_slice(text.as_bytes())));
    lines
}

#[tokio::test]
async fn every_record_is_one_line_with_its_envelope() {
    let folder = folder();
    let sink = folder.open(json!({})).await;
    let records = [record(1, "{\"t\": 21.5}"), record(2, "two\nlines"), record(3, b"\xff\x00".to_vec())];
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes, vec![Outcome::Delivered; 3]);
    let text = folder.text();
    let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert!(text.ends_with('\n'));
    assert_eq!(values.len(), 3);
    assert_eq!(
        (&values[0]["id"], &values[0]["topic"], &values[0]["payload"]["t"]),
        (&json!("1-7-1"), &json!("plant/one"), &json!(21.5))
    );
    assert_eq!((&values[1]["payload"], &values[2]["payload_base64"]), (&json!("two\nlines"), &json!("/wA=")));
}

#[tokio::test]
async fn raw_lines_are_the_payloads_and_a_line_break_is_that_records_fault() {
    let folder = folder();
    let sink = folder.open(json!({"payload_format": "raw"})).await;
    let outcomes = deliver(&*sink, &[record(1, "one"), record(2, "a\nb"), record(3, b"\xff".to_vec())]).await;
    assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if fault.offline && &*fault.class == "line_break"));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    assert_eq!(fs::read(folder.file()).expect("reads"), b"one\n\xff\n");
}

#[tokio::test]
async fn it_appends_to_what_is_there() {
    let folder = folder();
    for number in 0..3 {
        let sink = folder.open(json!({"payload_format": "raw"})).await;
        deliver(&*sink, &[record(number, format!("r{number}"))]).await;
        sink.close().await;
    }
    assert_eq!(folder.text(), "r0\nr1\nr2\n");
}

#[test]
fn half_a_line_does_not_survive() {
    let long = "x".repeat(200_000);
    for (found, kept) in [
        ("", ""),
        ("one\n", "one\n"),
        ("one\ntwo\nthr", "one\ntwo\n"),
        ("half", ""),
        ("one\n\0\0\0\0", "one\n"),
        (&format!("one\n{long}"), "one\n"),
        (&format!("{long}\n{long}"), &format!("{long}\n")),
    ] {
        let folder = folder();
        fs::create_dir_all(&folder.path).expect("folder");
        fs::write(folder.file(), found).expect("writes");
        let mut writer = Writer::open(folder.file(), Rotation::None, 0).expect("opens");
        assert_eq!(folder.text(), kept);
        assert_eq!(writer.append(&lines(&["next"]), Utc::now()).0, 1);
        assert_eq!(folder.text(), format!("{kept}next\n"));
    }
}

#[test]
fn a_long_file_without_lines_is_not_ours_and_stays_as_it_is() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    let file = File::create(folder.file()).expect("creates");
    // A hole: takes no room on the disk.
    file.set_len(200 << 20).expect("grows");
    assert!(matches!(Writer::open(folder.file(), Rotation::None, 0), Err(WriterError::NotLines)));
    assert_eq!(file.metadata().expect("exists").len(), 200 << 20);
}

#[test]
fn size_rotation_keeps_every_file_below_its_bound_and_never_writes_over_one() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    fs::write(folder.path.join("out.log.000001"), "from before\n").expect("writes");
    let mut writer = Writer::open(folder.file(), Rotation::Size, 8).expect("opens");
    let (safe, error) = writer.append(&lines(&["aaa", "bbb", "ccc", "longer than the bound", "ddd"]), Utc::now());
    assert!(safe == 5 && error.is_none(), "{safe} {error:?}");
    drop(writer);
    let mut writer = Writer::open(folder.file(), Rotation::Size, 8).expect("opens");
    writer.append(&lines(&["eee", "fff"]), Utc::now());
    let expect = [
        ("out.log", "fff\n"),
        ("out.log.000001", "from before\n"),
        ("out.log.000002", "aaa\nbbb\n"),
        ("out.log.000003", "ccc\n"),
        ("out.log.000004", "longer than the bound\n"),
        ("out.log.000005", "ddd\neee\n"),
    ];
    let files = folder.files();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(files, expect);
}

#[test]
fn rotated_numbers_only_grow() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    let mut writer = Writer::open(folder.file(), Rotation::Size, 4).expect("opens");
    writer.append(&lines(&["aaa", "bbb", "ccc"]), Utc::now());
    fs::remove_file(folder.path.join("out.log.000001")).expect("somebody took it away");
    writer.append(&lines(&["ddd"]), Utc::now());
    let names: Vec<String> = folder.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["out.log", "out.log.000002", "out.log.000003"]);
}

#[test]
fn a_full_period_is_named_after_itself() {
    for (rotation, first, second, name) in [
        (Rotation::Hourly, "2026-11-23T20:59:59Z", "2026-11-23T21:00:00Z", "out.log.2026-11-23T20"),
        (Rotation::Daily, "2026-11-23T23:59:59Z", "2026-11-24T00:00:00Z", "out.log.2026-11-23"),
    ] {
        let folder = folder();
        fs::create_dir_all(&folder.path).expect("folder");
        fs::write(folder.path.join(name), "of somebody else\n").expect("writes");
        let mut writer = Writer::open(folder.file(), rotation, 0).expect("opens");
        writer.append(&lines(&["a"]), at(first));
        writer.append(&lines(&["b"]), at(first));
        writer.append(&lines(&["c"]), at(second));
        let files = folder.files();
        assert_eq!(files[0], ("out.log".into(), "c\n".into()), "{rotation:?}");
        assert_eq!(files[1], (name.into(), "of somebody else\n".into()), "{rotation:?}");
        assert_eq!(files[2], (format!("{name}.1"), "a\nb\n".into()), "{rotation:?}");
    }
}

#[test]
fn a_period_that_ended_while_the_node_was_away_is_rotated_too() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    fs::write(folder.file(), "old\n").expect("writes");
    let written = SystemTime::from(at("2026-11-20T05:30:00Z"));
    File::options()
        .append(true)
        .open(folder.file())
        .and_then(|file| file.set_modified(written))
        .expect("sets the time");
    let mut writer = Writer::open(folder.file(), Rotation::Hourly, 0).expect("opens");
    writer.append(&lines(&["new"]), at("2026-11-23T20:00:00Z"));
    let expect = [("out.log".to_owned(), "new\n".to_owned()), ("out.log.2026-11-20T05".into(), "old\n".into())];
    assert_eq!(folder.files(), expect);
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    let mut writer = Writer::open(folder.file(), Rotation::None, 0).expect("opens");
    writer.append(&lines(&["a"]), Utc::now());
    fs::rename(folder.file(), folder.path.join("moved")).expect("moves");
    writer.append(&lines(&["b"]), Utc::now());
    let expect = [("moved".to_owned(), "a\n".to_owned()), ("out.log".into(), "b\n".into())];
    assert_eq!(folder.files(), expect);
}

#[tokio::test]
async fn one_writer_per_path_and_node() {
    let folder = folder();
    let first = folder.open(json!({})).await;
    let fault = folder.node.open("b", "file", folder.config(json!({}))).await.err().expect("is in use");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("FILE_IN_USE"));
    assert!(fault.message.contains("connector a"), "{}", fault.message);
    first.close().await;
    folder.node.open("b", "file", folder.config(json!({}))).await.expect("is free");
}

#[tokio::test]
async fn an_earlier_writer_of_the_same_connector_is_waited_for() {
    let folder = folder();
    // Its last write is under way until the lock is let go.
    let earlier = folder.open(json!({})).await;
    let mut next = std::pin::pin!(folder.node.open("a", "file", folder.config(json!({}))));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err(), "two writers of one file");
    earlier.abort();
    drop(earlier);
    let next = next.await.expect("opens as soon as the file is free");
    assert_eq!(deliver(&*next, &[record(1, "x")]).await, [Outcome::Delivered]);
}

#[test]
fn a_write_that_does_not_end_is_an_interruption_and_another_connector_is_not_waited_for() {
    let (writers, path) = (Writers::default(), Path::new("/some/file"));
    let (own, other) = (ConnectorName::from("a"), ConnectorName::from("b"));
    let claim = writers.claim(path, &own, Duration::ZERO).expect("is free");
    assert_eq!(writers.claim(path, &own, Duration::from_millis(20)).err(), Some(Taken::ByItself));
    assert_eq!(writers.claim(path, &other, Duration::from_secs(3600)).err(), Some(Taken::ByAnother(own)));
    drop(claim);
    writers.claim(path, &other, Duration::ZERO).expect("is free");
}

/// In a runtime with a single thread for blocking work.
#[test]
fn calls_that_wait_for_the_file_take_no_thread_and_end_at_an_abort() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let folder = folder();
        fs::create_dir_all(&folder.path).expect("folder");
        let writer = Writer::open(folder.file(), Rotation::None, 0).expect("opens");
        let claim = Writers::default().claim(&folder.file(), &ConnectorName::from("a"), Duration::ZERO);
        let open = Arc::new(Mutex::new(Some(OpenFile { writer, _claim: claim.expect("is free") })));
        let (payload_format, aborted) = (PayloadFormat::Envelope, CancellationToken::new());
        let sink = FileSink { payload_format, open: Arc::clone(&open), aborted };
        // As if a write hung.
        let write = open.lock_owned().await;
        let records = [record(1, "x")];
        let mut calls: FuturesUnordered<_> = (0..20).map(|_| deliver(&sink, &records)).collect();
        assert!(futures::poll!(calls.next()).is_pending());
        let other_work = tokio::task::spawn_blocking(|| ());
        tokio::time::timeout(Duration::from_secs(30), other_work).await.expect("the thread is free").expect("ends");
        sink.abort();
        while let Some(outcomes) = calls.next().await {
            assert!(matches!(&outcomes[0], Outcome::TargetFault(fault) if fault.kind == TargetFaultKind::Interrupted));
        }
        drop(write);
        assert_eq!(folder.text(), "");
    });
}

#[tokio::test]
async fn another_process_with_the_file_is_noticed() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    let file = File::create(folder.file()).expect("creates");
    flock_exclusive(&file);
    let fault = folder.node.open("a", "file", folder.config(json!({}))).await.err().expect("is locked");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("FILE_IN_USE"));
    drop(file);
    folder.node.open("a", "file", folder.config(json!({}))).await.expect("is free");
}

fn flock_exclusive(file: &File) {
    rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive).expect("locks");
}

#[tokio::test]
async fn paths_outside_are_blocked_with_their_reason() {
    let folder = folder();
    for path in ["/etc/sluice-out.log".to_owned(), folder.path.join("../data/meta/CURRENT").display().to_string()] {
        let path = path.replace("/root/..", "");
        let fault = folder.node.open("a", "file", json!({"local_file_path": path})).await.err().expect("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("FILE_OUTSIDE_ROOT"), "{path}");
        assert!(fault.kind.needs_a_person());
    }
}

#[tokio::test]
async fn a_full_disk_is_the_targets_fault() {
    // The kernel's own full device.
    let node = TestNode::new(&[PathBuf::from("/dev")], PathBuf::from("/nowhere"), &[]);
    let fault = node.open("a", "file", json!({"local_file_path": "/dev/full"})).await.err().expect("is no file");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("FILE_NOT_REGULAR"));
    for (errno, kind) in [
        (rustix::io::Errno::NOSPC, TargetFaultKind::Full),
        (rustix::io::Errno::DQUOT, TargetFaultKind::Full),
        (rustix::io::Errno::ROFS, TargetFaultKind::Permission),
        (rustix::io::Errno::ACCESS, TargetFaultKind::Permission),
        (rustix::io::Errno::IO, TargetFaultKind::Down),
    ] {
        assert_eq!(io_kind(&errno.into()), kind, "{errno}");
    }
}

#[tokio::test]
async fn an_aborted_sink_writes_nothing_more() {
    let folder = folder();
    let sink = folder.open(json!({})).await;
    sink.abort();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert!(
        matches!(&outcomes[0], Outcome::TargetFault(fault) if fault.kind == TargetFaultKind::Interrupted && fault.reopen),
        "{outcomes:?}"
    );
    assert_eq!(folder.text(), "");
}

#[tokio::test]
async fn ten_thousand_records_go_through_the_pipeline_in_order() {
    let folder = folder();
    let queue = MemoryQueue::numbered(10_000);
    let sink = folder.node.sink_for(
        "a",
        "file",
        folder.config(json!({"rotation_strategy": "size", "max_size_bytes": 500_000})),
    );
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    task.drain.cancel();
    task.end().await;
    let files = folder.files();
    assert!(files.len() > 2, "{} files", files.len());
    assert!(files.iter().all(|(_, text)| text.len() <= 500_000));
    // The numbered files come first, then the current one.
    let texts = files.iter().skip(1).chain(files.first()).flat_map(|(_, text)| text.lines());
    let numbers: Vec<u64> = texts
        .map(|line| serde_json::from_str::<Value>(line).expect("is JSON"))
        .map(|value| value["payload"].as_str().and_then(|text| text[1..].parse().ok()).expect("has a number"))
        .collect();
    assert_eq!(numbers, (0..10_000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_file_whose_folder_vanished_comes_back() {
    let folder = folder();
    let queue = MemoryQueue::numbered(1);
    let sink = folder.node.sink_for("a", "file", folder.config(json!({})));
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    fs::remove_dir_all(&folder.path).expect("removes");
    queue.append([double::message(1)]);
    queue.all_committed().await;
    assert_eq!(folder.text().lines().count(), 1);
    assert_eq!(task.report().counters.send_success_total, 2);
}

#[test]
fn what_could_not_be_written_leaves_nothing_behind() {
    let folder = folder();
    fs::create_dir_all(&folder.path).expect("folder");
    // A limit on the size of files of this process would hit the other tests; a child has its own. Its signal is
    // ignored, so that the write fails instead.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} --exact {} --nocapture --ignored",
        std::env::current_exe().expect("a test runs").display(),
        "sinks::file::sink::tests::child_writes_beyond_its_limit"
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("SLUICE_TEST_FILE", folder.file())
        .output()
        .expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(folder.text(), "fits\n");
}

#[test]
#[ignore = "run by what_could_not_be_written_leaves_nothing_behind"]
fn child_writes_beyond_its_limit() {
    let Ok(path) = std::env::var("SLUICE_TEST_FILE") else { return };
    let mut writer = Writer::open(PathBuf::from(path), Rotation::None, 0).expect("opens");
    assert_eq!(writer.append(&lines(&["fits"]), Utc::now()).0, 1);
    let big = "x".repeat(3000);
    let (safe, error) = writer.append(&lines(&[&big, &big, &big, &big]), Utc::now());
    assert_eq!(safe, 0);
    let error = error.expect("the limit was reached");
    assert_eq!(writer_fault(&error).kind, TargetFaultKind::Full, "{error:?}");
}
