//! Standard output and standard error of a command, whoever reads them and for how long.

use std::io::{self, ErrorKind, Write};

/// Writes the text to standard output. Whoever closed the pipe, as `head` does, has all that he wanted.
pub fn print(text: &str) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

/// Writes the line to standard error. When that is gone there is nobody left to tell.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        assert!(writer.write_all(b"x").is_err(), "the pipe is closed");
        assert!(write_to(&mut writer, "text").is_ok());
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        assert!(write_to(&mut full, "text").is_err());
    }
}
