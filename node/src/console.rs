//! Standard output of the commands. It is not the log, and nothing reads it back.
//!
//! A reader that has seen enough and closes its end (`setara-node call help | head -2`) is no failure: what it does not
//! want is dropped, and the command does the rest of its work.

use std::io::{self, ErrorKind, Write};

/// Standard output.
pub fn stdout() -> Willing<io::Stdout> {
    Willing(io::stdout())
}

/// A writer whose reader may leave.
pub struct Willing<W>(W);

impl<W: Write> Write for Willing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        let mut left = Willing(Fails(ErrorKind::BrokenPipe));
        assert!(writeln!(left, "two\nlines").and_then(|()| left.flush()).is_ok());
        let mut full = Willing(Fails(ErrorKind::StorageFull));
        assert_eq!(writeln!(full, "x").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(full.flush().unwrap_err().kind(), ErrorKind::StorageFull);
    }

    /// The same through a real pipe whose reader is gone.
    #[test]
    fn a_pipe_without_a_reader_takes_everything() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut out = Willing(writer);
        assert!((0..1_000).all(|_| out.write_all(&[0; 4_096]).is_ok()));
        assert!(out.flush().is_ok());
    }
}
