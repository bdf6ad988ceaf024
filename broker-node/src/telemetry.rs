//! Logging: one line for people, or one JSON object per line for machines. A line that repeats is folded.
//!
//! ```text
//! event ─► level filter ─► fold (same place, same words) ─► text | JSON ─► stderr
//! ```

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::LogFormat;

/// The first line of a repeating warning or error is written at once, the next after this time with a count.
const FOLD: Duration = Duration::from_secs(10);
/// Places and words remembered; beyond it the oldest are forgotten, which costs a repeated line.
const FOLDED_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{0}")]
    Level(String),
    #[error("logging was set up twice")]
    Twice(#[source] TryInitError),
}

/// `info`, or directives such as `info,sluice=debug`. Empty and misspelled levels are refused.
pub fn check_level(level: &str) -> Result<(), String> {
    const ALLOWED: &str = "must be error, warn, info, debug or trace, or directives such as \"info,sluice=debug\"";
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in level.split(',') {
        let word = directive.rsplit('=').next().unwrap_or_default().trim();
        if !words.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(ALLOWED.to_owned());
        }
    }
    EnvFilter::try_new(level).map(|_| ()).map_err(|_| ALLOWED.to_owned())
}

/// What these say is for their authors: the Raft library, and the proxy's client of the MongoDB driver, which tells of
/// each connection. Cassandra's driver calls a node that is down an error, as the connector's health does. Whoever wants it
/// names it in the level.
const QUIET: [(&str, &str); 3] = [("openraft", "error"), ("fast_socks5", "error"), ("scylla", "off")];

fn with_quiet_libraries(level: &str) -> String {
    let mut directives = level.to_owned();
    for (library, quiet) in QUIET {
        if !level.contains(library) {
            directives.push_str(&format!(",{library}={quiet}"));
        }
    }
    directives
}

/// Sets up logging for the process; once.
pub fn start(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    check_level(level).map_err(TelemetryError::Level)?;
    let filter =
        EnvFilter::try_new(with_quiet_libraries(level)).map_err(|error| TelemetryError::Level(error.to_string()))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => {
            lines.with_target(false).map_event_format(|inner| Folded { inner, format, fold: Fold::default() }).boxed()
        }
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .map_event_format(|inner| Folded { inner, format, fold: Fold::default() })
            .boxed(),
    };
    Registry::default().with(filter).with(lines).try_init().map_err(TelemetryError::Twice)
}

/// Lets a warning or error through when it was not seen within [`FOLD`]; says then how often it was held back.
#[derive(Default)]
struct Fold {
    seen: Mutex<HashMap<u64, Seen>>,
}

struct Seen {
    written: Instant,
    held_back: u64,
}

enum Verdict {
    Write { held_back: u64 },
    HoldBack,
}

impl Fold {
    fn judge(&self, key: u64, now: Instant) -> Verdict {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get_mut(&key) {
            if now.duration_since(known.written) < FOLD {
                known.held_back += 1;
                return Verdict::HoldBack;
            }
            let held_back = std::mem::take(&mut known.held_back);
            known.written = now;
            return Verdict::Write { held_back };
        }
        if seen.len() >= FOLDED_MAX {
            seen.retain(|_, known| now.duration_since(known.written) < FOLD);
        }
        if seen.len() < FOLDED_MAX {
            seen.insert(key, Seen { written: now, held_back: 0 });
        }
        Verdict::Write { held_back: 0 }
    }
}

/// Writes what [`Fold`] lets through; an empty text is what the layer above writes for the rest.
struct Folded<F> {
    inner: F,
    format: LogFormat,
    fold: Fold,
}

impl<S, N, F> FormatEvent<S, N> for Folded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return self.inner.format_event(ctx, writer, event);
        }
        let mut words = Words::new(metadata);
        event.record(&mut words);
        let Verdict::Write { held_back } = self.fold.judge(words.key(), Instant::now()) else { return Ok(()) };
        self.inner.format_event(ctx, writer.by_ref(), event)?;
        match (held_back, self.format) {
            (0, LogFormat::Text | LogFormat::Json) => Ok(()),
            (count, LogFormat::Text) => writeln!(writer, "  the line above was held back {count} times"),
            (count, LogFormat::Json) => {
                let line = serde_json::json!({
                    "level": metadata.level().as_str(), "target": metadata.target(),
                    "message": "the line before was held back", "repeated": count,
                });
                writeln!(writer, "{line}")
            }
        }
    }
}

/// Hashes what makes two events the same: place, and every field but those that count.
struct Words(std::hash::DefaultHasher);

impl Words {
    fn new(metadata: &tracing::Metadata<'_>) -> Self {
        use std::hash::Hash;
        let mut hasher = std::hash::DefaultHasher::new();
        (metadata.file(), metadata.line()).hash(&mut hasher);
        Self(hasher)
    }

    fn key(&self) -> u64 {
        use std::hash::Hasher;
        self.0.finish()
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::hash::Hash;
        (field.name(), format!("{value:?}")).hash(&mut self.0);
    }

    // Numbers differ from one repetition to the next (attempt, bytes): they do not tell lines apart.
    fn record_u64(&mut self, _: &Field, _: u64) {}
    fn record_i64(&mut self, _: &Field, _: i64) {}
    fn record_f64(&mut self, _: &Field, _: f64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for good in ["info", "warn", "info,sluice=debug", "off", "DEBUG"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["", "loud", "info,", "sluice=", "info,sluice=verbose"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn repetition_is_held_back_and_counted() {
        let fold = Fold::default();
        let start = Instant::now();
        assert!(matches!(fold.judge(1, start), Verdict::Write { held_back: 0 }));
        for millis in [1, 5, 9_999] {
            assert!(matches!(fold.judge(1, start + Duration::from_millis(millis)), Verdict::HoldBack));
        }
        assert!(matches!(fold.judge(2, start), Verdict::Write { held_back: 0 }), "other words are not folded");
        assert!(matches!(fold.judge(1, start + FOLD), Verdict::Write { held_back: 3 }));
    }

    #[test]
    fn memory_for_folding_is_bounded() {
        let fold = Fold::default();
        let start = Instant::now();
        for key in 0..10_000 {
            fold.judge(key, start);
        }
        assert_eq!(fold.seen.lock().unwrap_or_else(PoisonError::into_inner).len(), FOLDED_MAX);
    }
}
