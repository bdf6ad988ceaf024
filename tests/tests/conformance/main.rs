//! One suite that every sink must pass, from outside: real `sluice` processes, records by MQTT, real targets that are
//! read back. One test for each kind; its cases run one after the other on one server, and all of them run, whatever
//! fails before.
//!
//! ```text
//!   kinds/<kind>.rs   what a kind's server is, and what its page promises (adapter.rs)
//!   cases/<case>.rs   what must hold, for whichever kind
//!   bare.rs           the target's own client, beside a case: what the target itself loses
//!   stage.rs          a node, a server, what was published, what was seen, how it ended
//! ```
//!
//! `cargo test -p tests --test conformance redis` runs one kind, `SLUICE_CONFORMANCE_CASES=poison,tls` some cases,
//! `SLUICE_CONFORMANCE=full` the counts of `make conformance` and `make outages`.

mod adapter;
mod bare;
mod cases;
mod counts;
mod kinds;
mod outage;
mod publishing;
mod report;
mod settled;
mod shapes;
mod stage;

use std::time::Instant;

use anyhow::{Result, bail};

use adapter::Adapter;
use counts::Counts;
use report::Report;
use stage::Stage;

kinds::for_each!(test_of_each);

/// Every case for one kind.
async fn conforms<A: Adapter>() -> Result<()> {
    let counts = Counts::chosen()?;
    let began = Instant::now();
    let mut report = Report::new(A::KIND, &counts);
    let mut stage = Stage::<A>::open(counts, 1).await?;
    println!("conformance: {}: server and node ready after {:.1} s", A::KIND, began.elapsed().as_secs_f64());
    cases::on_one_node(&mut stage, &mut report).await?;
    if cases::needs_three_nodes() {
        stage = stage.with_nodes(3).await?;
        cases::on_three_nodes(&mut stage, &mut report).await?;
    }
    report.write(began.elapsed())?;
    let failed = report.failed();
    if !failed.is_empty() {
        bail!("{} does not conform:\n{}", A::KIND, failed.join("\n"));
    }
    stage.finish().await
}
