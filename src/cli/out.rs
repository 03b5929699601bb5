//! Where a verb prints: two writers, so that tests can read what was printed.
//!
//! **Invariant:** every write answers a [`Failure`]; a reader that went away (`| head`) becomes
//! [`Failure::OutputClosed`], which ends the verb quietly.

use std::io::{self, BufWriter, Write};

use super::failure::Failure;

/// The output and the error output of a verb, and whether something failed along the way.
pub struct Out {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    failed: bool,
}

impl Out {
    /// Writes to these two.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out, err, failed: false }
    }

    /// Writes to the process's own output.
    pub fn of_process() -> Self {
        Self::new(Box::new(BufWriter::new(io::stdout())), Box::new(io::stderr()))
    }

    /// Prints a line.
    ///
    /// # Errors
    /// The output is closed or cannot take more.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.raw(text.as_ref().as_bytes())?;
        self.raw(b"\n")
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    /// Prints a line beside the output.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn note(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.flush()?;
        Ok(writeln!(self.err, "{}", text.as_ref())?)
    }

    /// Tells of a failure that does not keep the verb from going on; the exit code will be 1.
    ///
    /// # Errors
    /// The failure itself, where going on makes no sense.
    pub fn fail(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::OutputClosed | Failure::Connection(_) | Failure::Usage(_) => Err(failure),
            failure => {
                self.failed = true;
                self.note(failure.to_string())
            }
        }
    }

    /// Whether [`Self::fail`] was told of something.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Everything printed so far is out: after each event of a watch, and at the end.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
pub mod testing {
    //! An output that tests can read.

    use std::io::{self, Write};
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::Out;

    /// What was printed.
    #[derive(Debug, Clone, Default)]
    pub struct Printed(Arc<Mutex<Vec<u8>>>);

    impl Printed {
        /// As text.
        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock()).into_owned()
        }
    }

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An [`Out`] and what it prints on its output and beside it.
    pub fn out() -> (Out, Printed, Printed) {
        let (out, err) = (Printed::default(), Printed::default());
        (Out::new(Box::new(out.clone()), Box::new(err.clone())), out, err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_output_ends_quietly() {
        let mut out = Out::new(Box::new(Closed), Box::new(Closed));
        let failure = out.line("x").expect_err("the output is closed");
        assert_eq!(failure.exit_code(), 0);
    }

    #[test]
    fn failures_are_told_beside_the_output_and_remembered() {
        let (mut out, printed, told) = testing::out();
        out.line("a").expect("memory takes all");
        out.fail(Failure::other("b")).expect("it goes on");
        assert!(out.failed());
        assert_eq!((printed.text().as_str(), told.text().as_str()), ("a\n", "error: b\n"));
    }
}
