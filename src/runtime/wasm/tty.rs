//! What a terminal driver does between a keyboard and a program, for guests with `tty: true`: it
//! gathers lines that can be corrected, echoes what is typed, and knows ^C and ^D.
//!
//! A guest has no way to switch it off, as a program on a host would (`tcsetattr`): it is always in
//! its first mode.

/// The longest line; as in a kernel, what is typed past it is not taken.
const LINE_BYTES_MAX: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const ERASE_WORD: u8 = 0x17;
const DELETE: u8 = 0x7f;

/// What comes of typing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the program.
    pub input: Vec<u8>,
    /// For the screen.
    pub echo: Vec<u8>,
    /// The program's input has ended.
    pub ended: bool,
    /// The program is to be interrupted.
    pub interrupted: bool,
}

/// The state of a line that is being typed.
#[derive(Debug, Default)]
pub struct LineDiscipline {
    line: Vec<u8>,
}

impl LineDiscipline {
    /// Takes what was typed.
    pub fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    typed.echo.push(b'\n');
                    typed.input.append(&mut self.line);
                    typed.input.push(b'\n');
                }
                &INTERRUPT => {
                    typed.echo.extend_from_slice(b"^C\n");
                    self.line.clear();
                    typed.interrupted = true;
                    return typed;
                }
                &END if self.line.is_empty() => {
                    typed.ended = true;
                    return typed;
                }
                &END => typed.input.append(&mut self.line),
                &(BACKSPACE | DELETE) => self.erase(&mut typed.echo),
                &KILL_LINE => {
                    while !self.line.is_empty() {
                        self.erase(&mut typed.echo);
                    }
                }
                &ERASE_WORD => self.erase_word(&mut typed.echo),
                byte if self.line.len() < LINE_BYTES_MAX => {
                    self.line.push(*byte);
                    match byte {
                        b'\t' | 0x20.. => typed.echo.push(*byte),
                        control => typed.echo.extend_from_slice(&[b'^', control + 0x40]),
                    }
                }
                _ => {}
            }
        }
        typed
    }

    /// Takes the last character back.
    fn erase(&mut self, echo: &mut Vec<u8>) {
        // The bytes behind the first of a character begin with 10.
        while let Some(byte) = self.line.pop() {
            if byte & 0xc0 != 0x80 {
                let columns = if byte < 0x20 && byte != b'\t' { 2 } else { 1 };
                (0..columns).for_each(|_| echo.extend_from_slice(b"\x08 \x08"));
                return;
            }
        }
    }

    fn erase_word(&mut self, echo: &mut Vec<u8>) {
        while self.line.last() == Some(&b' ') {
            self.erase(echo);
        }
        while self.line.last().is_some_and(|byte| *byte != b' ') {
            self.erase(echo);
        }
    }
}

/// Output as a terminal shows it: a new line begins at the left.
pub fn shown(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(keys: &str) -> Typed {
        LineDiscipline::default().take(keys.as_bytes())
    }

    #[test]
    fn lines_arrive_once_they_are_finished_and_as_corrected() {
        let mut discipline = LineDiscipline::default();
        assert_eq!(discipline.take(b"lx\x7fs").input, b"");
        let end = discipline.take(b" -l\r");
        assert_eq!((end.input.as_slice(), end.echo.as_slice()), (&b"ls -l\n"[..], &b" -l\n"[..]));
        assert_eq!(typed("wrong\x15right\n").input, b"right\n");
        assert_eq!(typed("echo one two\x17\n").input, b"echo one \n");
        assert_eq!(typed("gr\u{fc}\x7f\n").input, b"gr\n");
    }

    #[test]
    fn the_keys_that_end_things_do() {
        assert!(typed("\x04").ended);
        let flushed = typed("half\x04");
        assert_eq!((flushed.ended, flushed.input.as_slice()), (false, &b"half"[..]));
        let stopped = typed("lost\x03never read");
        assert!(stopped.interrupted && stopped.input.is_empty());
        assert_eq!(stopped.echo, b"lost^C\n");
    }

    #[test]
    fn output_begins_its_lines_at_the_left() {
        assert_eq!(shown(b"a\nb\n"), b"a\r\nb\r\n");
    }

    proptest! {
        #[test]
        fn no_keys_make_it_panic_or_grow(
            keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            let mut discipline = LineDiscipline::default();
            for some in keys {
                discipline.take(&some);
                prop_assert!(discipline.line.len() <= LINE_BYTES_MAX);
            }
        }
    }
}
