//! Kills, torn files and failed writes.

use std::collections::HashMap;
use std::fs::OpenOptions;

use ::tests::small_disk::SmallDisk;
use api_types::RecordId;

use super::*;

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_no_sequence_is_used_twice() {
    let mut seen: HashMap<RecordId, String> = HashMap::new();
    let mut bench = Bench::new();
    let mut expect = Vec::new();
    for life in 0..4 {
        let payloads: Vec<String> = (0..5).map(|number| format!("{life}-{number}")).collect();
        bench.append(&all_to_one(), "t", &payloads.iter().map(String::as_str).collect::<Vec<_>>()).await;
        expect.extend(payloads);
        bench = bench.crash();
        let mut from = bench.open().await;
        let mut found = Vec::new();
        while let Fetched::Batch(batch) = bench.fetch(from, 3).await.expect("fetches") {
            for record in batch.records {
                let payload = String::from_utf8_lossy(&record.message.payload).into_owned();
                assert_eq!(seen.entry(record.id).or_insert_with(|| payload.clone()), &payload);
                found.push(payload);
            }
            from = batch.to;
        }
        assert_eq!(found, expect);
        assert_eq!(bench.ledger().pending, expect.len() as u64);
    }
}

#[tokio::test]
async fn a_torn_tail_loses_what_follows_it_and_its_sequences_are_not_given_out_again() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["whole"]).await;
    let whole = wal_lengths(&bench);
    bench.append(&all_to_one(), "t", &["torn"]).await;
    let position = bench.open().await;
    let lost = bench.batch(bench.batch(position, 1).await.to, 1).await.records[0].id;
    let after = bench.crash_with(|dir| {
        for file in wal_files(dir) {
            let name = file.file_name().map(std::ffi::OsStr::to_owned).expect("a name");
            let length = whole.get(&name).copied().unwrap_or_default();
            // Ten bytes into what came after.
            let file = OpenOptions::new().write(true).open(file).expect("opens");
            if file.metadata().expect("readable").len() > length + 10 {
                file.set_len(length + 10).expect("cuts");
            }
        }
    });
    assert_eq!(after.ledger(), Ledger { queued: 1, pending: 1, ..Ledger::default() });
    after.append(&all_to_one(), "t", &["next"]).await;
    let position = after.open().await;
    let records = after.batch(position, 10).await.records;
    assert_eq!(payloads(&records), ["whole", "next"]);
    assert!(records[1].id.sequence > lost.sequence, "{} after {lost}", records[1].id);
}

fn wal_lengths(bench: &Bench) -> HashMap<std::ffi::OsString, u64> {
    wal_files(&bench.dir.path().join("queue"))
        .into_iter()
        .map(|path| {
            let length = std::fs::metadata(&path).expect("readable").len();
            (path.file_name().map(std::ffi::OsStr::to_owned).expect("a name"), length)
        })
        .collect()
}

#[tokio::test]
async fn a_store_that_forgot_its_blocks_does_not_repeat_their_sequences() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.open().await;
    let used = bench.batch(position, 1).await.records[0].id.sequence;
    // All of the store is lost; the small file beside it is not.
    let after = bench.crash_with(|dir| {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_none_or(|name| name != "sequences-reserved") {
                std::fs::remove_file(path).expect("removed");
            }
        }
    });
    after.append(&all_to_one(), "t", &["b"]).await;
    let position = after.open().await;
    assert!(after.batch(position, 1).await.records[0].id.sequence > used);
}

#[tokio::test]
async fn a_failed_write_acknowledges_nothing_and_is_got_over_without_a_restart() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["before"]).await;
    let position = bench.open().await;
    bench.disk.set_broken(true);
    let ticket = bench.submit(&all_to_one(), vec![message("t", "lost")]).expect("let in");
    assert_eq!(ticket.await, Err(TicketError::Failed));
    until("refused at the door", async || {
        bench.submit(&all_to_one(), vec![message("t", "x")]).err() == Some(SubmitRefusal::Failed)
    })
    .await;
    assert!(bench.queues.writable().is_err());
    assert!(matches!(bench.commit(position, position, Vec::new()).await, Err(CallError::Failed(_))));
    bench.disk.set_broken(false);
    until("it takes writes again", async || bench.queues.writable().is_ok()).await;
    assert_eq!(bench.queues.stats().waiting_bytes, 0);
    bench.append(&all_to_one(), "t", &["after"]).await;
    assert_eq!(payloads(&bench.batch(position, 10).await.records), ["before", "after"]);
    assert_eq!(bench.ledger(), Ledger { queued: 2, pending: 2, ..Ledger::default() });
}

#[tokio::test]
async fn a_fetch_that_waits_goes_on_after_a_reopening() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.open().await;
    let patient = BatchLimits { linger: PATIENCE, ..limits(2) };
    let fetched = bench.queues.fetch(ONE, EPOCH, position, patient);
    let others = async {
        bench.disk.set_broken(true);
        let ticket = bench.submit(&all_to_one(), vec![message("t", "lost")]).expect("let in");
        assert_eq!(ticket.await, Err(TicketError::Failed));
        bench.disk.set_broken(false);
        until("it takes writes again", async || bench.queues.writable().is_ok()).await;
        bench.append(&all_to_one(), "t", &["b"]).await;
    };
    let (fetched, ()) = tokio::join!(fetched, others);
    match fetched {
        Ok(fetched) => assert_eq!(payloads(&batch(fetched).records), ["a", "b"]),
        // The read met the closed store: the owner asks again.
        Err(error) => assert!(matches!(error, CallError::Failed(_)), "{error}"),
    }
}

/// A broken disk may be nearly full, and a full one say that it has room, which a quota does.
#[tokio::test]
async fn want_of_room_is_told_by_the_error_and_not_by_the_free_space() {
    let bench = Bench::with(|options| options.disk_reserve = DiskReserve { bytes: 0, percent: 0 });
    bench.append(&all_to_one(), "t", &["a"]).await;
    let check = async |free_bytes, broken, expect: TicketError| {
        bench.disk.set_free(free_bytes);
        bench.disk.set_broken(broken);
        bench.disk.set_full(!broken);
        let ticket = bench.submit(&all_to_one(), vec![message("t", "lost")]).expect("let in");
        assert_eq!(ticket.await, Err(expect), "{free_bytes} bytes free");
        let reopening = bench.submit(&all_to_one(), vec![message("t", "lost")]);
        if let Err(refusal) = reopening {
            let full = refusal == SubmitRefusal::DiskFull;
            assert_eq!(full, expect == TicketError::DiskFull, "{refusal}");
        }
        bench.disk.set_broken(false);
        bench.disk.set_full(false);
        until("it takes writes again", async || bench.queues.writable().is_ok()).await;
    };
    check(1 << 20, true, TicketError::Failed).await;
    check(90 << 30, false, TicketError::DiskFull).await;
    bench.queues.close().await;

    bench.disk.set_free(0);
    std::fs::write(bench.options.dir.join("CURRENT"), "nonsense").expect("written");
    let error = Queues::open(bench.options.clone()).err().expect("cannot be read");
    assert!(matches!(error, QueueError::Store(_)), "{error:?}");
}

/// On a file system of its own that really runs full.
#[tokio::test]
async fn a_disk_that_runs_full_for_real_loses_nothing_acknowledged() {
    let (_disk, dir) = small_disk(24 << 20);
    // Both bounds are off, so that the writes themselves fail.
    let bench = Bench::on(dir.clone(), |options| {
        options.disk_reserve = DiskReserve { bytes: 0, percent: 0 };
        options.disk = Arc::new(LocalDisk);
    });
    let ballast = dir.path().join("ballast");
    let payload: String = (0..60_000).map(|number: u32| char::from(b'!' + (number * 7919 % 89) as u8)).collect();
    std::fs::write(&ballast, vec![1; 8 << 20]).expect("fits");
    let mut acknowledged = 0;
    let refused = loop {
        match bench.submit(&all_to_one(), vec![message("t", &format!("{acknowledged} {payload}"))]) {
            Ok(ticket) => match ticket.await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            },
            Err(refusal) => panic!("refused before a write failed: {refusal}"),
        }
        assert!(acknowledged < 10_000, "24 MiB never ran full");
    };
    assert_eq!(refused, TicketError::DiskFull);
    std::fs::remove_file(&ballast).expect("removed");
    until("it takes writes again", async || bench.queues.writable().is_ok()).await;
    let mut from = bench.open().await;
    let mut next = 0;
    while let Fetched::Batch(batch) = bench.fetch(from, 16).await.expect("fetches") {
        for record in &batch.records {
            let text = String::from_utf8_lossy(&record.message.payload);
            let number: u64 = text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
            assert!(number == next || number + 1 == next, "{number} where {next} was expected");
            next = number + 1;
        }
        from = batch.to;
    }
    assert!(next >= acknowledged, "{next} of {acknowledged} acknowledged records");
    bench.ledger();
    bench.queues.close().await;
}

/// What was not flushed yet is written anew by an opening.
#[tokio::test]
async fn a_disk_without_room_for_an_opening_is_told_and_left_as_it_is() {
    let (_disk, dir) = small_disk(64 << 20);
    let bench = Bench::on(dir.clone(), |options| {
        options.disk_reserve = DiskReserve { bytes: 0, percent: 0 };
        options.disk = Arc::new(LocalDisk);
    });
    let payload: String = (0..60_000).map(|number: u32| char::from(b'!' + (number * 7919 % 89) as u8)).collect();
    for _ in 0..20 {
        bench.append(&all_to_one(), "t", &[payload.as_str(); 10]).await;
    }
    let ledger = bench.ledger();
    bench.queues.close().await;
    let ballast = dir.path().join("ballast");
    // To the end of the disk.
    std::fs::write(&ballast, vec![1; 64 << 20]).expect_err("full");
    for _ in 0..3 {
        let error = Queues::open(bench.options.clone()).err().expect("no room");
        assert!(matches!(error, QueueError::NoRoom { free_bytes: ..64_000_000, .. }), "{error:?}");
    }
    std::fs::remove_file(&ballast).expect("removed");
    let queues = Queues::open(bench.options.clone()).expect("opens");
    assert_eq!(queues.ledger(ONE), Some(ledger));
    queues.close().await;
}

/// A file system of its own, which goes with this process at the latest, and a directory on it.
fn small_disk(bytes: u64) -> ((SmallDisk, TempDir), Arc<TempDir>) {
    let mount_point = TempDir::new().expect("a directory");
    let disk = SmallDisk::mount(mount_point.path(), bytes).expect("a small disk");
    let dir = TempDir::new_in(disk.path()).expect("a directory on it");
    ((disk, mount_point), Arc::new(dir))
}
